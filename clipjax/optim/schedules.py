"""Learning-rate schedules: each `name(peak, total_steps, steps_per_epoch, *, options)`
returns a function of the step (int32 array or int) giving a float32 rate.

`warmup` is a number of steps if it is 1 or more, else a fraction of the run.
"""

from __future__ import annotations

import jax.numpy as jnp
import optax

from clipjax.optim.limits import check
from clipjax.optim.phases import inverse_sqrt, one_cycle, warm_restarts, wsd
from clipjax.optim.warmup import SECTION, fitting_steps, warmup_steps, with_warmup
from clipjax.types import UserError


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
    rising = warmup_steps(total_steps, warmup)
    length = max(total_steps - rising, 1)

    def decay(count):
        if per_epoch:
            count = count // steps_per_epoch * steps_per_epoch
        share = jnp.clip(count / length, 0.0, 1.0)
        return floor + (peak - floor) * 0.5 * (1 + jnp.cos(jnp.pi * share))

    return with_warmup(decay, peak, rising, warmup_start)


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
    rising = warmup_steps(total_steps, warmup)
    length = max(total_steps - rising, 1)

    def decay(count):
        return peak + (floor - peak) * jnp.clip(count / length, 0.0, 1.0)

    return with_warmup(decay, peak, rising, warmup_start)


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
    return with_warmup(
        lambda count: jnp.full((), peak, jnp.float32),
        peak,
        warmup_steps(total_steps, warmup),
        warmup_start,
    )


def polynomial(
    peak: float,
    total_steps: int,
    steps_per_epoch: int,
    *,
    warmup: float = 0.0,
    warmup_start: float = 0.0,
    power: float = 2.0,
    floor: float = 0.0,
) -> optax.Schedule:
    """A power of the share of the run that is left, from peak to floor.

    Args:
      warmup: steps of the linear rise to the peak; below 1, a fraction of the run.
      warmup_start: the first rate as a factor of the peak.
      power: of the share; 1 is a straight line.
      floor: the last rate, not a factor.

    >>> rate = polynomial(1.0, 100, 10, power=2.0)
    >>> [round(float(rate(step)), 3) for step in (0, 50, 100)]
    [1.0, 0.25, 0.0]
    """
    check(SECTION, warmup_start=warmup_start, power=power, floor=floor)
    rising = warmup_steps(total_steps, warmup)
    length = max(total_steps - rising, 1)

    def decay(count):
        left = 1 - jnp.clip(count / length, 0.0, 1.0)
        return floor + (peak - floor) * left**power

    return with_warmup(decay, peak, rising, warmup_start)


def exponential(
    peak: float,
    total_steps: int,
    steps_per_epoch: int,
    *,
    warmup: float = 0.0,
    warmup_start: float = 0.0,
    end: float = 0.01,
    per_epoch: bool = False,
) -> optax.Schedule:
    """The same factor each step, from peak to a share of it.

    Args:
      warmup: steps of the linear rise to the peak; below 1, a fraction of the run.
      warmup_start: the first rate as a factor of the peak.
      end: the last rate as a factor of the peak, above 0.
      per_epoch: hold the rate for a whole epoch, as PyTorch's ExponentialLR does when
        it is stepped once an epoch.

    >>> rate = exponential(1.0, 100, 10, end=0.01)
    >>> [round(float(rate(step)), 3) for step in (0, 50, 100)]
    [1.0, 0.1, 0.01]
    """
    check(SECTION, warmup_start=warmup_start, end=end)
    rising = warmup_steps(total_steps, warmup)
    length = max(total_steps - rising, 1)

    def decay(count):
        if per_epoch:
            count = count // steps_per_epoch * steps_per_epoch
        return peak * jnp.asarray(end) ** jnp.clip(count / length, 0.0, 1.0)

    return with_warmup(decay, peak, rising, warmup_start)


def step(
    peak: float,
    total_steps: int,
    steps_per_epoch: int,
    *,
    warmup: float = 0.0,
    warmup_start: float = 0.0,
    every: float = 0.3,
    factor: float = 0.1,
) -> optax.Schedule:
    """Falls by a factor every so many steps, as PyTorch's StepLR.

    Args:
      warmup: steps of the linear rise to the peak; below 1, a fraction of the run.
      warmup_start: the first rate as a factor of the peak.
      every: steps from one fall to the next, after the warmup; below 1, a fraction of
        the run.
      factor: the rate after a fall over that before.

    >>> rate = step(1.0, 100, 10, every=40.0)
    >>> [round(float(rate(step)), 3) for step in (0, 39, 40, 80)]
    [1.0, 1.0, 0.1, 0.01]
    """
    check(SECTION, warmup_start=warmup_start, factor=factor)
    rising = warmup_steps(total_steps, warmup)
    length = fitting_steps("every", every, total_steps)

    def decay(count):
        return peak * jnp.asarray(factor) ** (jnp.maximum(count, 0) // length)

    return with_warmup(decay, peak, rising, warmup_start)


def multistep(
    peak: float,
    total_steps: int,
    steps_per_epoch: int,
    *,
    warmup: float = 0.0,
    warmup_start: float = 0.0,
    milestones: tuple[float, ...] = (0.5, 0.75),
    factor: float = 0.1,
) -> optax.Schedule:
    """Falls by a factor at given steps, as PyTorch's MultiStepLR.

    Args:
      warmup: steps of the linear rise to the peak; below 1, a fraction of the run.
      warmup_start: the first rate as a factor of the peak.
      milestones: the steps of the falls, from the run's start; below 1, fractions of
        the run.
      factor: the rate after a fall over that before.

    >>> rate = multistep(1.0, 100, 10, milestones=(50.0, 75.0))
    >>> [round(float(rate(step)), 3) for step in (0, 49, 50, 75)]
    [1.0, 1.0, 0.1, 0.01]
    """
    check(SECTION, warmup_start=warmup_start, factor=factor)
    rising = warmup_steps(total_steps, warmup)
    steps = [fitting_steps("milestones", each, total_steps) for each in milestones]
    if early := [each for each in steps if each < rising]:
        raise UserError(
            f"{SECTION}.milestones={milestones}: step {early[0]} is in the warmup of "
            f"{rising} steps"
        )
    falls = jnp.asarray(sorted(steps), jnp.int32) - rising

    def decay(count):
        passed = (jnp.asarray(count)[..., None] >= falls).sum(-1)
        return peak * jnp.asarray(factor) ** passed

    return with_warmup(decay, peak, rising, warmup_start)


# Schedules by name, for the registry.
COMPONENTS = {
    made.__name__: made
    for made in (
        constant,
        cosine,
        exponential,
        inverse_sqrt,
        linear,
        multistep,
        one_cycle,
        polynomial,
        step,
        warm_restarts,
        wsd,
    )
}
