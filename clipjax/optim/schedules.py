"""Learning-rate schedules: each `name(peak, total_steps, steps_per_epoch, *, options)`
returns a function of the step (int32 array or int) giving a float32 rate.

`warmup` is a number of steps if it is 1 or more, else a fraction of the run.
"""

from __future__ import annotations

import jax.numpy as jnp
import optax

from clipjax.optim.limits import check
from clipjax.types import UserError

SECTION = "optim.schedule"


def _with_warmup(
    after: optax.Schedule, peak: float, warmup: int, start: float
) -> optax.Schedule:
    """Linear warmup from start * peak, then `after`, called with steps from 0."""
    if warmup == 0:
        return after

    def schedule(count):
        # Step 0 already updates: the first rate is one warmup step above the start.
        rising = start + (1 - start) * (jnp.asarray(count) + 1) / warmup
        return jnp.where(count < warmup, peak * rising, after(count - warmup))

    return schedule


def _warmup_steps(total_steps: int, warmup: float) -> int:
    """Raises UserError if the run is too short for its warmup."""
    steps = round(warmup * total_steps) if warmup < 1 else round(warmup)
    if not 0 <= steps < max(total_steps, 1):
        raise UserError(
            f"optim.schedule.warmup={warmup}: {steps} steps of warmup do not fit into "
            f"a run of {total_steps} steps"
        )
    return steps


def cosine(
    peak: float,
    total_steps: int,
    steps_per_epoch: int,
    *,
    warmup: float = 0.0,
    warmup_start: float = 0.0,
    floor: float = 0.0,
    per_epoch: bool = False,
) -> optax.Schedule:
    """Half a cosine from peak to floor (arXiv 1608.03983, without restarts).

    Args:
      warmup: steps of the linear rise to the peak; below 1, a fraction of the run.
      warmup_start: the first rate as a factor of the peak.
      floor: the last rate, not a factor.
      per_epoch: hold the rate for a whole epoch, as PyTorch's CosineAnnealingLR does
        when it is stepped once an epoch.

    >>> rate = cosine(1.0, 100, 10, warmup=10)
    >>> [round(float(rate(step)), 3) for step in (0, 9, 55, 100)]
    [0.1, 1.0, 0.5, 0.0]
    """
    check(SECTION, warmup_start=warmup_start, floor=floor)
    rising = _warmup_steps(total_steps, warmup)
    length = max(total_steps - rising, 1)

    def decay(count):
        if per_epoch:
            count = count // steps_per_epoch * steps_per_epoch
        share = jnp.clip(count / length, 0.0, 1.0)
        return floor + (peak - floor) * 0.5 * (1 + jnp.cos(jnp.pi * share))

    return _with_warmup(decay, peak, rising, warmup_start)


def linear(
    peak: float,
    total_steps: int,
    steps_per_epoch: int,
    *,
    warmup: float = 0.0,
    warmup_start: float = 0.0,
    floor: float = 0.0,
) -> optax.Schedule:
    """A straight line from peak to floor.

    Args:
      warmup: steps of the linear rise to the peak; below 1, a fraction of the run.
      warmup_start: the first rate as a factor of the peak.
      floor: the last rate, not a factor.

    >>> rate = linear(1.0, 100, 10, floor=0.2)
    >>> [round(float(rate(step)), 3) for step in (0, 50, 100)]
    [1.0, 0.6, 0.2]
    """
    check(SECTION, warmup_start=warmup_start, floor=floor)
    rising = _warmup_steps(total_steps, warmup)
    length = max(total_steps - rising, 1)

    def decay(count):
        return peak + (floor - peak) * jnp.clip(count / length, 0.0, 1.0)

    return _with_warmup(decay, peak, rising, warmup_start)


def constant(
    peak: float,
    total_steps: int,
    steps_per_epoch: int,
    *,
    warmup: float = 0.0,
    warmup_start: float = 0.0,
) -> optax.Schedule:
    """Always the peak, after warmup.

    Args:
      warmup: steps of the linear rise to the peak; below 1, a fraction of the run.
      warmup_start: the first rate as a factor of the peak.

    >>> rate = constant(1.0, 100, 10, warmup=0.04)
    >>> [round(float(rate(step)), 3) for step in (0, 3, 100)]
    [0.25, 1.0, 1.0]
    """
    check(SECTION, warmup_start=warmup_start)
    return _with_warmup(
        lambda count: jnp.full((), peak, jnp.float32),
        peak,
        _warmup_steps(total_steps, warmup),
        warmup_start,
    )
