"""The classes of a classifier: checked against the data, and kept with the run."""

from __future__ import annotations

import pathlib

from clipjax import whole
from clipjax.data.labels import find_label_set
from clipjax.engine.assemble import read_json
from clipjax.types import Config, Source, UserError

FILE = "classes.json"


def of_data(config: Config, source: Source) -> tuple[str, ...]:
    """The names of the classes a run learns; () for a model without classes.

    Raises UserError where the data have no such labels, several label sets of which
    none was chosen, or another number of classes than the model.
    """
    if "num_classes" not in config.model:
        return ()
    label_set = find_label_set(source, config.data.label_set)
    if label_set is None:
        known = ", ".join(source.class_names)
        fix = f"choose one of {known} by --config.data.label_set=" if known else ""
        raise UserError(
            f"model={config.model.name} needs labels, and the data has "
            f"{'several label sets' if known else 'none'}: "
            f"{fix or 'choose other data, such as data=imagefolder'}"
        )
    names = tuple(source.class_names[label_set])
    if len(names) != config.model.num_classes:
        raise UserError(
            f"model.num_classes={config.model.num_classes}: the data have {len(names)} "
            f"classes; set --config.model.num_classes={len(names)}"
        )
    return names


def check_validation(config: Config, names: tuple[str, ...], source: Source) -> None:
    """Raises UserError where the validation loss would mix classes up."""
    if not names:
        return
    label_set = find_label_set(source, config.data.label_set)
    if label_set is None or tuple(source.class_names[label_set]) != names:
        raise UserError(
            "data.eval has other classes than the training data, so that the "
            "validation loss means nothing: choose other data, or do without it by "
            "--config.train.val_batches=0"
        )


def save(names: tuple[str, ...], workdir: pathlib.Path) -> None:
    """Keeps the names with the run, where there are any."""
    if names:
        whole.write_json(workdir / FILE, {"names": list(names)})


def saved(config: Config, workdir: pathlib.Path) -> tuple[str, ...]:
    """The names kept with a run; () for a model without classes.

    Raises UserError where they are absent or damaged.
    """
    if "num_classes" not in config.model:
        return ()
    path = workdir / FILE
    if not path.exists():
        raise UserError(f"{path} is missing: without it the classes have no names")
    names = read_json(path).get("names")
    if not isinstance(names, list) or len(names) != config.model.num_classes:
        raise UserError(f"{path} is damaged: restore it")
    return tuple(str(name) for name in names)
