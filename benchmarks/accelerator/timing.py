"""Rates on a device that is handed work ahead of its doing it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

from accelerator.child import Absent


def device(tiny: bool) -> Any:
    """jax's device; raises Absent if that is a CPU and sizes are an accelerator's."""
    try:
        import jax
    except ImportError as error:
        raise Absent(f"jax cannot be imported: {error}") from error
    found = jax.devices()[0]
    if found.platform == "cpu" and not tiny:
        raise Absent("jax finds no accelerator here")
    return found


def per_call(
    enqueue: Callable[[], Any],
    wait: Callable[[Any], Any] | None = None,
    *,
    seconds: float = 1.5,
    windows: int = 5,
) -> dict[str, Any]:
    """Seconds of a call, the median over windows.

    enqueue: begins a call, returns what `wait` (jax.block_until_ready) waits for. In a
    window as many calls as fill its part of `seconds` are enqueued and the last is
    awaited, so that the device never waits for the host. The first two calls do not
    count.
    """
    if wait is None:
        import jax

        wait = jax.block_until_ready
    wait(enqueue())
    start = time.perf_counter()
    wait(enqueue())
    once = time.perf_counter() - start
    calls = max(1, min(1000, round(seconds / windows / max(once, 1e-6))))
    found = []
    for _ in range(windows):
        start = time.perf_counter()
        for _ in range(calls):
            last = enqueue()
        wait(last)
        found.append((time.perf_counter() - start) / calls)
    return {
        "seconds": statistics.median(found),
        "fastest": min(found),
        "slowest": max(found),
        "windows": windows,
        "calls": calls,
    }


def peak_bytes(device: Any) -> int | None:
    """The most bytes that this process has held on the device; None if it says none."""
    return (device.memory_stats() or {}).get("peak_bytes_in_use")


def out_of_memory(error: Exception) -> bool:
    return "RESOURCE_EXHAUSTED" in str(error) or "out of memory" in str(error).lower()
