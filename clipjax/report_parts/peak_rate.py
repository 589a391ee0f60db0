"""How much of what its devices can do a run does: the share of their matmul rate."""

from __future__ import annotations

import os
import socket

from clipjax import cores
from clipjax.report_parts.run_files import RunFiles

TYPES = ("float32", "bfloat16")
_BUSY = "not measured: the machine is busy, make the report again later"


def share(run: RunFiles, rate: float) -> str:
    """The share as text, or why there is none.

    rate: floating-point operations per second, on all of the run's devices.
    """
    name = run.section("model").get("precision")
    if name not in TYPES:
        return "not measured: the run's precision is not known"
    kind, count = str(run.environment.get("device")), run.environment.get("devices")
    from clipjax.engine import matmul_rate  # here: other parts need no jax

    each = matmul_rate.PUBLISHED.get(kind, {}).get(name)
    if each and isinstance(count, int) and count > 0:
        return _text(rate, each * count, name, "as published")
    if run.environment.get("platform") != "cpu":
        return f"not measured: no rate of {kind} is known"
    if why := _elsewhere(run):
        return f"not measured: {why}"
    if os.getloadavg()[0] > cores.usable():
        return _BUSY
    import jax

    # One product uses all of a CPU's cores, and so do emulated devices together.
    found = matmul_rate.measured(jax.devices("cpu")[0], name)
    if rate > found:  # no run multiplies faster than products alone
        return _BUSY
    return _text(rate, found, name, "measured by this report on the run's machine")


def _text(rate: float, peak: float, name: str, source: str) -> str:
    size = (
        f"{peak / 1e9:,.0f} GFLOP/s" if peak < 1e12 else f"{peak / 1e12:,.1f} TFLOP/s"
    )
    return f"{100 * rate / peak:.1f} % of {size} in {name}, {source}"


def _elsewhere(run: RunFiles) -> str:
    """Why the rate of this machine's CPU now says nothing of the run; "" if it does."""
    if run.status is None or not run.status.condition().over:
        return "the run has not ended"
    here = socket.gethostname(), cores.usable()
    if run.status.processes > 1 or (run.status.host, run.status.cpus) != here:
        return "make the report on the run's machine"
    return ""
