"""A weighted sum of losses: `:loss=clip+cyclip`."""

from __future__ import annotations

import dataclasses
import math

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int

from clipjax.losses.common import diagnostics
from clipjax.types import Batch, Loss, Metrics, Outputs, Tree, UserError


def check_weights(**weights: float) -> None:
    """Raises UserError unless a loss's weights are 0 or more, one of them above."""
    if not all(0 <= weight < math.inf for weight in weights.values()) or not any(
        weights.values()
    ):
        values = ", ".join(f"loss.{name}={weight}" for name, weight in weights.items())
        raise UserError(f"{values}: use 0 or more, one of them above 0")


@dataclasses.dataclass(frozen=True)
class CombinedLoss:
    """parts: (label, weight, loss) of each."""

    parts: tuple[tuple[str, float, Loss], ...]

    def init(self) -> Tree:
        """The parts' states by label."""
        return {label: loss.init() for label, _, loss in self.parts}

    def __call__(
        self, outputs: Outputs, batch: Batch, state: Tree, step: Int[ArrayLike, ""]
    ) -> tuple[Float[Array, ""], Tree, Metrics]:
        """The sum; the value of each part is the metric LABEL_loss.

        A metric that two parts have is the first part's. UNINFORMED is the sum of the
        parts' values, if each part has one.
        """
        total, states, metrics = jnp.zeros((), jnp.float32), {}, {}
        even: list[Float[Array, ""]] = []
        for label, weight, loss in self.parts:
            value, states[label], part_metrics = loss(
                outputs, batch, state[label], step
            )
            total += weight * value
            if diagnostics.UNINFORMED in part_metrics:
                even.append(weight * part_metrics.pop(diagnostics.UNINFORMED))
            metrics = {**part_metrics, **metrics, f"{label}_loss": value}
        if len(even) == len(self.parts):
            metrics[diagnostics.UNINFORMED] = sum(even)
        return total, states, metrics
