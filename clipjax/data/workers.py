"""What a data worker process does at its start."""

from __future__ import annotations

import multiprocessing
import multiprocessing.process
import os
import signal
import threading


def begin(index: int, count: int) -> None:
    """At the start of each worker: its end is its parent's to decide, or its death.

    A signal to the whole group (Ctrl-C, a scheduler's SIGTERM) must leave the workers
    to a parent that goes on to its next save; and one that is killed cannot tell them.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: multiprocessing.process.BaseProcess) -> None:
    parent.join()
    os._exit(1)
