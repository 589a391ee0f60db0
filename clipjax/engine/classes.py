"""A classifier's classes: checked against the data, and saved with the run."""

from __future__ import annotations

import logging
import pathlib

from clipjax import atomic_files
from clipjax.data import class_lists
from clipjax.data.class_lists import Classes
from clipjax.engine.assemble import read_json
from clipjax.types import Config, Source, UserError

FILE = "classes.json"

logger = logging.getLogger(__name__)


def of_data(config: Config, source: Source) -> Classes:
    """The classes that a run learns; none for a model without classes.

    Logs a warning if classes share a name. Raises UserError if the data have no such
    labels, several label sets and none is chosen, or another number of classes than
    the model.
    """
    if "num_classes" not in config.model:
        return class_lists.NONE
    label_set = class_lists.find_label_set(source, config.data.label_set)
    if label_set is None:
        known = ", ".join(source.class_names)
        fix = f"choose one of {known} by --config.data.label_set=" if known else ""
        raise UserError(
            f"model={config.model.name} needs labels, and the data has "
            f"{'several label sets' if known else 'none'}: "
            f"{fix or 'choose other data, such as data=imagefolder'}"
        )
    learnt = class_lists.classes_of(source, label_set)
    if len(learnt) != config.model.num_classes:
        raise UserError(
            f"model.num_classes={config.model.num_classes}: the data have "
            f"{len(learnt)} classes; set --config.model.num_classes={len(learnt)}"
        )
    if shared := class_lists.shared_names(learnt.names):
        logger.warning(
            "the training data have %s: the model tells them apart by their numbers",
            class_lists.shared_words(shared),
        )
    return learnt


def check_validation(config: Config, learnt: Classes, source: Source) -> None:
    """Raises UserError if the validation loss would mix classes up."""
    if not learnt.names:
        return
    label_set = class_lists.find_label_set(source, config.data.label_set)
    if label_set is None or not class_lists.same(
        learnt, class_lists.classes_of(source, label_set)
    ):
        raise UserError(
            "data.eval has other classes than the training data, so that the "
            "validation loss means nothing: choose other data, or do without it by "
            "--config.train.val_batches=0"
        )


def check_kept(config: Config, learnt: Classes, workdir: pathlib.Path) -> None:
    """Raises UserError if a resumed run's classes differ, also if only in order."""
    if not learnt.names or not (workdir / FILE).exists():
        return
    if not class_lists.same(before := read_saved(config, workdir), learnt):
        pairs = zip(before.names, learnt.names, strict=True)
        other = [f"{old!r} is now {new!r}" for old, new in pairs if old != new]
        raise UserError(
            f"{workdir} has learnt other classes, or in another order, than the "
            f"training data have now ({other[0] if other else 'those of one name'}): "
            f"give it the data it was trained on, or another --workdir"
        )


def save(learnt: Classes, workdir: pathlib.Path) -> None:
    """Saves the classes with the run, if there are any."""
    if learnt.names:
        content = {"names": learnt.names, "ids": learnt.ids}
        atomic_files.write_json(workdir / FILE, content)


def read_saved(config: Config, workdir: pathlib.Path) -> Classes:
    """The classes saved with a run; none for a model without classes.

    Raises UserError if they are missing or damaged.
    """
    if "num_classes" not in config.model:
        return class_lists.NONE
    path = workdir / FILE
    if not path.exists():
        raise UserError(f"{path} is missing: without it the classes have no names")
    content = read_json(path)
    names, ids = content.get("names"), content.get("ids", [])
    if not (isinstance(names, list) and isinstance(ids, list)) or not (
        len(names) == config.model.num_classes and len(ids) in (0, len(names))
    ):
        raise UserError(f"{path} is damaged: restore it")
    return Classes(tuple(map(str, names)), tuple(map(str, ids)))
