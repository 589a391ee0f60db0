"""What a data worker process does at its start."""

from __future__ import annotations

import ctypes
import multiprocessing
import multiprocessing.process
import os
import platform
import signal
import threading

MALLOPT = {-1: 1 << 30, -3: 1 << 30}  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD: malloc.h


def begin(index: int, count: int) -> None:
    """At the start of each worker: its end is its parent's to decide, or its death.

    A signal to the whole group (Ctrl-C, a scheduler's SIGTERM) must leave the workers
    to a parent that goes on to its next save; and one that is killed cannot tell them.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    _keep_memory()
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: multiprocessing.process.BaseProcess) -> None:
    parent.join()
    os._exit(1)


def _keep_memory() -> None:
    """Makes glibc's malloc keep what is freed: page faults of pictures and batches cost
    an eighth of a worker's time. Not where GLIBC_TUNABLES sets malloc."""
    tuned = "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", "")
    if platform.libc_ver()[0] == "glibc" and not tuned:
        libc = ctypes.CDLL(None)
        for parameter, value in MALLOPT.items():
            libc.mallopt(parameter, value)
