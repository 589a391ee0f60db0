"""Signals as a request: the loop saves, says so and exits."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

# A terminal that closes and Ctrl-\ ask for the end too, unless nohup has them ignored.
SIGNALS = ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT")
# A shell ignores SIGINT for what it runs in the background, which may still be sent it.
ALWAYS = ("SIGTERM", "SIGINT")


@contextlib.contextmanager
def held() -> Iterator[None]:
    """A SIGINT of the block is received at its end, for what must not be cut in two."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[FrameType | None] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: came.append(frame))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if came and callable(before):
            before(signal.SIGINT, came[0])


class StopRequest:
    """Set by the first signal of SIGNALS; a second SIGINT interrupts at once.

    Later ones do nothing. Leave it last: while what is around it ends, a signal must
    not cut a save short.
    """

    def __init__(self) -> None:
        self._signal = 0
        self._interrupted = False
        self._previous: dict[int, object] = {}

    def __enter__(self) -> StopRequest:
        for name in SIGNALS:
            number = getattr(signal, name)
            if name in ALWAYS or signal.getsignal(number) != signal.SIG_IGN:
                self._previous[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *exception) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self._signal and number == signal.SIGINT and not self._interrupted:
            self._interrupted = True
            raise KeyboardInterrupt
        self._signal = number

    def received(self, step: int) -> int:
        """The number of the signal that this process received, 0 without one."""
        return self._signal
