"""Signals as a request to stop: the loop saves, reports it and exits."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

# A closing terminal (SIGHUP) and Ctrl-\ (SIGQUIT) count too, unless nohup ignores them.
SIGNALS = ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT")
# Handled even if ignored, because a shell ignores SIGINT for background jobs.
ALWAYS = ("SIGTERM", "SIGINT")


@contextlib.contextmanager
def defer_interrupt() -> Iterator[None]:
    """Defers a SIGINT to the end of the block, which must not be interrupted."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    frames: list[FrameType | None] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: frames.append(frame))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if frames and callable(before):
            before(signal.SIGINT, frames[0])


@contextlib.contextmanager
def interrupt_by_signals() -> Iterator[None]:
    """Signals of SIGNALS raise KeyboardInterrupt, with their number as its argument.

    In another thread than the main one it does nothing.
    """

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt(number)

    with _handled_by(interrupt):
        yield


@contextlib.contextmanager
def _handled_by(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield  # other threads get no signals
        return
    previous = {}
    for name in SIGNALS:
        number = getattr(signal, name)
        if name in ALWAYS or signal.getsignal(number) != signal.SIG_IGN:
            previous[number] = signal.signal(number, handler)
    try:
        yield
    finally:
        for number, before in previous.items():
            signal.signal(number, before)


class StopRequest:
    """Set by the first signal of SIGNALS; a second SIGINT interrupts at once.

    Later signals do nothing, and in another thread than the main one none does. Make it
    the outermost context, because a signal must not interrupt a save while the inner
    ones exit.
    """

    def __init__(self) -> None:
        self._signal = 0
        self._interrupted = False
        self._handled = _handled_by(self._receive)

    def __enter__(self) -> StopRequest:
        self._handled.__enter__()
        return self

    def __exit__(self, *exception) -> None:
        self._handled.__exit__(None, None, None)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self._signal and number == signal.SIGINT and not self._interrupted:
            self._interrupted = True
            raise KeyboardInterrupt
        self._signal = number

    def signal_number(self, step: int) -> int:
        """The number of the signal that this process received, 0 if none."""
        return self._signal
