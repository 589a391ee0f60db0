"""Which device is faster for a run's size: its own step is timed on each of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from clipjax.checkup import devices, timed_step
from clipjax.checkup.findings import Finding, ok, warning
from clipjax.engine import first_state, matmul_rate, sharding
from clipjax.engine.run import Run, prepare
from clipjax.types import UserError

_CLEAR = 2.0  # times as long: no need to measure


def checks(
    run: Run, local: Mapping[str, np.ndarray], seconds: float, flops: float | None
) -> Iterator[Finding]:
    """local: a batch. seconds, flops: of a step on the run's own devices."""
    own = _platform(run)
    others = devices.one_of_each()
    others.pop(own, None)
    if not others:
        yield ok(f"which device is faster: there is only {own} to train on")
    for name, device in others.items():
        yield compared(run, local, seconds, flops, name, device)


def compared(
    run: Run,
    local: Mapping[str, np.ndarray],
    seconds: float,
    flops: float | None,
    name: str,
    device: Any,
) -> Finding:
    """The run's devices beside another one. name: of the other, a jax.Device.

    A step is not run there if the step's products alone would take far longer.
    """
    own = _platform(run)
    precision = run.config.model.get("precision", "float32")
    least = flops / matmul_rate.measured(device, precision) if flops else 0.0
    if least > _CLEAR * seconds:
        return ok(
            f"a step takes {_text(seconds)} on {own}, and at least {_text(least)} on "
            f"{name}, by its rate of products: {own} is faster for this run"
        )
    try:
        there = _seconds(run, local, device)
    except UserError as failure:
        return ok(f"how fast {name} is for this run is not measured: {failure}")
    return judged(own, seconds, name, there)


def judged(own: str, seconds: float, name: str, there: float) -> Finding:
    """own, seconds: the run's device and its step. name, there: another's."""
    told = f"a step takes {_text(seconds)} on {own} and {_text(there)} on {name}"
    if there < 0.9 * seconds:
        return warning(
            f"{told}: {name} is faster for this run", f"JAX_PLATFORMS={name} before it"
        )
    if seconds < 0.9 * there:
        return ok(f"{told}: {own} is faster for this run")
    return ok(f"{told}, about the same")


def _seconds(run: Run, local: Mapping[str, np.ndarray], device: Any) -> float:
    other = prepare(
        run.config, run.workdir, True, mesh=sharding.mesh_of([device], 1, 1)
    )
    step, batch = timed_step.compiled(other, local)
    state, _ = first_state.make(other, lambda line: None)
    state, _ = step(state, batch)
    return timed_step.seconds(step, state, batch)


def _platform(run: Run) -> str:
    return run.mesh.devices.flat[0].platform


def _text(seconds: float) -> str:
    return f"{1000 * seconds:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"
