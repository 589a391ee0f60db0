"""Parameters of a loss that change over a run: gamma, temperature, rho.

An option `schedules` holds (parameter, shape, end value, share of the run) for each:
("gamma", "cosine", 0.2, 0.5) goes from the option's own value to 0.2 in the first half
of the steps and stays there. Shapes: "cosine" (half a wave) and "linear".
"""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
from jaxtyping import ArrayLike, Float, Int

from clipjax.types import UserError

Schedules = tuple[tuple[str, str, float, float], ...]

SHAPES = {
    "cosine": lambda share: (1 + jnp.cos(jnp.pi * share)) / 2,
    "linear": lambda share: 1 - share,
}


@dataclasses.dataclass(frozen=True)
class Values:
    """See `values`. start: name -> value at step 0; total: steps of the run."""

    start: tuple[tuple[str, float], ...]
    schedules: Schedules
    total: int

    def at(self, step: Int[ArrayLike, ""]) -> dict[str, Float[ArrayLike, ""]]:
        """name -> value at a step."""
        current: dict[str, Float[ArrayLike, ""]] = dict(self.start)
        for name, shape, end, share in self.schedules:
            past = jnp.clip(jnp.asarray(step) / max(share * self.total, 1), 0, 1)
            weight = SHAPES[shape](past)
            current[name] = end + (current[name] - end) * weight
        return current


def values(
    total: int, schedules: Schedules, limits: dict[str, tuple[float, float]], **start
) -> Values:
    """The parameters of a loss, fixed or scheduled.

    limits: name -> the smallest and the largest value allowed.

    Raises UserError for a value out of its limits or for an invalid schedule.
    """
    _in_limits(start, limits)
    names = [name for name, *_ in schedules]
    if len(names) != len(set(names)):
        raise UserError(f"loss.schedules: {', '.join(names)}: one is there twice")
    for name, shape, end, share in schedules:
        if name not in start:
            raise UserError(
                f"loss.schedules: {name!r} is none of this loss's parameters "
                f"{', '.join(start)}"
            )
        if shape not in SHAPES:
            raise UserError(
                f"loss.schedules: shape {shape!r} must be one of {', '.join(SHAPES)}"
            )
        if not 0 < share <= 1:
            raise UserError(
                f"loss.schedules: {name} ends after {share} of the run; use a share "
                "above 0, 1 at most"
            )
        _in_limits({name: end}, limits)
    return Values(tuple(start.items()), tuple(schedules), total)


def _in_limits(
    values: dict[str, float], limits: dict[str, tuple[float, float]]
) -> None:
    for name, value in values.items():
        low, high = limits[name]
        if not low <= value <= high:
            raise UserError(f"loss.{name}={value}: must be from {low} to {high}")


# Limits that several losses share.
TEMPERATURE = (0.001, 100.0)
SHARE = (1e-6, 1.0)
