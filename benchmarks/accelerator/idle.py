"""A GPU's idle time, from a profile by jax.profiler."""

from __future__ import annotations

import collections
import pathlib
from collections.abc import Iterable
from typing import Any

Interval = tuple[float, float]  # nanoseconds


def of_trace(folder: pathlib.Path) -> dict[str, Any]:
    """Summarises the first GPU's streams, from the first kernel to the last.

    idle_share: the share of that time in which no kernel and no copy ran. kernels: the
    slowest as (name, share of the busy time, runs).

    Raises ValueError for a profile without a GPU.
    """
    from jax.profiler import ProfileData

    files = sorted(folder.rglob("*.xplane.pb"))
    if not files:
        raise ValueError("the profiler wrote no file")
    planes = list(ProfileData.from_file(str(files[0])).planes)
    gpus = [plane for plane in planes if plane.name.startswith("/device:GPU")]
    if not gpus:
        names = ", ".join(plane.name for plane in planes)
        raise ValueError(f"no GPU in the profile: {names}")
    events = [
        (event.start_ns, event.duration_ns, event.name)
        for line in gpus[0].lines
        if line.name.startswith("Stream")
        for event in line.events
    ]
    if not events:
        names = ", ".join(line.name for line in gpus[0].lines)
        raise ValueError(f"no kernel in the GPU's lines: {names}")
    time, runs = collections.Counter(), collections.Counter()
    for _, duration, name in events:
        time[name] += duration
        runs[name] += 1
    all_time = sum(time.values())
    return {
        **gaps((start, start + duration) for start, duration, _ in events),
        "events": len(events),
        "kernels": [
            (name[:100], round(took / all_time, 4), runs[name])
            for name, took in time.most_common(15)
        ],
    }


def gaps(intervals: Iterable[Interval]) -> dict[str, float]:
    """Measures the time between first start and last end that no interval covers."""
    ordered = sorted(intervals)
    first, reached = ordered[0][0], ordered[0][0]
    lengths = []
    for start, end in ordered:
        if start > reached:
            lengths.append(start - reached)
        reached = max(reached, end)
    return {
        "seconds": (reached - first) / 1e9,
        "idle_share": sum(lengths) / (reached - first) if reached > first else 0.0,
        "longest_gap_us": max(lengths, default=0.0) / 1e3,
        "gaps_over_20_us": sum(gap > 20e3 for gap in lengths),
    }
