"""What schedules share: the rise to the peak, and lengths in steps or shares."""

from __future__ import annotations

import jax.numpy as jnp
import optax

from clipjax.types import UserError

SECTION = "optim.schedule"


def with_warmup(
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


def warmup_steps(total_steps: int, warmup: float) -> int:
    """Raises UserError if the run is too short for its warmup."""
    return fitting_steps("warmup", warmup, total_steps, least=0)


def fitting_steps(
    name: str,
    value: float,
    total_steps: int,
    *,
    least: int = 1,
    last: int | None = None,
) -> int:
    """A length in steps: the value itself if it is 1 or more, else a share of the run.

    Raises UserError, naming the option, for fewer steps than `least`, and for more than
    `last`, by default one fewer than the run's.
    """
    steps = round(value * total_steps) if value < 1 else round(value)
    last = max(total_steps, 1) - 1 if last is None else last
    if not least <= steps <= last:
        what = f"{SECTION}.{name}={value}: {steps} steps of {name}"
        fits = "do not fit into" if steps > last else "are too few for"
        raise UserError(f"{what} {fits} a run of {total_steps} steps")
    return steps
