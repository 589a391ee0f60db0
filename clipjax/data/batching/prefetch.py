"""Calls made ahead of their need, each awaited no longer than is asked for."""

from __future__ import annotations

import collections
import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

Made = TypeVar("Made")

PATIENCE = 10.0  # seconds that `close` gives what is under way to end


class Late(Exception):
    """What was awaited has not come in time."""


class Ahead(Generic[Made]):
    """The results of call(n) for each n, in their order.

    Args:
      numbers: numbers, or other things to call with. They are taken in the thread that
        calls `take`, no sooner than they are needed.
      threads: that make the calls. They are daemons, so that one that hangs does not
        keep the process from ending. With 0 `take` makes them itself, however long.
      depth: how many calls may be made, or under way, beyond the one awaited.
      finish: called at the end by the last thread, after its last call.
    """

    def __init__(
        self,
        call: Callable[[Any], Made],
        numbers: Iterable[Any],
        *,
        threads: int,
        depth: int,
        finish: Callable[[], Any] | None = None,
    ):
        # Let go of at the end, so that what they hold can go.
        self._call: Callable[[Any], Made] | None = call
        self._finish = finish
        self._numbers = iter(numbers)
        self._count = threads
        self._depth = depth
        self._todo: queue.SimpleQueue = queue.SimpleQueue()
        self._made: collections.deque[Future] = collections.deque()
        self._threads: list[threading.Thread] = []
        self._ended = threading.Event()

    def take(self, timeout: float) -> Made:
        """The next result, or what its call raised.

        timeout: seconds that it may be awaited, 0 for ever. Raises StopIteration after
        the last number, and Late.
        """
        assert self._call is not None, "closed"
        if not self._count:
            return self._call(next(self._numbers))
        if not self._threads:
            self._start()
        self._fill(self._depth + 1)
        if not self._made:
            raise StopIteration
        future = self._made[0]
        try:
            return future.result(timeout or None)
        except TimeoutError:
            if future.done():  # then it is the call's own
                raise
            raise Late from None
        finally:
            self._made.popleft()

    def _start(self) -> None:
        left, lock = [self._count], threading.Lock()  # of the threads at work
        for number in range(self._count):
            thread = threading.Thread(
                target=_work,
                args=(self._todo, self._call, left, lock, self._finish, self._ended),
                name=f"clipjax-data-{number}",
                daemon=True,
            )
            self._threads.append(thread)
            thread.start()

    def _fill(self, count: int) -> None:
        while len(self._made) < count:
            try:
                number = next(self._numbers)
            except StopIteration:
                return
            future: Future = Future()
            self._made.append(future)
            self._todo.put((number, future))
            del number  # or it would live while the result is awaited

    def close(self, patience: float = PATIENCE) -> bool:
        """Ends the threads; may be called again.

        Calls under way are awaited for `patience` seconds. Returns whether all threads
        have ended.
        """
        if self._call is not None:
            for future in self._made:
                future.cancel()
            for _ in self._threads:
                self._todo.put(None)
            if not self._threads and self._finish is not None:
                self._finish()
            self._call = self._finish = None
        if not self._threads:
            return True
        end = time.monotonic() + patience
        # A `join` that is interrupted takes its thread for ended.
        if not self._ended.wait(patience):
            return False
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)


def name_of(examples: Any, index: int) -> str:
    """What to call an example that hangs: its key, if that can be had."""
    if read := getattr(examples, "key_of", None):
        with contextlib.suppress(Exception):  # a key too may have to be read
            return Ahead(read, range(index, index + 1), threads=1, depth=0).take(1.0)
    return f"example {index}"


def _work(
    todo: queue.SimpleQueue,
    call: Callable[[Any], Any],
    left: list[int],
    lock: Any,
    finish: Callable[[], Any] | None,
    ended: threading.Event,
) -> None:
    while (job := todo.get()) is not None:
        number, future = job
        if future.set_running_or_notify_cancel():
            try:
                future.set_result(call(number))
            except BaseException as error:  # whoever awaits it shall have it
                future.set_exception(error)
        del job, number, future  # else they live until the next job
    with lock:
        left[0] -= 1
        last = left[0] == 0
    if not last:
        return
    try:
        if finish is not None:
            finish()
    finally:
        ended.set()
