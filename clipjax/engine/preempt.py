"""SIGTERM and Ctrl-C as a request: the loop saves, says so and exits."""

from __future__ import annotations

import signal
from types import FrameType

import jax
from jax.experimental import multihost_utils


class StopRequest:
    """Set by the first SIGTERM or SIGINT; a second SIGINT interrupts at once.

    Leave it last: while what is around it ends, a signal must not cut a save short.
    """

    def __init__(self) -> None:
        self._signal = 0
        self._previous: dict[int, object] = {}

    def __enter__(self) -> StopRequest:
        if jax.process_count() > 1:
            return self
        for number in (signal.SIGTERM, signal.SIGINT):
            self._previous[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *exception) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self._signal and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._signal = number

    def received(self, step: int) -> int:
        """The signal's number, 0 without one; on several hosts, agreed by all."""
        if jax.process_count() > 1:
            # The coordination service takes SIGTERM itself and picks a common step.
            if multihost_utils.reached_preemption_sync_point(step):
                return signal.SIGTERM
            return 0
        return self._signal
