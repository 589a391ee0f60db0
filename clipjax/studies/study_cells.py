"""The cells of a study: their names, and the configs of their runs."""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
import shlex
from collections.abc import Mapping
from typing import Any

from clipjax import commandline, config_addresses, config_check, paths, registry
from clipjax.config_parts import labels
from clipjax.engine.starts import Start
from clipjax.studies.study_file import Study
from clipjax.studies.tuning_space import Choices, Range
from clipjax.types import Config, UserError

_LENGTH = ("train.steps", "train.epochs")


@dataclasses.dataclass(frozen=True)
class Cell:
    """A combination of the axes' values.

    name: "loss=clip, optim=adamw". folder: "clip-adamw". values: of the axes, as text.
    changes: words and dotted keys, with those of all cells. config: of a run without
    tuning, with seed 0. space: of its tuned keys.
    """

    name: str
    folder: str
    values: Mapping[str, str]
    changes: Mapping[str, Any]
    config: Config
    space: Mapping[str, Choices | Range] = dataclasses.field(default_factory=dict)


def make(study: Study) -> list[Cell]:
    """All cells, whose configs are checked.

    Raises UserError for an axis that is no key or component, a value that the config
    cannot have, and a metric of an evaluator that is not there.
    """
    named = [_named_values(name, axis) for name, axis in study.axes.items()]
    cells: list[Cell] = []
    for chosen in itertools.product(*named):
        values = dict(zip(study.axes, (name for name, _ in chosen), strict=True))
        changes = dict(study.options)
        for _, more in chosen:
            changes.update(more)
        name = ", ".join(f"{axis}={value}" for axis, value in values.items())
        config = _config(study, changes, name)
        folder = _folder("-".join(values.values()), [cell.folder for cell in cells])
        space = _space(study, config, name)
        cells.append(Cell(name, folder, values, changes, config, space))
    if len({cell.name for cell in cells}) < len(cells):
        raise UserError("axes: two cells have one name: name their values otherwise")
    if study.control and study.control not in [cell.name for cell in cells]:
        near = registry.suggest(study.control, [cell.name for cell in cells])
        raise UserError(f"control={study.control!r} is no cell.{near}")
    if study.screen and study.screen.keep >= len(cells):
        raise UserError(
            f"screen.keep={study.screen.keep}: there are {len(cells)} cells in all"
        )
    return cells


def run_config(
    study: Study,
    cell: Cell,
    seed: int,
    tuned: Mapping[str, Any] | None = None,
    length: float = 1.0,
) -> Config:
    """The config of a run of a cell.

    tuned: key -> value, or a factor of the cell's own. length: as a part of a run.
    """
    config = _config(study, {**cell.changes, **settings(cell, tuned or {})}, cell.name)
    _set(config, "seed", seed)
    if length < 1:
        steps = config.train.steps
        _set(config, "train.steps", max(1, round(steps * length)) if steps else 0)
        _set(config, "train.epochs", config.train.epochs * length)
    return config


def settings(cell: Cell, tuned: Mapping[str, Any]) -> dict[str, Any]:
    """Tuned values as a config has them, of values that may be factors."""
    flat = config_check.flat(cell.config)
    found = {}
    for key, value in tuned.items():
        if cell.space[key].relative:
            whole = isinstance(flat[key], int)
            value = value * flat[key]
            value = max(1, round(value)) if whole else float(f"{value:.6g}")
        found[key] = value
    return found


def start(study: Study, cell: Cell, config: Config, folder: str) -> Start:
    """The command of `train` that makes the same run."""
    file, words = commandline.split_value(study.config)
    given = [words, *(f"{k}={x}" for k, x in cell.changes.items() if not _is_key(k))]
    value = ":".join(filter(None, (file, ",".join(filter(None, given)))))
    before = config_check.flat(commandline.load_file(value))
    changed = config_check.changes(before, config)
    flags = [f"--config.{key}={_text(new)}" for key, (_, new) in changed.items()]
    command = shlex.join(["--config", value, *flags, "--workdir", folder])
    return Start(f"python -m clipjax.train {command}", value, changed)


def _text(value: Any) -> str:
    if isinstance(value, list):
        return repr(_tuples(value))
    return str(value)


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _named_values(name: str, axis: Any) -> list[tuple[str, Mapping[str, Any]]]:
    if isinstance(axis, Mapping):
        return [(str(value), changes) for value, changes in axis.items()]
    return [(_short(value), {name: value}) for value in axis]


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _folder(text: str, taken: list[str]) -> str:
    plain = re.sub(r"[^\w.@+-]+|^\.", "_", text)[:60] or "cell"
    found, number = plain, 1
    while found in taken:
        number += 1
        found = f"{plain}-{number}"
    return found


def _is_key(name: str) -> bool:
    return "." in name or name == "seed" or name.startswith("init_")


def _config(study: Study, changes: Mapping[str, Any], name: str) -> Config:
    """The config with these words and keys, checked."""
    words = {k: x for k, x in changes.items() if not _is_key(k)}
    for word, value in words.items():
        if not isinstance(value, str):
            raise UserError(
                f"{name}: {word}={value!r} chooses no component: give its name, or "
                "write the key with its section, such as optim.lr"
            )
    file, argument = commandline.split_value(study.config)
    paths.expand(file)
    given = [argument, *(f"{word}={value}" for word, value in words.items())]
    config = commandline.load_file(f"{file}:{','.join(filter(None, given))}")
    try:
        for key, value in changes.items():
            if _is_key(key):
                _set(config, key, value)
        for key, value in (("steps", study.steps), ("epochs", study.epochs)):
            if value is not None:
                for other in _LENGTH:
                    _set(config, other, 0)
                _set(config, f"train.{key}", value)
        _check_metric(study, config)
        if not config.checkpoint.best:
            config.checkpoint.best = study.metric
        config_check.validate(config)
    except UserError as error:
        raise UserError(f"{name}: {error}") from error
    return config


def _check_metric(study: Study, config: Config) -> None:
    known = labels(config.evals, "evals")
    if study.metric == "val_loss" and config.train.val_batches:
        return
    label, slash, _ = study.metric.partition("/")
    if not slash or label not in known:
        given = [f"{name}/METRIC" for name in known]
        given += ["val_loss"] if config.train.val_batches else []
        raise UserError(
            f"metric={study.metric!r}: no evaluator gives it: use {' or '.join(given)}"
        )


def _set(config: Config, key: str, value: Any) -> None:
    """Sets a dotted key; raises UserError if there is none, or for a wrong type."""
    commandline.check_key(key, config_check.flat(config), flag="")
    *sections, last = key.split(".")
    section: Any = config
    for part in sections:
        section = section[part]
    value = tuple(value) if isinstance(value, list) else value
    try:
        if isinstance(section[last], float) and isinstance(value, int):
            value = float(value)
        section[last] = value
    except TypeError as error:
        kind = type(section[last]).__name__
        raise UserError(f"{key}={value!r}: must be of type {kind}") from error


def _space(study: Study, config: Config, name: str) -> dict[str, Choices | Range]:
    """The tuned keys of a cell."""
    if study.tuning is None:
        return {}
    flat = config_check.flat(config)
    found: dict[str, Choices | Range] = {}
    for key, of in study.tuning.space.items():
        if not isinstance(of, Mapping):
            found[key] = of
            continue
        section, _, component = key.partition("=")
        section = config_addresses.SECTIONS.get(section, section)
        if f"{section}.name" not in flat:
            raise UserError(
                f"tuning.space: {key!r} names no component: write it as optim=sgd"
            )
        if flat[f"{section}.name"] == component:
            found.update(of)
    for key, of in found.items():
        try:
            commandline.check_key(key, flat, flag="")
        except UserError as error:
            raise UserError(f"{name}: tuning.space: {error}") from error
        number = isinstance(flat[key], int | float) and not isinstance(flat[key], bool)
        if (isinstance(of, Range) or of.relative) and not number:
            raise UserError(f"tuning.space: {key}={flat[key]!r} is no number")
    if not found:
        raise UserError(f"{name}: tuning.space has no key of this cell")
    return found


def trial_count(study: Study, cell: Cell) -> int:
    """The trials of a cell, as many as of every other: see `check_budgets`."""
    assert study.tuning is not None
    if study.tuning.method != "grid":
        return study.tuning.trials
    return math.prod(
        len(of.values) for of in cell.space.values() if isinstance(of, Choices)
    )


def check_budgets(study: Study, cells: list[Cell]) -> None:
    """Raises UserError unless all cells are tuned with as many trials."""
    if study.tuning is None:
        return
    counts = {cell.name: trial_count(study, cell) for cell in cells}
    most, least = (of(counts, key=lambda name: counts[name]) for of in (max, min))
    if counts[most] != counts[least]:
        raise UserError(
            f"tuning.space: {most} has {counts[most]} combinations and {least} "
            f"{counts[least]}: give every cell as many"
        )
