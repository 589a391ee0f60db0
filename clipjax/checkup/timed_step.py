"""A run's compiled step on one batch, and how long it takes."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from clipjax.engine import sharding
from clipjax.engine.run import Run, jit_step

_SECONDS = 4.0  # of each measurement
_ROUNDS = 20


def compiled(run: Run, local: Mapping[str, np.ndarray]) -> tuple[Any, Any]:
    """The `jax.stages.Compiled`, and the batch on the run's devices."""
    batch = sharding.put_batch(run.mesh, local)
    return jit_step(run).lower(run.template, batch).compile(), batch


def seconds(step: Any, state: Any, batch: Any) -> float:
    """The mean seconds of a step; state: one on the run's devices, which it uses up."""

    def once() -> None:
        nonlocal state
        state, metrics = step(state, batch)
        jax.block_until_ready(metrics)

    return mean_seconds(once)


def mean_seconds(act: Callable[[], Any]) -> float:
    """The mean seconds of a call."""
    begin, count, spent = time.perf_counter(), 0, 0.0
    while count < _ROUNDS and spent < _SECONDS:
        act()
        count += 1
        spent = time.perf_counter() - begin
    return max(spent / count, 1e-9)
