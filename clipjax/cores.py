"""The cores that a process may use."""

from __future__ import annotations

import os


def usable() -> int:
    """How many: fewer than the machine has if the process is bound to some of them."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
