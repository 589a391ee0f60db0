"""Schedules of several phases, or of none that ends; see schedules.py."""

from __future__ import annotations

import math

import jax.numpy as jnp
import optax

from clipjax.optim.limits import check
from clipjax.optim.warmup import SECTION, fitting_steps, warmup_steps, with_warmup
from clipjax.types import UserError

FORMS = ("linear", "cosine", "sqrt")


def one_cycle(
    peak: float,
    total_steps: int,
    steps_per_epoch: int,
    *,
    warmup: float = 0.3,
    warmup_start: float = 0.04,
    end: float = 4e-6,
) -> optax.Schedule:
    """Half a cosine up to the peak and half a one down (arXiv 1708.07120), as PyTorch's
    OneCycleLR; the momentum stays.

    Args:
      warmup: steps of the rise to the peak; below 1, a fraction of the run.
      warmup_start: the first rate as a factor of the peak.
      end: the last rate as a factor of the peak.

    >>> rate = one_cycle(1.0, 100, 10, warmup=31.0)
    >>> [round(float(rate(step)), 3) for step in (0, 15, 30, 99)]
    [0.04, 0.52, 1.0, 0.0]
    """
    check(SECTION, warmup_start=warmup_start, end=end)
    # The peak is the rise's last step, and the last rate that of the run's last step.
    top = max(warmup_steps(total_steps, warmup) - 1, 0)
    last = max(total_steps - 1, top + 1)

    def between(first, second, share):
        half = 0.5 * (1 + jnp.cos(jnp.pi * jnp.clip(share, 0.0, 1.0)))
        return peak * (second + (first - second) * half)

    def schedule(count):
        rise = between(warmup_start, 1.0, count / max(top, 1))
        fall = between(1.0, end, (count - top) / (last - top))
        return jnp.where(jnp.asarray(count) < top, rise, fall)

    return schedule


def inverse_sqrt(
    peak: float,
    total_steps: int,
    steps_per_epoch: int,
    *,
    warmup: float = 0.1,
    warmup_start: float = 0.0,
    timescale: float = 0.1,
    cooldown: float = 0.0,
) -> optax.Schedule:
    """Falls with the root of the steps (arXiv 1706.03762, 2106.04560), so a run can go
    on; the paper's first has a timescale of its warmup.

    Args:
      warmup: steps of the linear rise to the peak; below 1, a fraction of the run.
      warmup_start: the first rate as a factor of the peak.
      timescale: steps after the warmup at which the rate is the peak over the root of
        2; below 1, a fraction of the run.
      cooldown: steps of a linear fall to 0 at the end; below 1, a fraction of the run.

    >>> rate = inverse_sqrt(1.0, 100, 10, warmup=10.0, timescale=10.0)
    >>> [round(float(rate(step)), 3) for step in (9, 10, 20, 40)]
    [1.0, 1.0, 0.707, 0.5]
    """
    check(SECTION, warmup_start=warmup_start)
    rising = warmup_steps(total_steps, warmup)
    scale = fitting_steps("timescale", timescale, total_steps, last=2**31 - 1)
    left = total_steps - rising
    falling = fitting_steps("cooldown", cooldown, total_steps, least=0, last=left)

    def decay(count):
        rate = peak * jnp.sqrt(scale / (scale + jnp.maximum(count, 0)))
        if not falling:
            return rate
        return rate * jnp.clip((left - count) / falling, 0.0, 1.0)

    return with_warmup(decay, peak, rising, warmup_start)


def wsd(
    peak: float,
    total_steps: int,
    steps_per_epoch: int,
    *,
    warmup: float = 0.05,
    warmup_start: float = 0.0,
    cooldown: float = 0.2,
    form: str = "linear",
    floor: float = 0.0,
) -> optax.Schedule:
    """Warmup, a stable phase at the peak, and a fall to the floor (arXiv 2404.06395,
    2405.18392).

    Args:
      warmup: steps of the linear rise to the peak; below 1, a fraction of the run.
      warmup_start: the first rate as a factor of the peak.
      cooldown: steps of the fall; below 1, a fraction of the run.
      form: of the fall: "linear", "cosine", or "sqrt", 1 minus the root of its share.
      floor: the last rate, not a factor.

    >>> rate = wsd(1.0, 100, 10, warmup=5.0, cooldown=20.0)
    >>> [round(float(rate(step)), 3) for step in (4, 80, 90, 100)]
    [1.0, 1.0, 0.5, 0.0]
    """
    check(SECTION, warmup_start=warmup_start, floor=floor)
    if form not in FORMS:
        raise UserError(f"{SECTION}.form={form!r}: must be one of {', '.join(FORMS)}")
    rising = warmup_steps(total_steps, warmup)
    length = total_steps - rising
    falling = fitting_steps("cooldown", cooldown, total_steps, last=length)

    def decay(count):
        share = jnp.clip((count - (length - falling)) / falling, 0.0, 1.0)
        if form == "cosine":
            share = 0.5 * (1 - jnp.cos(jnp.pi * share))
        if form == "sqrt":
            share = jnp.sqrt(share)
        return peak + (floor - peak) * share

    return with_warmup(decay, peak, rising, warmup_start)


def warm_restarts(
    peak: float,
    total_steps: int,
    steps_per_epoch: int,
    *,
    warmup: float = 0.0,
    warmup_start: float = 0.0,
    cycle: float = 0.25,
    growth: float = 1.0,
    shrink: float = 1.0,
    floor: float = 0.0,
) -> optax.Schedule:
    """Half a cosine from the peak to the floor, again and again (arXiv 1608.03983), as
    PyTorch's CosineAnnealingWarmRestarts.

    Args:
      warmup: steps of the linear rise to the peak; below 1, a fraction of the run.
      warmup_start: the first rate as a factor of the peak.
      cycle: steps of the first cycle, after the warmup; below 1, a fraction of the run.
      growth: length of a cycle over that of the one before, at least 1.
      shrink: the peak of a cycle over that of the one before.
      floor: the rate at a cycle's end, not a factor.

    >>> rate = warm_restarts(1.0, 100, 10, cycle=20.0, growth=2.0)
    >>> [round(float(rate(step)), 3) for step in (0, 10, 20, 40, 60)]
    [1.0, 0.5, 1.0, 0.5, 1.0]
    """
    check(SECTION, warmup_start=warmup_start, shrink=shrink, floor=floor)
    if not 1 <= growth < math.inf:
        raise UserError(f"{SECTION}.growth={growth}: must be at least 1")
    rising = warmup_steps(total_steps, warmup)
    length = total_steps - rising
    first = fitting_steps("cycle", cycle, total_steps, last=max(length, 1))
    starts, size = [0], float(first)
    # Cycles of one length need no table.
    while growth > 1 and starts[-1] + size < max(length, 1):
        starts.append(starts[-1] + round(size))
        size *= growth
    sizes = [*(b - a for a, b in zip(starts, starts[1:], strict=False)), round(size)]

    def decay(count):
        count = jnp.maximum(count, 0)
        if growth == 1:
            number, share = count // first, count % first / first
        else:
            number = (count[..., None] >= jnp.asarray(starts)).sum(-1) - 1
            into = count - jnp.asarray(starts)[number]
            share = jnp.clip(into / jnp.asarray(sizes)[number], 0.0, 1.0)
        top = peak * jnp.asarray(shrink) ** number
        return floor + (top - floor) * 0.5 * (1 + jnp.cos(jnp.pi * share))

    return with_warmup(decay, peak, rising, warmup_start)
