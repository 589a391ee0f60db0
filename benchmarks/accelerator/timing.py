"""Times calls on a device whose work is enqueued asynchronously."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

from accelerator.child import Absent


def device(tiny: bool) -> Any:
    """Returns jax's device; raises Absent for a CPU unless sizes are tiny."""
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
    """Measures the seconds per call, as the median over windows.

    enqueue: starts a call and returns its result. wait: waits for a result; by default
    jax.block_until_ready. A window enqueues as many calls as fill its share of
    `seconds` and waits for the last, so that the device never waits for the host. The
    first two calls do not count.
    """
    if wait is None:
        import jax

        wait = jax.block_until_ready
    wait(enqueue())
    start = time.perf_counter()
    wait(enqueue())
    once = time.perf_counter() - start
    calls = max(1, min(1000, round(seconds / windows / max(once, 1e-6))))
    times = []
    for _ in range(windows):
        start = time.perf_counter()
        for _ in range(calls):
            last = enqueue()
        wait(last)
        times.append((time.perf_counter() - start) / calls)
    return {
        "seconds": statistics.median(times),
        "fastest": min(times),
        "slowest": max(times),
        "windows": windows,
        "calls": calls,
    }


def peak_bytes(device: Any) -> int | None:
    """Returns the peak of this process's bytes on the device; None if unknown."""
    return (device.memory_stats() or {}).get("peak_bytes_in_use")


def out_of_memory(error: Exception) -> bool:
    return "RESOURCE_EXHAUSTED" in str(error) or "out of memory" in str(error).lower()
