"""Prefetching: threads call a function ahead, and each result has a timeout."""

from __future__ import annotations

import collections
import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

Result = TypeVar("Result")

PATIENCE = 10.0  # seconds that `close` waits for running calls
NAMING = 1.0  # seconds that reading the key of an example that hangs may take


class Late(Exception):
    """A result did not come before the timeout."""


class Ahead(Generic[Result]):
    """Prefetches the results of call(n) for each n, in order.

    Args:
      numbers: the arguments, numbers or others. The thread that calls `take` reads
        them, no sooner than they are needed.
      threads: number of threads that make the calls. They are daemons, so that one that
        hangs does not keep the process from ending. With 0, `take` makes the calls
        itself, without a timeout.
      depth: number of calls that may be done or running beyond the one awaited.
      finish: the last thread calls it at the end, after its last call.
    """

    def __init__(
        self,
        call: Callable[[Any], Result],
        numbers: Iterable[Any],
        *,
        threads: int,
        depth: int,
        finish: Callable[[], Any] | None = None,
    ):
        # `close` drops both references, to free what they hold.
        self._call: Callable[[Any], Result] | None = call
        self._finish = finish
        self._numbers = iter(numbers)
        self._count = threads
        self._depth = depth
        self._todo: queue.SimpleQueue = queue.SimpleQueue()
        self._futures: collections.deque[Future] = collections.deque()
        self._threads: list[threading.Thread] = []
        self._ended = threading.Event()

    def take(self, timeout: float) -> Result:
        """Returns the next result, or raises its call's exception.

        timeout: seconds to wait, 0 for no limit. Raises StopIteration after the last
        number, and Late after the timeout.
        """
        assert self._call is not None, "closed"
        if not self._count:
            return self._call(next(self._numbers))
        if not self._threads:
            self._start()
        self._fill(self._depth + 1)
        if not self._futures:
            raise StopIteration
        future = self._futures[0]
        try:
            return future.result(timeout or None)
        except TimeoutError:
            if future.done():  # the call itself raised it
                raise
            raise Late from None
        finally:
            self._futures.popleft()

    def _start(self) -> None:
        running, lock = [self._count], threading.Lock()  # number of running threads
        for number in range(self._count):
            thread = threading.Thread(
                target=_work,
                args=(self._todo, self._call, running, lock, self._finish, self._ended),
                name=f"clipjax-data-{number}",
                daemon=True,
            )
            self._threads.append(thread)
            thread.start()

    def _fill(self, count: int) -> None:
        while len(self._futures) < count:
            try:
                number = next(self._numbers)
            except StopIteration:
                return
            future: Future = Future()
            self._futures.append(future)
            self._todo.put((number, future))
            del number  # else it would live while `take` waits

    def close(self, patience: float = PATIENCE) -> bool:
        """Ends the threads; may be called again.

        Waits `patience` seconds for running calls. Returns whether all threads have
        ended.
        """
        if self._call is not None:
            for future in self._futures:
                future.cancel()
            for _ in self._threads:
                self._todo.put(None)
            if not self._threads and self._finish is not None:
                self._finish()
            self._call = self._finish = None
        if not self._threads:
            return True
        end = time.monotonic() + patience
        # Waits for an event first, because an interrupted `join` marks its thread as
        # ended.
        if not self._ended.wait(patience):
            return False
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)


def name_of(examples: Any, index: int) -> str:
    """The name of an example that hangs: its key, if reading that does not hang."""
    if read := getattr(examples, "key_of", None):
        with contextlib.suppress(Exception):  # reading the key may fail or hang too
            return Ahead(read, range(index, index + 1), threads=1, depth=0).take(NAMING)
    return f"example {index}"


def _work(
    todo: queue.SimpleQueue,
    call: Callable[[Any], Any],
    running: list[int],
    lock: Any,
    finish: Callable[[], Any] | None,
    ended: threading.Event,
) -> None:
    while (job := todo.get()) is not None:
        number, future = job
        if future.set_running_or_notify_cancel():
            try:
                future.set_result(call(number))
            except BaseException as error:  # `take` raises it
                future.set_exception(error)
        del job, number, future  # else they live until the next job
    with lock:
        running[0] -= 1
        last = running[0] == 0
    if not last:
        return
    try:
        if finish is not None:
            finish()
    finally:
        ended.set()
