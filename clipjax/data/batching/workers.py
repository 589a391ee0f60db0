"""Data worker processes: what one does at its start, and how they are ended."""

from __future__ import annotations

import multiprocessing
import multiprocessing.process
import os
import secrets
import signal
import threading
from collections.abc import Collection, Iterable
from multiprocessing import resource_tracker, shared_memory
from typing import Any

import numpy as np
from grain.multiprocessing import SharedMemoryArray

from clipjax import malloc

# Freed memory is kept: page faults of pictures and batches cost an eighth of a worker's
# time.
MALLOC = {malloc.TRIM_THRESHOLD: 1 << 30, malloc.MMAP_THRESHOLD: 1 << 30}


SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


def hold_signals() -> None:
    """In the thread that starts workers, so that they hold signals until `begin`.

    Before that they take seconds for imports, which Ctrl-C would end in a traceback.
    """
    resource_tracker.ensure_running()  # as it starts it lets signals through again
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)


def begin(index: int, count: int) -> None:
    """At the start of each worker: its end is its parent's to decide, or its death.

    A signal to the whole group (Ctrl-C, a scheduler's SIGTERM) must leave the workers
    to a parent that goes on to its next save; and one that is killed cannot tell them.
    """
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    malloc.tune(MALLOC)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


class Shared:
    """Puts the arrays of a block into shared memory whose names begin as they are to.

    grain would make the names, and nobody know whose they are. In a worker, right
    before grain hands the block over, so that none waits there when it ends.
    """

    def __init__(self, names_begin_with: str):
        self._begin = names_begin_with

    def __call__(self, block: dict[str, Any]) -> dict[str, Any]:
        return {name: self._put(value) for name, value in block.items()}

    def _put(self, value: Any) -> Any:
        if not isinstance(value, np.ndarray) or value.dtype.hasobject or not value.size:
            return value
        memory = shared_memory.SharedMemory(
            f"{self._begin}{secrets.token_hex(6)}", create=True, size=value.nbytes
        )
        made = SharedMemoryArray.from_shared_memory(memory, value.shape, value.dtype)
        np.copyto(made, value)
        return made


def _end_with(parent: multiprocessing.process.BaseProcess) -> None:
    parent.join()
    os._exit(1)


def pids(besides: Collection[int] = ()) -> list[int]:
    """The worker processes that this one has, but for those known before."""
    return sorted(
        child.pid
        for child in multiprocessing.active_children()
        if child.name.startswith("grain-process") and child.pid not in (None, *besides)
    )


def kill(chosen: Iterable[int]) -> None:
    """Ends worker processes that no longer listen."""
    chosen = set(chosen)
    for child in multiprocessing.active_children():
        if child.pid in chosen:
            child.kill()
