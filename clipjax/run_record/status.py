"""RUN/status.json: what a run does now, for other processes; one small file.

The run's first process replaces it every few seconds (heartbeat.py). `read` gives what
it says, `Status.condition` what became of the run since.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import socket
import time
import types
import typing
from typing import Any, NamedTuple

from clipjax import atomic_files
from clipjax.types import UserError

FILE = "status.json"
# Seconds without a beat after which a process on another machine is taken for dead,
# and one on this machine is said to be silent.
SILENT = 30.0
_MOST = {float: 1e15, int: 2**64}  # a time, a size; NaN is not below them

RUNNING, FINISHED, STOPPED, FAILED = "running", "finished", "stopped", "failed"
DEAD, UNHEARD = "dead", "silent"


class Warned(NamedTuple):
    """A warning that a run printed. time: seconds since 1970."""

    time: float
    text: str


class Condition(NamedTuple):
    """What became of a run.

    word: "running", "finished", "stopped" (by a signal), "failed" (by an error), "dead"
      (its process ended without a word), or "silent" (its process is there and its
      heart does not beat: it was suspended, or cannot write its folder).
    since: seconds since 1970: of its end; running: of its start; dead and silent: of
      its last beat.
    """

    word: str
    since: float

    @property
    def over(self) -> bool:
        """Whether the run's process has ended."""
        return self.word in (FINISHED, STOPPED, FAILED, DEAD)


@dataclasses.dataclass
class Status:
    """What a run said last. Times are in seconds since 1970, sizes in bytes.

    state: "running", "finished", "stopped" or "failed", as of the last beat.
    reason: the signal's name if it was stopped; the error's line if it failed; why it
      finished before its last step.
    pid, host, born, machine: the first process, its machine's name, when it began, and
      where its pid means it: a boot of a machine and a space of processes.
    processes: how many train together.
    started, beat: when this start of the run began; the last beat, which is its end
      unless it runs.
    step, total_steps: the step that runs, or the last; the run's steps.
    activity, activity_since: what it does ("compiling the training step").
    seconds_left: until the last step, as the pace is; None: not known.
    warnings: the last ones, at most 50, oldest first.
    warnings_total: how many there were.
    cpu_percent, cpus: of the process and its workers, 100 for a core that is always
      busy; the cores that it may use. None: not measured, as all of these:
    memory, memory_free: of the process and its workers; what the machine has left.
    gpus: per device of the machine: see counters.Gpus.read.
    energy: in joules, of all starts of the run: see energy.Energy.read.
    device_memory: of the devices that the process trains on, as jax counts them: a
      dict of "in_use", "peak" and "limit", summed.
    save_step, save_size: the last whole checkpoint and its size.
    next_size: about the size of the next one.
    disk_free: in the run's folder.
    """

    state: str
    reason: str = ""
    pid: int = 0
    host: str = ""
    born: float = 0.0
    machine: str = ""
    processes: int = 1
    started: float = 0.0
    beat: float = 0.0
    step: int = 0
    total_steps: int = 0
    activity: str = ""
    activity_since: float = 0.0
    seconds_left: float | None = None
    warnings: list[Warned] = dataclasses.field(default_factory=list)
    warnings_total: int = 0
    cpu_percent: float | None = None
    cpus: int | None = None
    memory: int | None = None
    memory_free: int | None = None
    gpus: list[dict[str, Any]] | None = None
    energy: dict[str, float] | None = None
    device_memory: dict[str, int] | None = None
    save_step: int | None = None
    save_size: int | None = None
    next_size: int | None = None
    disk_free: int | None = None

    @property
    def stopped_early(self) -> bool:
        """Whether the run is complete and ended before its last step."""
        return self.state == FINISHED and bool(self.reason)

    def condition(self, now: float | None = None) -> Condition:
        """What became of the run by now (seconds since 1970; None: this moment).

        On the run's own machine its process says whether it lives; elsewhere its last
        beat does, by both machines' clocks.
        """
        now = time.time() if now is None else now
        if self.state != RUNNING:
            return Condition(self.state, self.beat)
        quiet = now - self.beat > SILENT
        is_here = self.machine == here()
        if is_here and not _lives(self.pid, self.born):
            return Condition(DEAD, self.beat)
        if quiet:
            return Condition(UNHEARD if is_here else DEAD, self.beat)
        return Condition(RUNNING, self.started)


def read(workdir: str | os.PathLike) -> Status | None:
    """What a run said last; None if it has no status.json.

    Raises UserError if the file is damaged or cannot be read.

    >>> found = status.read("runs/quickstart")
    >>> found.condition().word, found.step
    ('finished', 2)
    """
    path = pathlib.Path(workdir) / FILE
    try:
        fields = atomic_files.parse_json(path.read_bytes())
        known = {field.name for field in dataclasses.fields(Status)}
        found = Status(**{name: fields[name] for name in known & fields.keys()})
        if found.state not in (RUNNING, FINISHED, STOPPED, FAILED):
            raise ValueError(f"{found.state!r} is no state")
        found.warnings = [Warned(*warning) for warning in found.warnings]
        _check_types(found)
        return found
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from error
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} is damaged ({error}); the run replaces it when it goes on"
        ) from error


def _check_types(status: Status) -> None:
    """Raises ValueError, naming the field, unless all values are as Status says."""
    for name, hint in typing.get_type_hints(Status).items():
        if not _fits(getattr(status, name), hint):
            raise ValueError(f"{name} is {getattr(status, name)!r:.60}")
    if not isinstance(status.pid, int) or status.pid < 0:
        raise ValueError(f"pid is {status.pid}")
    for gpu in status.gpus or []:
        for name, value in gpu.items():
            if not _fits(value, str | None if name == "name" else float | None):
                raise ValueError(f"gpus has {name} {value!r:.60}")


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value is of a field's type; numbers are finite, and not too large for a
    time or a size.
    """
    parts = typing.get_args(hint)
    if isinstance(hint, types.UnionType):
        return any(_fits(value, part) for part in parts)
    if typing.get_origin(hint) is list:
        return isinstance(value, list) and all(_fits(one, parts[0]) for one in value)
    if typing.get_origin(hint) is dict:
        return isinstance(value, dict) and all(
            isinstance(key, str) and _fits(one, parts[1]) for key, one in value.items()
        )
    if hint is Warned:
        return _fits(value.time, float) and _fits(value.text, str)
    if hint in (int, float):
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return is_number and abs(value) < _MOST[hint]
    return hint is Any or isinstance(value, hint)


def write(workdir: pathlib.Path, status: Status, *, sync: bool) -> None:
    """Replaces a run's status.json; sync: waits until it is on the disk.

    Raises OSError.
    """
    text = atomic_files.json_text(dataclasses.asdict(status))
    with atomic_files.open_to_write(workdir / FILE, sync=sync) as file:
        file.write(text)


def here() -> str:
    """The machine since its boot, and the space in which pids are unique."""
    parts = [socket.gethostname()]
    for read_part in (
        lambda: pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
        lambda: os.readlink("/proc/self/ns/pid"),
    ):
        try:
            parts.append(read_part())
        except OSError:  # not Linux: the name alone
            parts.append("")
    return " ".join(parts).strip()


def born(pid: int) -> float:
    """When a process began, in seconds since 1970; 0.0 if there is none."""
    import psutil

    try:
        process = psutil.Process(pid)
        ended = process.status() == psutil.STATUS_ZOMBIE
        return 0.0 if ended else process.create_time()
    except psutil.Error:
        return 0.0


def _lives(pid: int, began: float) -> bool:
    """Whether a process is there; its pid may have come to another one since."""
    return abs(born(pid) - began) < 2.0
