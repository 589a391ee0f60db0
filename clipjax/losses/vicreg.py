"""VICReg between images and texts (arXiv 2105.04906, equations 1 to 6).

On projections X, Y [b d] that are not normalised: L = invariance * mean (X - Y)^2
+ variance * (mean max(0, 1 - std X) + the same of Y) / 2 + covariance * (sum of squares
off the diagonal of cov X, over d, + the same of Y).
"""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int

from clipjax.losses.common import diagnostics, matches, pairs
from clipjax.losses.common.combined import check_weights
from clipjax.types import Batch, LossSpec, Metrics, Outputs, Tree

EPS = 1e-4  # inside the square root of the variance, as published

BLOCK = 1024  # rows of the matrix at a time


def make(
    spec: LossSpec,
    *,
    invariance: float = 25.0,
    variance: float = 25.0,
    covariance: float = 1.0,
) -> VicregLoss:
    """The VICReg loss, on the model's expanded features if it has them
    (model.expander), else on its features before normalisation. The model's logit_scale
    has no part in it.

    Args:
      invariance: weight of the distance of pairs.
      variance: weight of the spread of each dimension.
      covariance: weight of the correlation of dimensions.

    Raises UserError for weights that are not 0 or more, or all 0.
    """
    check_weights(invariance=invariance, variance=variance, covariance=covariance)
    # Only the accuracies that are logged look at the matrix.
    plan = pairs.Plan(BLOCK if spec.global_batch > BLOCK else 0, spec.mesh)
    return VicregLoss(invariance, variance, covariance, plan)


@dataclasses.dataclass(frozen=True)
class VicregLoss:
    invariance: float
    variance: float
    covariance: float
    plan: pairs.Plan

    def init(self) -> Tree:
        return {}

    def __call__(
        self, outputs: Outputs, batch: Batch, state: Tree, step: Int[ArrayLike, ""]
    ) -> tuple[Float[Array, ""], Tree, Metrics]:
        """Needs image_expanded, text_expanded or image_features, text_features [b d].

        Raises UserError for a batch of one, which has no variance.
        """
        kind = "expanded" if "image_expanded" in outputs else "features"
        x, y = outputs[f"image_{kind}"], outputs[f"text_{kind}"]
        matches.at_least_two(x)
        invariance = jnp.square(x - y).mean()
        (spread_x, shared_x), (spread_y, shared_y) = _moments(x), _moments(y)
        variance = (spread_x + spread_y) / 2
        covariance = shared_x + shared_y
        value = (
            self.invariance * invariance
            + self.variance * variance
            + self.covariance * covariance
        )
        metrics = {
            **diagnostics.measure(outputs, self.plan, None),
            "invariance": invariance,
            "variance": variance,
            "covariance": covariance,
        }
        return value, state, metrics


def _moments(x: Float[Array, "b d"]) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """What the deviations lack of 1 on average, and the sum of covariances over d."""
    n, d = x.shape
    x = x - x.mean(axis=0, keepdims=True)
    covariance = pairs.products(x.T, x.T) / (n - 1)
    variances = jnp.diagonal(covariance)
    lack = jnp.maximum(0, 1 - jnp.sqrt(variances + EPS)).mean()
    off = jnp.where(jnp.eye(d, dtype=bool), 0, covariance)
    return lack, jnp.square(off).sum() / d
