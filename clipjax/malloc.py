"""Settings of glibc's malloc."""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Mapping

# Parameters by their numbers in malloc.h.
TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX, ARENA_MAX = -1, -3, -4, -8


def tune(settings: Mapping[int, int]) -> bool:
    """Sets parameter -> value in this process; returns whether it did.

    It does not without glibc, or if the environment's GLIBC_TUNABLES sets malloc.
    """
    set_by_user = "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", "")
    if set_by_user or platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    for parameter, value in settings.items():
        libc.mallopt(parameter, value)
    return True
