"""A run's data: its sources, their absolute paths, and whether they have changed."""

from __future__ import annotations

import hashlib
import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from clipjax import atomic_files, config_parts
from clipjax.config_parts import labels
from clipjax.data import mixture_spec
from clipjax.engine import assemble
from clipjax.types import BadExample, Config, Source, UserError

FILE = "data.json"  # in a run's folder: the fingerprint per source, by section
SAMPLES = 16  # examples whose keys and captions a fingerprint covers


def eval_source(
    config: Config, val_loss: bool, flag: str = "--config.data.eval."
) -> Source | None:
    """The source of `data.eval`, None if neither evaluators nor loss need it.

    Raises UserError if it has no captions and the validation loss needs them.
    """
    if not val_loss and not config_parts.with_shared_data(config):
        return None
    section = config.data.eval
    shared = assemble.source(section, flag)
    if val_loss and "text" in config.model and shared.max_captions == 0:
        raise UserError(
            f"data.eval ({section.name}, split {section.split!r}) has no captions, "
            "which the validation loss needs: choose other data, or do without it by "
            "--config.train.val_batches=0"
        )
    return shared


def own_sources(
    config: Config, shared: Source | None, flag: str = "--config."
) -> dict[str, Source]:
    """Label -> source for the evaluators with a `data` section.

    Equal sections share one source, so that it is encoded once. shared: the source of
    `data.eval`, None without one.
    """
    sources = {} if shared is None else {_section(config, "data.eval"): shared}
    own = {}
    for label in labels(config.evals, "evals"):
        if "data" in config.evals[label]:
            section = _section(config, path := f"evals.{label}.data")
            if section not in sources:
                sources[section] = assemble.source(
                    config.evals[label].data, f"{flag}{path}."
                )
            own[label] = sources[section]
    return own


def resolve(config: Config) -> Config:
    """The config with absolute paths of its data, as a run saves it.

    A relative path would name other data, or none, from another folder.
    """
    absolute = config.copy_and_resolve_references()
    with absolute.unlocked():
        for family, section, _ in config_parts.sections(absolute):
            for key in ("templates_file", "class_names_file"):
                if family == "evals" and section.get(key):
                    section[key] = mixture_spec.absolute(section[key])
            if family != "data":
                continue
            for key in mixture_spec.PATHS:
                if isinstance(section.get(key), str):
                    section[key] = mixture_spec.absolute(section[key])
            if section.name == "mixture":
                section.parts = mixture_spec.absolute_parts(section.parts)
    return absolute.lock()


def describe_source(section: Config, source: Source) -> dict[str, Any]:
    """A source as JSON values: its name, split, options and fingerprint."""
    options = section.to_dict()
    return {
        "name": options.pop("name"),
        "split": options.pop("split"),
        "options": options,
        "fingerprint": fingerprint(source),
    }


def fingerprint(source: Source) -> dict[str, Any]:
    """Values that differ between sources and cost little; "" if a value is unknown.

    The counts cover all examples. The digests of names and captions cover a few,
    evenly spaced, so that nothing large is read.
    """
    counts = np.asarray(source.caption_counts, "<i4")
    few = np.unique(np.linspace(0, len(source) - 1, SAMPLES).astype(int)).tolist()
    return {
        "examples": len(source),
        "captions": int(counts.sum()),
        "caption counts": _digest(counts.tobytes()),
        "classes": _digest({k: list(v) for k, v in source.class_names.items()}),
        "names": _sampled(getattr(source, "key_of", None), few),
        "texts": _sampled(getattr(source, "captions_of", None), few),
    }


def fingerprints(
    config: Config, train: Source, shared: Source | None, own: Mapping[str, Source]
) -> dict[str, dict[str, Any]]:
    """The fingerprint per source of a run, by section."""
    values = {"data.train": fingerprint(train), **eval_fingerprints(shared, own)}
    return {
        path: {"of": _section(config, path), **value} for path, value in values.items()
    }


def eval_fingerprints(
    shared: Source | None, own: Mapping[str, Source]
) -> dict[str, dict[str, Any]]:
    """The fingerprint per source of an evaluation, by section."""
    values = {} if shared is None else {"data.eval": fingerprint(shared)}
    return values | {
        f"evals.{label}.data": fingerprint(source) for label, source in own.items()
    }


def save(values: Mapping[str, Any], workdir: pathlib.Path) -> None:
    """Saves fingerprints with the run."""
    atomic_files.write_json(workdir / FILE, dict(values))


def read_saved(workdir: pathlib.Path) -> dict[str, Any]:
    """The fingerprints saved with a run; {} if an older version saved it."""
    path = workdir / FILE
    return assemble.read_json(path) if path.exists() else {}


def check_training(
    workdir: pathlib.Path, current: Mapping[str, Any], say: Callable[[str], None]
) -> None:
    """Compares a resumed run's data with the data that it was trained on.

    Raises UserError if the training data differ. If evaluation data differ although the
    config names the same, `say` gets a line.
    """
    before = read_saved(workdir)
    for path, now in current.items():
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


def check_evaluation(workdir: pathlib.Path, current: Mapping[str, Any]) -> None:
    """Raises UserError if data on which a run was evaluated have changed."""
    before = read_saved(workdir)
    for path, now in current.items():
        if change := changes(before.get(path, {}), now):
            how = "--data=NAME --data.path=FOLDER"
            if path != "data.eval":
                how = "--config FILE.py with evaluators and data of your choice"
            raise UserError(
                f"{workdir}: {path} holds other data than in the run ({change}): put "
                f"those back, or choose the data of this evaluation by {how}"
            )


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """The differences of two fingerprints as text; "" if there are none."""
    texts = []
    for key, new in now.items():
        old = before.get(key, "")
        if key == "of" or "" in (old, new) or old == new:
            continue
        if key in ("examples", "captions"):
            texts.append(f"{old} {key} -> {new}")
        else:
            texts.append(f"other {key}")
    return ", ".join(texts)


def _section(config: Config, path: str) -> str:
    """A section as JSON, which shows whether the config names the same data."""
    section = config_parts.section_at(config, path)
    return json.dumps(section.to_dict(), sort_keys=True)


def _digest(value: Any) -> str:
    if not isinstance(value, bytes):
        value = json.dumps(value, sort_keys=True).encode()
    return hashlib.sha256(value).hexdigest()[:16]


def _sampled(read: Callable[[int], Any] | None, few: list[int]) -> str:
    """The digest of values read from a few examples; "" if one cannot be read."""
    if read is None:
        return ""
    try:
        values = [read(index) for index in few]
        return _digest([x if isinstance(x, str) else list(x) for x in values])
    except (BadExample, OSError):
        return ""
