"""What training iterates over: batches as they come, or why one does not come."""

from __future__ import annotations

import collections
import json
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from clipjax.data.batching import workers as worker_processes
from clipjax.data.batching.prefetch import Ahead, Late
from clipjax.types import Batch, UserError

NOTES = "notes"  # key of a block, between its maker and TrainBatches: JSON


class TrainBatches(Iterator[Batch]):
    """Iterator over host-local batches; close it when done, even half-way.

    left_out: examples without a caption in a source with captions.
    """

    def __init__(
        self,
        made: Ahead[dict[str, Any]],
        step: int,
        timeout: float,
        left_out: int,
        reading: Callable[[int], str] | None = None,
        workers: int = 0,
    ):
        self._made = made
        self._step = step
        self._timeout = timeout
        self._reading = reading
        self._seen: collections.deque[int] = collections.deque(maxlen=workers)
        # No worker runs yet; those of other batches are not ours to end.
        self._others = worker_processes.pids() if workers else None
        # At exit too, while the modules that grain's iterators need still exist.
        self._end = weakref.finalize(self, _end, made, self._others)
        self._broken: list[tuple[str, str]] = []
        self._told: set[str] = set()
        self.left_out = left_out

    def __next__(self) -> Batch:
        if not self._end.alive:
            raise ValueError("these batches are closed")
        try:
            block = self._made.take(self._timeout)
        except Late:
            raise self._hung() from None
        except RuntimeError as error:
            if "terminated unexpectedly" not in str(error):
                raise
            raise UserError(
                f"a data worker process died ({str(error).partition('. ')[0]}); if it "
                f"ran out of memory, use fewer of data.workers or a smaller batch"
            ) from error
        self._step += 1
        maker, notes = json.loads(block.pop(NOTES))
        self._seen.append(maker)
        for key, reason in notes:
            if key not in self._told:
                self._told.add(key)
                self._broken.append((key, reason))
        return block

    def _hung(self) -> UserError:
        """Ends what hangs, as far as it can be ended, and says so."""
        self._end.detach()
        if self._others is None:
            assert self._reading is not None
            where = f"a thread of this process hangs in {self._reading(self._step)}"
            self._made.close(0)
        else:
            pids = worker_processes.pids(self._others)
            suspects = [pid for pid in pids if pid not in self._seen]
            if len(self._seen) == self._seen.maxlen:  # they take turns
                suspects = [self._seen[0]]
            listed = " or ".join(map(str, suspects or pids))
            where = f"the worker process {listed} hangs, and was killed"
            worker_processes.kill(pids)
            _end(self._made, self._others)
        return UserError(
            f"the batch of step {self._step + 1} has not come for {self._timeout:g} s "
            f"(data.timeout): {where}; see whether the place of the data answers and "
            f"start again, or give slow batches a longer data.timeout (0: no limit)"
        )

    def take_broken(self) -> list[tuple[str, str]]:
        """(key, reason) of broken examples met since the last call, each key once."""
        taken, self._broken = self._broken, []
        return taken

    def close(self) -> None:
        """Ends workers and threads; may be called twice."""
        self._end()


def _end(made: Ahead, others: list[int] | None) -> None:
    """Ends threads and workers; a worker that does not listen is killed."""
    ended = False
    try:
        ended = made.close()
    except BaseException:  # an interrupt leaves no worker, and nothing of theirs
        ended = made.close()
        raise
    finally:
        if not ended and others is not None:
            worker_processes.kill(worker_processes.pids(others))
            made.close()


def owned(block: dict[str, Any]) -> dict[str, Any]:
    """Copies, since arrays in shared memory must not outlive the workers."""
    return {
        name: value if type(value) in (np.ndarray, str) else np.array(value)
        for name, value in block.items()
    }
