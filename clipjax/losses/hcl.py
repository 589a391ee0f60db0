"""HCL: hard negatives weigh more, likely false ones are allowed for (arXiv 2010.04592).

With p = e^l_ii, n_j = e^l_ij over M negatives, l = scale * S: R = sum n_j^(1 + beta) /
mean n_j^beta, G = max((R - tau_plus M p) / (1 - tau_plus), M e^-scale), L_i = -log(p /
(p + G)); the mean over images and texts. The paper's form has in-modal negatives; this
is the cross-modal one.
"""

from __future__ import annotations

import dataclasses
import math

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int

from clipjax.losses.common import diagnostics, matches, pairs
from clipjax.types import Batch, LossSpec, Metrics, Outputs, Tree, UserError


def make(
    spec: LossSpec,
    *,
    beta: float = 1.0,
    tau_plus: float = 0.1,
    same_image: str = "negative",
    same_caption: str = "negative",
    block: int = 0,
) -> HclLoss:
    """The HCL loss.

    Args:
      beta: how much harder negatives weigh more, 0: evenly.
      tau_plus: share of negatives in [0, 1) that are thought to be matches.
      same_image, same_caption: "negative" or "mask"; see losses/common/matches.py.
      block: rows of the matrix at a time, 0 for all; see losses/common/pairs.py.

    Raises UserError for a value out of range.
    """
    rule = matches.rule(same_image, same_caption, matches.WITHOUT_POSITIVE)
    if not 0 <= beta < math.inf:
        raise UserError(f"loss.beta={beta}: must be 0 or more")
    if not 0 <= tau_plus < 1:
        raise UserError(f"loss.tau_plus={tau_plus}: must be in [0, 1)")
    return HclLoss(beta, tau_plus, rule, pairs.Plan(block, spec.mesh))


@dataclasses.dataclass(frozen=True)
class HclLoss:
    beta: float
    tau_plus: float
    rule: matches.Rule
    plan: pairs.Plan

    def init(self) -> Tree:
        return {}

    def __call__(
        self, outputs: Outputs, batch: Batch, state: Tree, step: Int[ArrayLike, ""]
    ) -> tuple[Float[Array, ""], Tree, Metrics]:
        """Needs image_embed, text_embed [b e], logit_scale; image_id by same_image,
        text and text_mask by same_caption."""
        scale = outputs["logit_scale"]

        def cost(
            own: Float[Array, " b"],
            count: Float[Array, " b"],
            hard: Float[Array, " b"],
            among: Float[Array, " b"],
        ) -> Float[Array, " b"]:
            own = own * scale
            # log of R less the share of false negatives, no less than the floor.
            log_r = jnp.log(count) + hard - among
            floor = jnp.log(count) - scale
            if self.tau_plus:
                false = jnp.log(self.tau_plus * count) + own
                log_g = _log_less(log_r, false, floor + math.log(1 - self.tau_plus))
                log_g = log_g - math.log(1 - self.tau_plus)
            else:
                log_g = jnp.maximum(log_r, floor)
            return jnp.logaddexp(own, log_g) - own

        value, uninformed = matches.mean_over_anchors(
            outputs, batch, cost, (1 + self.beta, self.beta), self.rule, self.plan
        )
        metrics = diagnostics.measure(outputs, self.plan, None)
        return value, state, {**metrics, diagnostics.UNINFORMED: uninformed}


def _log_less(
    a: Float[Array, " b"], b: Float[Array, " b"], floor: Float[Array, " b"]
) -> Float[Array, " b"]:
    """log max(e^a - e^b, e^floor); if the floor holds, the gradient is its own."""
    above = a + jnp.log1p(-jnp.exp(jnp.minimum(b - a, -1e-6)))
    enough = (a > b) & (above > floor)
    # Chosen before the logarithm, whose gradient at 0 would spoil the other's.
    safe = jnp.where(enough, b - a, -1.0)
    return jnp.where(enough, a + jnp.log1p(-jnp.exp(safe)), floor)
