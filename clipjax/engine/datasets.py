"""The data of a run: its sources, where they lie, and whether they are the same."""

from __future__ import annotations

import hashlib
import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from clipjax import atomic_files, config_parts
from clipjax.config import create
from clipjax.config_parts import labels
from clipjax.data import mixture_spec
from clipjax.data.storage import local
from clipjax.engine.assemble import read_json
from clipjax.types import BadExample, Config, Source, UserError

FILE = "data.json"  # in a run's folder: the fingerprint of each source, by its section
SAMPLES = 16  # examples whose names and captions go into a fingerprint


def source(section: Mapping[str, Any], flag: str) -> Source:
    """The source of a `data.train`, `data.eval` or `evals.LABEL.data` section.

    flag: what its options' flags begin with on this command line, for messages.

    Raises UserError if data is missing or empty.
    """
    with local.set_by_flags(flag):
        made = create("data", section, section["split"])
    if len(made) == 0:
        raise UserError(
            f"data={section['name']}, split={section['split']!r}: the source is empty"
        )
    return made


def eval_source(
    config: Config, val_loss: bool, flag: str = "--config.data.eval."
) -> Source | None:
    """The source of `data.eval`, None if nothing needs it.

    Raises UserError if the validation loss of a model with text needs captions and
    it has none.
    """
    evals = labels(config.evals, "evals")
    if not val_loss and all("data" in config.evals[label] for label in evals):
        return None
    section = config.data.eval
    made = source(section, flag)
    if val_loss and "text" in config.model and made.max_captions == 0:
        raise UserError(
            f"data.eval ({section.name}, split {section.split!r}) has no captions, "
            "which the validation loss needs: choose other data, or do without it by "
            "--config.train.val_batches=0"
        )
    return made


def own_sources(
    config: Config, shared: Source | None, flag: str = "--config."
) -> dict[str, Source]:
    """Label -> source of the evaluators that have data of their own.

    Equal sections have one source, so that it is encoded once; shared: that of
    `data.eval`.
    """
    made = {} if shared is None else {_words(config, "data.eval"): shared}
    own = {}
    for label in labels(config.evals, "evals"):
        if "data" in config.evals[label]:
            words = _words(config, path := f"evals.{label}.data")
            if words not in made:
                made[words] = source(config.evals[label].data, f"{flag}{path}.")
            own[label] = made[words]
    return own


def resolved(config: Config) -> Config:
    """The config with the places of its data absolute, as a run keeps it.

    From another folder a relative one would name other data, or none.
    """
    found = config.copy_and_resolve_references()
    with found.unlocked():
        for family, section, _ in config_parts.sections(found):
            if family != "data":
                continue
            for key in mixture_spec.PATHS:
                if isinstance(section.get(key), str):
                    section[key] = mixture_spec.absolute(section[key])
            if section.name == "mixture":
                section.parts = mixture_spec.absolute_parts(section.parts)
    return found.lock()


def fingerprint(made: Source) -> dict[str, Any]:
    """What tells a source from another at little cost; "" if it cannot say.

    The counts are of all examples; the digests of names and captions are of a few,
    evenly spaced, so that nothing large is read.
    """
    counts = np.asarray(made.caption_counts, "<i4")
    few = np.unique(np.linspace(0, len(made) - 1, SAMPLES).astype(int)).tolist()
    return {
        "examples": len(made),
        "captions": int(counts.sum()),
        "caption counts": _digest(counts.tobytes()),
        "classes": _digest({k: list(v) for k, v in made.class_names.items()}),
        "names": _sampled(getattr(made, "key_of", None), few),
        "texts": _sampled(getattr(made, "captions_of", None), few),
    }


def fingerprints(
    config: Config, train: Source, shared: Source | None, own: Mapping[str, Source]
) -> dict[str, dict[str, Any]]:
    """The fingerprint of each source of a run, by its section."""
    found = {"data.train": fingerprint(train), **eval_fingerprints(shared, own)}
    return {path: {"of": _words(config, path), **one} for path, one in found.items()}


def eval_fingerprints(
    shared: Source | None, own: Mapping[str, Source]
) -> dict[str, dict[str, Any]]:
    """The same of the sources that an evaluation reads."""
    found = {} if shared is None else {"data.eval": fingerprint(shared)}
    return found | {
        f"evals.{label}.data": fingerprint(made) for label, made in own.items()
    }


def save(found: Mapping[str, Any], workdir: pathlib.Path) -> None:
    """Keeps the fingerprints with the run."""
    atomic_files.write_json(workdir / FILE, dict(found))


def saved(workdir: pathlib.Path) -> dict[str, Any]:
    """Those kept with a run; none if an older version saved it."""
    path = workdir / FILE
    return read_json(path) if path.exists() else {}


def check_training(
    workdir: pathlib.Path, found: Mapping[str, Any], say: Callable[[str], None]
) -> None:
    """Compares the data of a run that goes on with what it was trained on.

    Raises UserError if the training data differ; evaluation data may, and are said
    to, unless the config names others.
    """
    before = saved(workdir)
    for path, now in found.items():
        change = changes(before.get(path, {}), now)
        if not change:
            continue
        if path == "data.train":
            raise UserError(
                f"{workdir}: {path} holds other data than the run was trained on "
                f"({change}): give the same data to resume it, or another --workdir"
            )
        if before[path].get("of") == now["of"]:
            say(
                f"{path} holds other data than before ({change}): numbers from now on "
                "are not comparable with the earlier ones"
            )


def check_evaluation(workdir: pathlib.Path, found: Mapping[str, Any]) -> None:
    """Raises UserError if data that a run was evaluated on have changed."""
    before = saved(workdir)
    for path, now in found.items():
        if change := changes(before.get(path, {}), now):
            how = "--data=NAME --data.path=FOLDER"
            if path != "data.eval":
                how = "--config FILE.py with evaluators and data of your choice"
            raise UserError(
                f"{workdir}: {path} holds other data than in the run ({change}): put "
                f"those back, or choose the data of this evaluation by {how}"
            )


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What differs of two fingerprints, in words; "" if nothing does."""
    found = []
    for key, new in now.items():
        old = before.get(key, "")
        if key == "of" or "" in (old, new) or old == new:
            continue
        if key in ("examples", "captions"):
            found.append(f"{old} {key} -> {new}")
        else:
            found.append(f"other {key}")
    return ", ".join(found)


def _words(config: Config, path: str) -> str:
    """A section in words, by which it is known to be the same as before."""
    section: Any = config
    for name in path.split("."):
        section = section[name]
    return json.dumps(section.to_dict(), sort_keys=True)


def _digest(value: Any) -> str:
    if not isinstance(value, bytes):
        value = json.dumps(value, sort_keys=True).encode()
    return hashlib.sha256(value).hexdigest()[:16]


def _sampled(read: Callable[[int], Any] | None, few: list[int]) -> str:
    """The digest of what is read of a few examples; "" if one cannot be read."""
    if read is None:
        return ""
    try:
        found = [read(index) for index in few]
        return _digest([x if isinstance(x, str) else list(x) for x in found])
    except (BadExample, OSError):
        return ""
