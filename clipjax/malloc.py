"""Settings of glibc's malloc."""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Mapping

# Parameters, with the numbers that malloc.h gives them.
TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX, ARENA_MAX = -1, -3, -4, -8


def tune(settings: Mapping[int, int]) -> bool:
    """Sets parameter -> value in this process; returns whether it did.

    Not without glibc, nor if the environment's GLIBC_TUNABLES sets malloc.
    """
    tuned = "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", "")
    if tuned or platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    for parameter, value in settings.items():
        libc.mallopt(parameter, value)
    return True
