"""How long a device has nothing to do because its next batch is not there."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import jax

Batch = TypeVar("Batch")


class DataWait:
    """The seconds in which a device was idle and a batch was being waited for.

    The host waits for batch n + 1 while the device works on batch n. So a wait counts
    from the moment at which batch n is done, which a thread notes.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self._pool: ThreadPoolExecutor | None = None
        self._done: Future[float] | None = None  # when the last batch was done

    def over(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """The batches, whose waits are added to `seconds`."""
        waiting = iter(batches)
        with ThreadPoolExecutor(1) as self._pool:
            self._done = None
            while True:
                begin = time.monotonic()
                try:
                    batch = next(waiting)
                except StopIteration:
                    return
                self._add(begin, time.monotonic())
                yield batch

    def follow(self, outputs: Any) -> None:
        """Notes when the device has made these outputs of the batch that was yielded
        last.
        """
        assert self._pool is not None, "no batch was yielded"
        self._done = self._pool.submit(_done_at, outputs)

    def _add(self, begin: float, end: float) -> None:
        if self._done is None:
            self.seconds += end - begin
        elif self._done.done() and self._done.exception() is None:
            self.seconds += max(0.0, end - max(begin, self._done.result()))


def _done_at(outputs: Any) -> float:
    jax.block_until_ready(outputs)
    return time.monotonic()
