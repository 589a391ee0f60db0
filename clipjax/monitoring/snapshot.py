"""What can be seen of a run from outside, at one moment. Files are only read."""

from __future__ import annotations

import dataclasses
import math
import os
import pathlib
import shutil
import time
from typing import Any

from clipjax import result_tables, results
from clipjax.run_record import status as statuses
from clipjax.run_record.metric_log import MetricLog
from clipjax.run_record.status import Condition, Status
from clipjax.types import UserError

# Conditions of a folder that says nothing of its process.
EMPTY, UNKNOWN, ABSENT = "empty", "unknown", "absent"
SAMPLE = 2000  # rows of a long run that are read at first
SHOWN = 5  # evaluations
BAD = (statuses.FAILED, statuses.DEAD, statuses.UNHEARD, ABSENT)
LOSS, RATE, WAIT = "train/loss", "time/images_per_second", "time/data_wait_share"
PRIMARY = "eval/primary"


@dataclasses.dataclass
class Snapshot:
    """A run at one moment.

    name: of its folder, as it was given.
    at: seconds since 1970.
    condition: as Status.condition, and "empty" (nothing is in it yet), "unknown" (it
      has no status.json that can be read) or "absent" (the folder is gone).
    status: what the run said last; None if it said nothing.
    log: its numbers.
    evaluations: the last ones, newest first: (name of the folder, step, a line per
      evaluator).
    disk_free: bytes; None if unknown.
    troubles: what is wrong, or will be soon, a line each.
    settled: False if the run is taken for dead by the clocks of two machines, which may
      differ.
    """

    name: str
    at: float
    condition: Condition
    status: Status | None
    log: MetricLog
    evaluations: list[tuple[str, int, list[str]]]
    disk_free: int | None
    troubles: list[str]
    settled: bool = True

    @property
    def step(self) -> int:
        return self.status.step if self.status else self.log.last_step() or 0

    @property
    def total_steps(self) -> int:
        return self.status.total_steps if self.status else 0

    @property
    def running(self) -> bool:
        return self.condition.word == statuses.RUNNING

    def numbers_age(self) -> float | None:
        """Seconds since the run logged its last numbers."""
        times = self.log.series(LOSS)[1]
        return self.at - float(times[-1]) if len(times) else None

    def to_json(self) -> dict[str, Any]:
        """JSON values; a number that is not finite is null."""
        plain = dataclasses.asdict(self.status) if self.status else {}
        for name in ("state", "beat", "step", "total_steps", "started", "disk_free"):
            plain.pop(name, None)
        last = {name: self.log.last(name) for name in self.log.names()}
        return {
            "run": self.name,
            "time": round(self.at, 3),
            "condition": self.condition.word,
            "since": self.condition.since,
            "started": self.status.started if self.status else None,
            "beat": self.status.beat if self.status else None,
            "step": self.step,
            "total_steps": self.total_steps,
            **plain,
            "disk_free": self.disk_free,
            "troubles": self.troubles,
            "numbers_step": self.log.last_step(),
            "numbers": {
                name: value if value is not None and math.isfinite(value) else None
                for name, value in last.items()
            },
            "broken_lines": self.log.broken,
            "evaluations": [
                {"folder": folder, "step": step, "results": lines}
                for folder, step, lines in self.evaluations
            ],
        }


class Watched:
    """A run's folder, to be looked at again and again.

    Raises UserError if there is no such folder.
    """

    def __init__(self, folder: str | os.PathLike[str]):
        self.name = os.fspath(folder)
        self._folder = pathlib.Path(folder)
        if not self._folder.is_dir():
            raise UserError(
                f"{folder} is no folder: check the name; a run makes its folder once "
                "its data are read"
            )
        self._log = MetricLog(folder, sample=SAMPLE)
        self._read: dict[pathlib.Path, tuple[int, tuple[str, int, list[str]]]] = {}
        # The last beat, when it was first seen by this process's clock, and whether
        # another one had been seen before it.
        self._beat: tuple[float, float, bool] | None = None

    def look(self) -> Snapshot:
        """The run as it is now."""
        now = time.time()
        status, troubles = None, []
        try:
            status = statuses.read(self._folder)
        except UserError as error:
            troubles.append(str(error))
        try:
            self._log.update()
        except OSError as error:
            troubles.append(f"{self._log.path} cannot be read ({error.strerror})")
        condition, settled = self._condition(status, now)
        found = Snapshot(
            name=self.name,
            at=now,
            condition=condition,
            settled=settled,
            status=status,
            log=self._log,
            evaluations=self._evaluations(troubles),
            disk_free=_free(self._folder, status),
            troubles=troubles,
        )
        troubles += _troubles(found)
        return found

    def _condition(self, status: Status | None, now: float) -> tuple[Condition, bool]:
        """The run's condition, and whether it is settled."""
        if status is not None:
            found = status.condition(now)
            if status.state != statuses.RUNNING or status.machine == statuses.here():
                return found, True
            return self._of_another_machine(status, found)
        try:
            since = self._folder.stat().st_mtime
            nothing = not any(self._folder.iterdir())
        except OSError:
            return Condition(ABSENT, now), True
        return Condition(EMPTY if nothing else UNKNOWN, since), True

    def _of_another_machine(
        self, status: Status, by_clocks: Condition
    ) -> tuple[Condition, bool]:
        """What its beats say since the first look, in which only clocks could tell."""
        at = time.monotonic()
        if self._beat is None:
            self._beat = status.beat, at, False
        elif status.beat != self._beat[0]:
            self._beat = status.beat, at, True
        beat, seen, moved = self._beat
        if at - seen > statuses.SILENT:
            return Condition(statuses.DEAD, beat), True
        if moved:
            return Condition(statuses.RUNNING, status.started), True
        return by_clocks, by_clocks.word != statuses.DEAD

    def _evaluations(self, troubles: list[str]) -> list[tuple[str, int, list[str]]]:
        found = []
        for place in reversed(results.folders(self._folder)[-SHOWN:]):
            try:
                mark = (place / results.FILE).stat().st_mtime_ns
                if self._read.get(place, (None,))[0] != mark:
                    self._read[place] = mark, _evaluation(self._folder, place)
                found.append(self._read[place][1])
            except (UserError, OSError) as error:
                troubles.append(str(error))
        return found


def find(folders: list[str]) -> list[Watched]:
    """The runs that folders are, or hold.

    Raises UserError for a folder that does not exist.
    """
    found = []
    for name in folders:
        inner = [] if _is_run(pathlib.Path(name)) else _runs_in(pathlib.Path(name))
        found += [Watched(one) for one in inner or [name]]
    return found


def _runs_in(folder: pathlib.Path) -> list[pathlib.Path]:
    if not folder.is_dir():
        return []
    return sorted(one for one in folder.iterdir() if _is_run(one))


def _is_run(folder: pathlib.Path) -> bool:
    return any((folder / name).exists() for name in (statuses.FILE, "config.json"))


def _evaluation(run: pathlib.Path, place: pathlib.Path) -> tuple[str, int, list[str]]:
    one = results.read(place)
    lines = [
        result_tables.main_metric(*pair, intervals=True) for pair in one.results.items()
    ]
    name = place.relative_to(run / results.FOLDER).as_posix()
    return name, int(one.meta.get("step", -1)), lines


def _free(folder: pathlib.Path, status: Status | None) -> int | None:
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return status.disk_free if status else None


def _troubles(one: Snapshot) -> list[str]:
    """What the numbers say is wrong."""
    found, status = [], one.status
    loss = one.log.last(LOSS)
    if loss is not None and not math.isfinite(loss):
        found.append(f"the loss is {loss}")
    if bad := one.log.last("train/bad_total"):
        found.append(f"{bad:.0f} steps were not finite")
    if one.log.broken:
        found.append(f"{one.log.broken} lines of {one.log.path.name} are broken")
    if status is None or one.condition.over:
        return found
    if one.disk_free is not None and status.next_size:
        room = one.disk_free // status.next_size
        if room < 2:
            fits = "no further save" if room < 1 else "only one further save"
            found.append(f"{fits} fits on the disk")
    if status.memory and status.memory_free is not None:
        if status.memory_free < 0.05 * (status.memory + status.memory_free):
            found.append("less than a twentieth of the machine's memory is left")
    return found
