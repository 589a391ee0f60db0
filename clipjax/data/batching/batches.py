"""The iterator over training batches, and its errors if a batch does not come."""

from __future__ import annotations

import collections
import json
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from clipjax.data.batching import workers as worker_processes
from clipjax.data.batching.prefetch import Ahead, Late
from clipjax.types import HostBatch, UserError

NOTES = "notes"  # a block's key for JSON from its maker to TrainBatches


class TrainBatches(Iterator[HostBatch]):
    """Iterator over host-local batches; call `close` when done, also before the end.

    left_out: number of examples without a caption, in a source with captions.
    """

    def __init__(
        self,
        ahead: Ahead[dict[str, Any]],
        step: int,
        timeout: float,
        left_out: int,
        reading: Callable[[int], str] | None = None,
        workers: int = 0,
    ):
        self._ahead = ahead
        self._step = step
        self._timeout = timeout
        self._reading = reading
        self._makers: collections.deque[int] = collections.deque(maxlen=workers)
        # Our workers do not run yet, so these belong to other batches: never end them.
        self._others = worker_processes.pids() if workers else None
        # Also runs at exit, while the modules that grain's iterators need still exist.
        self._end = weakref.finalize(self, _end, ahead, self._others)
        self._broken: list[tuple[str, str]] = []
        self._reported: set[str] = set()
        self.left_out = left_out

    def __next__(self) -> HostBatch:
        if not self._end.alive:
            raise ValueError("these batches are closed")
        try:
            block = self._ahead.take(self._timeout)
        except Late:
            raise self._hung() from None
        except RuntimeError as error:
            if "terminated unexpectedly" not in str(error):
                raise
            raise UserError(
                f"a data worker process died ({str(error).partition('. ')[0]}); if it "
                f"ran out of memory, use fewer data.workers or a smaller batch"
            ) from error
        self._step += 1
        maker, notes = json.loads(block.pop(NOTES))
        self._makers.append(maker)
        for key, reason in notes:
            if key not in self._reported:
                self._reported.add(key)
                self._broken.append((key, reason))
        return block

    def _hung(self) -> UserError:
        """Kills workers, closes threads, and returns an error that says what hangs."""
        self._end.detach()
        if self._others is None:
            assert self._reading is not None
            cause = f"a thread of this process hangs in {self._reading(self._step)}"
            self._ahead.close(0)
        else:
            pids = worker_processes.pids(self._others)
            suspects = [pid for pid in pids if pid not in self._makers]
            if len(self._makers) == self._makers.maxlen:  # workers take turns
                suspects = [self._makers[0]]
            names = " or ".join(map(str, suspects or pids))
            cause = f"the worker process {names} hangs, and was killed"
            worker_processes.kill(pids)
            _end(self._ahead, self._others)
        return UserError(
            f"the batch of step {self._step + 1} has not come for {self._timeout:g} s "
            f"(data.timeout): {cause}; check whether the data's storage answers and "
            f"start again, or give slow batches a longer data.timeout (0: no limit)"
        )

    def take_broken(self) -> list[tuple[str, str]]:
        """(key, reason) of the broken examples since the last call, each key once."""
        taken, self._broken = self._broken, []
        return taken

    def close(self) -> None:
        """Ends workers and threads; may be called twice."""
        self._end()


def _end(ahead: Ahead, others: list[int] | None) -> None:
    """Ends threads and workers; kills workers that do not respond."""
    ended = False
    try:
        ended = ahead.close()
    except BaseException:  # an interrupt must leave no worker and no shared memory
        ended = ahead.close()
        raise
    finally:
        if not ended and others is not None:
            worker_processes.kill(worker_processes.pids(others))
            ahead.close()


def copy_block(block: dict[str, Any]) -> dict[str, Any]:
    """Copies a block, because arrays in shared memory must not outlive the workers."""
    return {
        name: value if type(value) in (np.ndarray, str) else np.array(value)
        for name, value in block.items()
    }
