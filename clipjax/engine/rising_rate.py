"""The schedule of the learning-rate range test: an exponential rise."""

from __future__ import annotations

import jax.numpy as jnp
import optax


def make(
    peak: float,
    total_steps: int,
    steps_per_epoch: int,
    *,
    low: float = 1e-7,
    high: float = 10.0,
    steps: int = 100,
) -> optax.Schedule:
    """From one rate to another in equal factors, whatever the run's own rate and length
    (Smith 2017, arXiv 1506.01186; the exponential form is fastai's).

    Args:
      low: the rate of step 0.
      high: the rate of the last step, and of later ones.
      steps: how many there are.

    >>> rate = make(1.0, 10, 1, low=0.01, high=1.0, steps=3)
    >>> [round(float(rate(step)), 3) for step in range(3)]
    [0.01, 0.1, 1.0]
    """
    factor = (high / low) ** (1 / max(steps - 1, 1))
    return lambda count: low * factor ** jnp.minimum(count, steps - 1)
