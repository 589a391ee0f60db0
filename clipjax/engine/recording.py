"""The heartbeat of a run: what `run_record` asks of jax and of the run's parts."""

from __future__ import annotations

import jax

from clipjax.engine.activity import Activity
from clipjax.engine.checkpoint import layout
from clipjax.engine.run import Run
from clipjax.run_record.heartbeat import Heartbeat

_KINDS = {"in_use": "bytes_in_use", "peak": "peak_bytes_in_use", "limit": "bytes_limit"}


def heartbeat(run: Run, activity: Activity) -> Heartbeat:
    """The heartbeat of a run, whose first process writes it."""
    return Heartbeat(
        run.workdir,
        run.total_steps,
        warnings=activity.warnings,
        doing=activity.now,
        warn=activity.warn,
        processes=jax.process_count(),
        device_memory=device_memory,
        on_gpus=jax.default_backend() == "gpu",
        next_size=layout.size(run.template),
        writes=jax.process_index() == 0,
    )


def device_memory() -> dict[str, int] | None:
    """What arrays take on this process's devices, in bytes: "in_use", their "peak" and
    the "limit"; None if the devices do not count it, as CPUs.
    """
    counts = [device.memory_stats() for device in jax.local_devices()]
    if not all(counts):
        return None
    return {
        name: sum(count.get(kind, 0) for count in counts)
        for name, kind in _KINDS.items()
    }
