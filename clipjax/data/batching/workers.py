"""Data worker processes: their start and their end."""

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

# malloc keeps freed memory, because page faults for images and batches cost an eighth
# of a worker's time.
MALLOC = {malloc.TRIM_THRESHOLD: 1 << 30, malloc.MMAP_THRESHOLD: 1 << 30}


SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


def hold_signals() -> None:
    """Blocks signals in the thread that starts workers, so that they inherit the block.

    `begin` lifts it. Workers import for seconds before that, and Ctrl-C would end them
    with a traceback.
    """
    resource_tracker.ensure_running()  # its start unblocks signals, so it comes first
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)


def begin(index: int, count: int) -> None:
    """Runs first in each worker: ignores signals, and exits if the parent dies.

    A signal to the process group (Ctrl-C, a scheduler's SIGTERM) must not end the
    workers, because the parent goes on to its next save. A killed parent cannot end its
    workers, so they watch it.
    """
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    malloc.tune(MALLOC)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


class Shared:
    """Puts a block's arrays into shared memory whose names start with a given prefix.

    grain's own names do not say which run they belong to. A worker calls this right
    before grain hands the block over, so that no block waits there when it ends.
    """

    def __init__(self, prefix: str):
        self._prefix = prefix

    def __call__(self, block: dict[str, Any]) -> dict[str, Any]:
        return {name: self._put(value) for name, value in block.items()}

    def _put(self, value: Any) -> Any:
        if not isinstance(value, np.ndarray) or value.dtype.hasobject or not value.size:
            return value
        memory = shared_memory.SharedMemory(
            f"{self._prefix}{secrets.token_hex(6)}", create=True, size=value.nbytes
        )
        shared = SharedMemoryArray.from_shared_memory(memory, value.shape, value.dtype)
        np.copyto(shared, value)
        return shared


def _end_with(parent: multiprocessing.process.BaseProcess) -> None:
    parent.join()
    os._exit(1)


def pids(excluded: Collection[int] = ()) -> list[int]:
    """The ids of this process's worker processes, without the excluded ones."""
    return sorted(
        child.pid
        for child in multiprocessing.active_children()
        if child.name.startswith("grain-process") and child.pid not in (None, *excluded)
    )


def kill(pids: Iterable[int]) -> None:
    """Kills the worker processes with these ids."""
    pids = set(pids)
    for child in multiprocessing.active_children():
        if child.pid in pids:
            child.kill()
