"""HN-NCE: hard negatives weigh more (DiHT, arXiv 2301.02280, section 3.3).

With l = scale * S: L_i = -l_ii + log(alpha e^l_ii + sum_j w_ij e^l_ij), where
w_ij = (b - 1) e^(beta l_ij) / sum_k e^(beta l_ik) over the negatives; the mean over
images and texts. alpha = 1, beta = 0 is CLIP's loss; alpha = 0 the decoupled form.
"""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int

from clipjax.losses.common import diagnostics, matches, pairs
from clipjax.types import Batch, LossSpec, Metrics, Outputs, Tree, UserError


def make(
    spec: LossSpec,
    *,
    alpha: float = 1.0,
    beta: float = 0.25,
    fixed_weights: bool = False,
    same_image: str = "negative",
    same_caption: str = "negative",
    block: int = 0,
) -> HnNceLoss:
    """The HN-NCE loss.

    Args:
      alpha: weight of the positive in the denominator, from 0 to 1.
      beta: how much harder negatives weigh more, 0: evenly.
      fixed_weights: hold the weights w fixed; else they carry gradient, as in the
        published code.
      same_image, same_caption: "negative" or "mask"; see losses/common/matches.py.
      block: rows of the matrix at a time, 0 for all; see losses/common/pairs.py.

    Raises UserError for a value out of range.
    """
    rule = matches.rule(same_image, same_caption, matches.WITHOUT_POSITIVE)
    if not 0 <= alpha <= 1:
        raise UserError(f"loss.alpha={alpha}: must be from 0 to 1")
    if not 0 <= beta < math.inf:
        raise UserError(f"loss.beta={beta}: must be 0 or more")
    plan = pairs.Plan(block, spec.mesh)
    return HnNceLoss(alpha, beta, fixed_weights, rule, plan)


@dataclasses.dataclass(frozen=True)
class HnNceLoss:
    alpha: float
    beta: float
    fixed_weights: bool
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
            # For beta 0 `among` is log count.
            negatives = jnp.log(count) + hard - among
            if self.fixed_weights:
                moves = hard / (1 + self.beta)
                negatives = jax.lax.stop_gradient(negatives - moves) + moves
            below = negatives
            if self.alpha:
                below = jnp.logaddexp(math.log(self.alpha) + own * scale, negatives)
            return below - own * scale

        value, uninformed = matches.mean_over_anchors(
            outputs, batch, cost, (1 + self.beta, self.beta), self.rule, self.plan
        )
        metrics = diagnostics.measure(outputs, self.plan, None)
        return value, state, {**metrics, diagnostics.UNINFORMED: uninformed}
