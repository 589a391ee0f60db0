"""A run's heart: a thread that replaces RUN/status.json every few seconds."""

from __future__ import annotations

import collections
import contextlib
import os
import pathlib
import shutil
import signal
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

from clipjax import atomic_files, registry
from clipjax.run_record import status as statuses
from clipjax.run_record.counters import Counters, Gpus
from clipjax.run_record.energy import Energy
from clipjax.run_record.status import Status, Warned
from clipjax.types import UserError

EVERY = 2.0  # seconds between beats
KEPT = 50  # warnings
_PATIENCE = 10.0  # seconds to wait for a beat that a slow disk holds up


class Warnings:
    """The last KEPT warnings of a run, and how many there were."""

    def __init__(self) -> None:
        self.last: collections.deque[Warned] = collections.deque(maxlen=KEPT)
        self.total = 0

    def add(self, text: str) -> None:
        self.last.append(Warned(round(time.time(), 3), text))
        self.total += 1


class Heartbeat:
    """Writes a run's status while its block runs, and how it ended.

    A folder that cannot be written stops no run: `warn` is told once, and the next beat
    tries again.

    Attributes:
      position: returns the step that runs, and Status.seconds_left.
    """

    def __init__(
        self,
        workdir: pathlib.Path,
        total_steps: int,
        *,
        warnings: Warnings,
        doing: Callable[[], tuple[str, float]],
        warn: Callable[[str], None],
        processes: int = 1,
        device_memory: Callable[[], dict[str, int] | None] = lambda: None,
        on_gpus: bool = False,
        next_size: int | None = None,
        writes: bool = True,
    ):
        """doing: what the run does, and since when (seconds since 1970).
        device_memory: Status.device_memory. on_gpus: whether it trains on NVIDIA
        devices. next_size: Status.next_size before the first save. writes: False on
        all but the run's first process.
        """
        self.position: Callable[[], tuple[int, float | None]] = lambda: (0, None)
        self._workdir = workdir
        self._warnings, self._doing, self._warn = warnings, doing, warn
        self._device_memory = device_memory
        self._writes = writes
        self._end = threading.Event()
        self._lock = threading.Lock()
        self._told = False
        self._next_size = next_size
        self._save: tuple[Any, int | None, int | None] = (None, None, None)
        self._outcome = (statuses.FAILED, "")
        if not writes:
            return
        self._same = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "born": statuses.born(os.getpid()),
            "machine": statuses.here(),
            "processes": processes,
            "total_steps": total_steps,
            "started": round(time.time(), 3),
        }
        self._counters = Counters()
        self._gpus = Gpus() if on_gpus else None
        self._energy = Energy()
        self._thread = threading.Thread(
            target=self._beat, name="clipjax-heartbeat", daemon=True
        )

    def __enter__(self) -> Heartbeat:
        if self._writes:
            atomic_files.remove_leftovers(self._workdir / statuses.FILE)
            with contextlib.suppress(UserError):  # a damaged one is replaced
                if before := statuses.read(self._workdir):
                    self._energy = Energy(before.energy)
            self._write(statuses.RUNNING, "")
            self._thread.start()
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, KeyboardInterrupt):
            self.ended(signal.SIGINT)
        elif error is not None:
            self._outcome = statuses.FAILED, _describe(error)
        self._finish()

    def ended(self, number: int = 0, why: str = "") -> None:
        """All is done and saved: a signal of this number asked to stop, or, 0, the run
        is complete, before its last step if `why` says so.
        """
        if number:
            self._outcome = statuses.STOPPED, signal.Signals(number).name
        else:
            self._outcome = statuses.FINISHED, why

    def fail_now(self, why: str) -> None:
        """Says in any thread that the process ends by an error at once."""
        self._outcome = statuses.FAILED, why
        self._finish()

    def _finish(self) -> None:
        if not self._writes or self._end.is_set():
            return
        self._end.set()
        if self._lock.acquire(timeout=_PATIENCE):
            try:
                self._write(*self._outcome, sync=True)
            finally:
                self._lock.release()

    def _beat(self) -> None:
        while not self._end.wait(EVERY):
            with self._lock:
                if not self._end.is_set():
                    self._write(statuses.RUNNING, "")

    def _write(self, state: str, reason: str, sync: bool = False) -> None:
        try:
            statuses.write(self._workdir, self._now(state, reason), sync=sync)
        except Exception as error:  # no reason for a run to end
            if not self._told:
                self._told = True
                with contextlib.suppress(OSError, ValueError):  # stdout is closed
                    self._warn(f"others cannot see what this run does: {_why(error)}")

    def _now(self, state: str, reason: str) -> Status:
        activity, since = self._doing() if state == statuses.RUNNING else ("", 0.0)
        step, left = self.position()
        self._look_for_save()
        gpus = self._gpus.read() if self._gpus else None
        return Status(
            state,
            reason,
            **self._same,
            beat=round(time.time(), 3),
            step=step,
            activity=activity,
            activity_since=since,
            seconds_left=left if state == statuses.RUNNING else None,
            warnings=list(self._warnings.last),
            warnings_total=self._warnings.total,
            **self._counters.read(),
            gpus=gpus,
            energy=self._energy.read(time.monotonic(), gpus),
            device_memory=self._device_memory(),
            save_step=self._save[1],
            save_size=self._save[2],
            next_size=self._save[2] or self._next_size,
            disk_free=shutil.disk_usage(self._workdir).free,
        )

    def _look_for_save(self) -> None:
        """Finds the last whole checkpoint and its size, if there is a new one."""
        manifests = self._workdir / "checkpoints" / "manifests"
        try:
            mark = manifests.stat().st_mtime_ns
            if mark == self._save[0]:
                return
            whole = [int(one.stem) for one in manifests.glob("[0-9]*.json")]
            if not whole:
                return
            step = max(whole)
            content = (manifests / f"{step}.json").read_text(encoding="utf-8")
            files = atomic_files.parse_json(content)["files"].values()
            self._save = mark, step, sum(int(one["size"]) for one in files)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return  # none yet, or it is being replaced; a damaged one is said elsewhere


def _describe(error: BaseException) -> str:
    """An error as one line."""
    if isinstance(error, UserError):
        return " ".join(str(error).split())
    return registry.describe_error(error)


def _why(error: Exception) -> str:
    if isinstance(error, OSError):
        return atomic_files.describe_os_error(error)
    return registry.describe_error(error)
