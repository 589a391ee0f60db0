"""What a run's folder holds, as far as it can be read; what cannot is named."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from clipjax import atomic_files, paths, results
from clipjax.engine.checkpoint.step_folder import BROKEN, Store
from clipjax.results import Evaluation
from clipjax.run_record import metric_log, status
from clipjax.types import EvalResult, UserError

OWN = ("config.json", "metrics.jsonl", "checkpoints", "status.json", results.FOLDER)


@dataclasses.dataclass(frozen=True)
class Save:
    """A saved step.

    metrics: of the evaluation at that step. arrays: (path, dtype, shape) of each array
    of the state. size: bytes. damage: "" or what is wrong with its files. best: whether
    it is the best one.
    """

    step: int
    metrics: dict[str, float]
    arrays: list[tuple[tuple[str, ...], str, tuple[int, ...]]]
    size: int
    damage: str
    best: bool


@dataclasses.dataclass
class RunFiles:
    """A run's files.

    name: as the page calls it. config, environment, program, data: of its JSON files;
    {} if one is missing or damaged. starts: the commands that started and resumed it.
    evaluations: with the one of its own data that is newest first. gaps: a sentence
    for each missing or damaged part.
    """

    folder: pathlib.Path
    name: str
    log: metric_log.MetricLog
    config: dict[str, Any] = dataclasses.field(default_factory=dict)
    environment: dict[str, Any] = dataclasses.field(default_factory=dict)
    program: dict[str, Any] = dataclasses.field(default_factory=dict)
    data: dict[str, Any] = dataclasses.field(default_factory=dict)
    starts: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    status: status.Status | None = None
    evaluations: list[Evaluation] = dataclasses.field(default_factory=list)
    saves: list[Save] = dataclasses.field(default_factory=list)
    gaps: list[str] = dataclasses.field(default_factory=list)

    @property
    def results(self) -> Mapping[str, EvalResult]:
        """Of its first evaluation, by evaluator; {} without one."""
        return self.evaluations[0].results if self.evaluations else {}

    def series(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """A metric's steps and values, in the order of steps."""
        steps, _, values = self.log.series(name)
        return steps, values

    def finite(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """As `series`, without the values that are not finite."""
        steps, values = self.series(name)
        known = np.isfinite(values)
        return steps[known], values[known]

    def last(self, name: str) -> float:
        """A metric's last value; NaN if there is none."""
        value = self.log.last(name)
        return math.nan if value is None else value

    @functools.cached_property
    def total_steps(self) -> int:
        """The steps that it was to make; 0 if unknown."""
        if self.status is not None and self.status.total_steps:
            return self.status.total_steps
        train = self.section("train")
        if steps := train.get("steps"):
            return int(steps)
        epochs, batch = train.get("epochs"), self.section("data").get("batch_size")
        size = self.data.get("data.train", {}).get("examples")
        if self.section("data").get("unit") == "pair":
            size = self.data.get("data.train", {}).get("captions")
        if epochs and batch and size:
            return math.ceil(epochs * size / batch - 1e-9)
        return 0

    def section(self, *keys: str) -> dict[str, Any]:
        """A section of the config; {} if there is none."""
        value: Any = self.config
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        return value if isinstance(value, dict) else {}

    @property
    def seconds(self) -> float:
        """From the first logged step to the last row, without the pauses of a stopped
        run; NaN if there are less than two rows."""
        return self.log.seconds()


class Reader:
    """Reads a run's folder again and again, as it grows."""

    def __init__(self, name: str):
        """Raises UserError if there is no such folder, or it is no run's."""
        self.folder = paths.local(name, "a run")
        if not self.folder.is_dir():
            raise UserError(f"{name}: there is no such folder: name a run")
        there = [x.name for x in self.folder.iterdir() if not x.name.startswith(".")]
        if there and not set(OWN) & set(there):
            raise UserError(
                f"{self.folder} is no run: it has none of {', '.join(OWN)}. Make one "
                "with python -m clipjax.train --config configs/quickstart.py"
            )
        self._log = metric_log.MetricLog(self.folder)

    def read(self) -> RunFiles:
        name = paths.readable(os.path.normpath(self.folder.name))
        run = RunFiles(self.folder, name, self._log)
        run.config = _json(run, "config.json", "what was trained is not known")
        run.environment = _json(run, "environment.json", "the machine is not known")
        run.data = _json(run, "data.json", "how many examples it has is not known")
        run.program = _json(run, "program.json", "FLOPs and activations are not known")
        if (self.folder / "starts.json").exists():
            found = _json(run, "starts.json", "the command is not known").get("starts")
            run.starts = [x for x in found or [] if isinstance(x, dict)]
        self._numbers(run)
        try:
            run.status = status.read(self.folder)
        except UserError as error:
            run.gaps.append(str(error))
        _evaluations(run)
        _saves(run)
        return run

    def _numbers(self, run: RunFiles) -> None:
        try:
            self._log.update()
        except OSError as error:
            run.gaps.append(atomic_files.describe_os_error(error))
        if not len(self._log):
            run.gaps.append("metrics.jsonl has no rows, so there are no curves.")
        elif not self._log.names():
            run.gaps.append("metrics.jsonl has no numbers, so there are no curves.")
        if self._log.broken:
            run.gaps.append(
                f"{self._log.broken:,} lines of metrics.jsonl cannot be read and are "
                "left out."
            )


def _json(run: RunFiles, file: str, without: str) -> dict[str, Any]:
    path = run.folder / file
    try:
        value = atomic_files.parse_json(path.read_text(encoding="utf-8"))
        if not isinstance(value, dict):
            raise ValueError("no JSON object")
        return value
    except FileNotFoundError:
        run.gaps.append(f"{file} is missing: {without}.")
    except (OSError, ValueError) as error:
        run.gaps.append(f"{file} is damaged ({error}): {without}.")
    return {}


def _evaluations(run: RunFiles) -> None:
    found = []
    for place in results.folders(run.folder):
        try:
            found.append(results.read(place))
        except UserError as error:
            run.gaps.append(str(error))
    own = set(results.own_folders(run.folder))
    first = [x for x in found if x.folder in own][-1:]
    run.evaluations = first + [x for x in reversed(found) if x not in first]
    if not found:
        run.gaps.append(
            "There is no evaluation with rows, so there are no intervals and no "
            f"examples: python -m clipjax.evaluate --workdir {paths.shell(run.folder)} "
            "makes one."
        )


def _saves(run: RunFiles) -> None:
    store = Store(run.folder, run.gaps.append)
    try:
        steps = store.steps()
        metric, mode = store.best_metric()
        best = store.best(metric, mode) if metric else {}
    except OSError as error:
        run.gaps.append(atomic_files.describe_os_error(error))
        return
    for step in steps:
        size, damage = _files(store, step)
        metrics = _item(store, step, "meta", lambda x: dict(x.get("metrics") or {}))
        arrays = _item(store, step, "layout", _arrays)
        if metrics is None or arrays is None:
            damage = damage or "cannot be read"
        if damage:
            run.gaps.append(f"The checkpoint of step {step} is damaged: {damage}.")
        run.saves.append(
            Save(step, metrics or {}, arrays or [], size, damage, best=step in best)
        )
    if not steps:
        run.gaps.append("There is no checkpoint, so the model itself is not shown.")


def _item(store: Store, step: int, name: str, convert: Callable[[Any], Any]) -> Any:
    try:
        return convert(store.item(step, name))
    except BROKEN:
        return None


def _arrays(layout: Any) -> list[tuple[tuple[str, ...], str, tuple[int, ...]]]:
    """The arrays that a step's layout lists as [path, "float32[128,64]"]."""
    found = []
    for path, kind in layout:
        dtype, _, shape = kind.rstrip("]").partition("[")
        sizes = tuple(int(size) for size in shape.split(",") if size)
        found.append((tuple(map(str, path)), dtype, sizes))
    return found


def _files(store: Store, step: int) -> tuple[int, str]:
    """A step's bytes, and what is wrong by its manifest's names and sizes; the hashes
    are compared when the step is restored."""
    folder = store.path(step)
    found = {
        path.relative_to(folder).as_posix(): path.stat().st_size
        for path in folder.rglob("*")
        if path.is_file()
    }
    total = sum(found.values())
    try:
        wanted = store.sizes(step)
    except FileNotFoundError:
        return total, "its manifest is missing"
    except BROKEN:
        return total, "its manifest cannot be read"
    for name, size in sorted(wanted.items()):
        if name not in found:
            return total, f"{name} is missing"
        if found[name] != size:
            return total, f"{name} has {found[name]:,} bytes instead of {size:,}"
    return total, ""


def short(value: Any) -> str:
    """A value of a config as text."""
    return json.dumps(value, ensure_ascii=False)
