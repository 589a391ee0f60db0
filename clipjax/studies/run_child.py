"""A run of a study in a process of its own, as the study's process sees it.

A process per run: what it takes of memory comes back, and one that crashes, diverges or
is killed for its memory ends no other.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from clipjax import config_check, results
from clipjax.engine.starts import Start
from clipjax.run_record import status
from clipjax.run_record.metric_log import MetricLog
from clipjax.studies.study_cells import Cell
from clipjax.studies.study_file import Study
from clipjax.types import Config, UserError

OUTPUT = "output.txt"  # in the run's folder: what it printed
CURVE = 60  # points of a curve that are kept
_LONGEST = 500  # characters of an error
_LOOK = 0.5  # seconds between looks at a run
_PATIENCE = 600.0  # seconds that a run may take to save and stop

# Called now and then with the new values of the metric, step -> value; True stops.
Watch = Callable[[Mapping[int, float]], bool]


class Stopped(Exception):
    """A signal of this number from outside stopped the run, which has saved."""

    def __init__(self, number: int):
        super().__init__(signal.Signals(number).name)
        self.number = number


@dataclasses.dataclass(frozen=True)
class Came:
    """What a run came to.

    value: the metric's at its end. facts: as of study_jobs.Record. stopped: whether
    Watch stopped it; value is then the last one.
    """

    value: float
    facts: dict[str, Any]
    stopped: bool = False


def run(
    study: Study, config: Config, folder: pathlib.Path, start: Start, watch: Watch
) -> Came:
    """Trains a config in a folder, or goes on there.

    Raises UserError with its error if it fails, Stopped if something else stopped it,
    and KeyboardInterrupt as preempt.interrupt_by_signals does, after it has stopped.
    """
    _wait_for_earlier(folder)
    folder.mkdir(parents=True, exist_ok=True)
    spec = {
        "config": config_check.to_dict(config),
        "workdir": str(folder),
        "start": dataclasses.asdict(start),
    }
    log, told, stopped = MetricLog(folder), 0, False
    begin = time.monotonic()
    with (folder / OUTPUT).open("ab") as output, _child(spec, output) as child:
        while child.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(_LOOK)
            log.update()
            steps, _, values = log.series(f"eval/{study.metric}")
            new = dict(zip(steps[told:].tolist(), values[told:].tolist(), strict=True))
            told = len(steps)
            if not stopped and watch(new) and child.poll() is None:
                stopped = True
                child.terminate()
    wall = time.monotonic() - begin
    _check_end(child.returncode, folder, stopped)
    log.update()
    return _came(study, folder, log, wall, stopped)


def check(study: Study, cells: Sequence[Cell]) -> dict[str, int]:
    """The steps of each cell's run, by its name, after all of their parts were made.

    Raises UserError for what a run would refuse.
    """
    with tempfile.TemporaryDirectory() as name:
        answer, output = pathlib.Path(name, "steps.json"), pathlib.Path(name, OUTPUT)
        configs = [
            {"name": cell.name, "config": config_check.to_dict(cell.config)}
            for cell in cells
        ]
        spec = {"check": configs, "metric": study.metric, "answer": str(answer)}
        with output.open("wb") as file, _child(spec, file) as child:
            child.wait()
        if child.returncode:
            raise UserError(_last_line(output, child.returncode))
        return json.loads(answer.read_text())


@contextlib.contextmanager
def _child(spec: Mapping[str, Any], output: Any) -> Iterator[subprocess.Popen]:
    """Starts run_process, which ends with the block: as at SIGTERM if it has not."""
    child = subprocess.Popen(
        [sys.executable, "-m", "clipjax.studies.run_process"],
        stdin=subprocess.PIPE,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # a terminal's Ctrl-C reaches the study alone
    )
    assert child.stdin is not None
    try:
        with contextlib.suppress(BrokenPipeError):
            child.stdin.write(json.dumps(spec).encode() + b"\n")
            child.stdin.flush()
        yield child
    finally:
        if child.poll() is None:
            child.terminate()
            try:
                child.wait(_PATIENCE)
            except BaseException:  # a second interrupt, or it hangs
                child.kill()
                child.wait()
                raise
        with contextlib.suppress(BrokenPipeError):
            child.stdin.close()


def _wait_for_earlier(folder: pathlib.Path) -> None:
    """Waits for a run there whose study's process was killed, and which is saving."""
    while True:
        try:
            found = status.read(folder)
        except UserError:
            return
        if found is None or found.condition().over:
            return
        time.sleep(_LOOK)


def _check_end(code: int, folder: pathlib.Path, stopped: bool) -> None:
    if not code or (stopped and code in (-signal.SIGTERM, 128 + signal.SIGTERM)):
        return
    number = -code if code < 0 else code - 128
    if number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        raise Stopped(number)
    raise UserError(_last_line(folder / OUTPUT, code))


def _last_line(output: pathlib.Path, code: int) -> str:
    """Why a process ended, by what it printed last."""
    if code < 0:
        why = " for its memory, most often" if code == -signal.SIGKILL else ""
        return f"its process was ended by {signal.Signals(-code).name}{why}"
    lines = output.read_text(errors="replace").strip().splitlines()
    line = lines[-1] if lines else f"its process ended with status {code}"
    return line.removeprefix("error: ")[:_LONGEST]


def _came(
    study: Study, folder: pathlib.Path, log: MetricLog, wall: float, stopped: bool
) -> Came:
    name = f"eval/{study.metric}"
    value = log.last(name)
    metrics = {
        x.removeprefix("eval/"): _number(log.last(x))
        for x in log.names()
        if x.startswith("eval/")
    }
    if value is None and not stopped:
        raise UserError(
            f"metric={study.metric!r}: no evaluator gave it: use one of "
            f"{', '.join(metrics) or 'none, for the config evaluates nothing'}"
        )
    facts = {
        "metrics": metrics,
        "curve": _curve(log, name),
        "loss": _curve(log, "train/loss"),
        "steps": log.last_step() or 0,
        "seconds": round(log.seconds(), 2),
        "wall": round(wall, 2),
        "unit": "",
        "host": os.uname().nodename,
    }
    label, _, metric = study.metric.partition("/")
    for place in results.folders(folder)[-1:]:
        found = results.read(place).results
        if label in found and metric in found[label].metrics:
            one = found[label].metrics[metric]
            facts["unit"] = one.unit
            if one.higher_is_better != study.higher_is_better:
                better = "more" if one.higher_is_better else "less"
                raise UserError(
                    f"metric={study.metric!r}: {better} is better of it: give the "
                    f"study mode={one.mode!r}"
                )
    return Came(math.nan if value is None else value, facts, stopped)


def _curve(log: MetricLog, name: str) -> list[list[float | None]]:
    """[steps, values] of at most CURVE points, the last one among them."""
    steps, _, values = log.series(name)
    if not len(steps):
        return [[], []]
    at = np.unique(np.linspace(0, len(steps) - 1, CURVE).round().astype(int))
    return [steps[at].tolist(), [_number(x) for x in values[at]]]


def _number(value: float | None) -> float | None:
    """With six digits, as JSON has it; None if it is not finite."""
    if value is None or not math.isfinite(value):
        return None
    return float(f"{value:.6g}")
