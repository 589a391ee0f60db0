"""The time of this process's last progress, for the run's other processes."""

from __future__ import annotations

import collections
import contextlib
import os
import sys
import time
from collections.abc import Iterator

_COMPILER = os.path.join("jax", "_src", "compiler.py")


class Pulse:
    """The time of this process's last progress."""

    def __init__(self) -> None:
        self.step = 0
        self._last = time.monotonic()
        self._used = (0.0, 0)
        self._inside: collections.Counter[str] = collections.Counter()

    def beat(self, step: int | None = None) -> None:
        """Reports progress; step: the step that has begun, if any."""
        self._last = time.monotonic()
        if step is not None:
            self.step = step

    def working(self) -> contextlib.AbstractContextManager[None]:
        """In the block, CPU time and bytes read or written count as progress."""
        return self._during("working")

    def pause(self) -> contextlib.AbstractContextManager[None]:
        """In the block, waiting counts as progress, because it has its own timeout."""
        return self._during("paused")

    @contextlib.contextmanager
    def _during(self, phase: str) -> Iterator[None]:
        self._inside[phase] += 1
        try:
            yield
        finally:
            self._inside[phase] -= 1
            self.beat()

    def idle(self, now: float) -> float:
        """Seconds since this process made progress."""
        used = (time.process_time(), _bytes_moved())
        before, self._used = self._used, used
        active = used[0] - before[0] > 0.02 or used[1] - before[1] > 4096
        waits, works = self._inside["paused"], self._inside["working"]
        if waits or (works and active) or _compiling():
            self._last = now
        return now - self._last


def _compiling() -> bool:
    """Whether a thread of this process is in jax's compiler."""
    for frame in sys._current_frames().values():
        caller = frame
        while caller is not None:
            if caller.f_code.co_filename.endswith(_COMPILER):
                return True
            caller = caller.f_back
    return False


def _bytes_moved() -> int:
    """Bytes that this process has read and written, if the system counts them."""
    try:
        with open("/proc/self/io", encoding="ascii") as file:
            counts = dict(line.split(": ") for line in file)
    except OSError:
        return 0
    return int(counts["rchar"]) + int(counts["wchar"])


pulse = Pulse()  # this process's; peers.py reports it to the others
