"""Decoupled contrastive loss: no positive in the denominator (arXiv 2110.06848).

L_i = -w_i l_ii + log sum over negatives of e^l_ij, l = scale * S; the mean over images
and texts. The paper's form has in-modal negatives too; this is the cross-modal one.
w_i is 1, or with `sigma` (DCLW) 2 - b * softmax_i(S_ii / sigma), held fixed.
"""

from __future__ import annotations

import dataclasses
import math

import jax
from jaxtyping import Array, ArrayLike, Float, Int

from clipjax.losses.common import diagnostics, matches, pairs
from clipjax.types import Batch, LossSpec, Metrics, Outputs, Tree, UserError


def make(
    spec: LossSpec,
    *,
    sigma: float = 0.0,
    same_image: str = "negative",
    same_caption: str = "negative",
    block: int = 0,
) -> DclLoss:
    """The decoupled loss.

    Args:
      sigma: of the weights of DCLW, 0.5 in the paper; 0: all weights are 1.
      same_image, same_caption: "negative", "mask" or "positive" (the mean of l over all
        matches in place of l_ii, none of them in the sum); see common/matches.py.
      block: rows of the matrix at a time, 0 for all; see losses/common/pairs.py.

    Raises UserError for a value out of range.
    """
    rule = matches.rule(same_image, same_caption)
    if not 0 <= sigma < math.inf:
        raise UserError(f"loss.sigma={sigma}: must be 0 or more")
    return DclLoss(sigma, rule, pairs.Plan(block, spec.mesh))


@dataclasses.dataclass(frozen=True)
class DclLoss:
    sigma: float
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
            push: Float[Array, " b"],
        ) -> Float[Array, " b"]:
            pull = own * scale
            if self.sigma:
                share = jax.nn.softmax(jax.lax.stop_gradient(own) / self.sigma)
                pull = pull * (2 - own.shape[0] * share)
            return push - pull

        value, uninformed = matches.mean_over_anchors(
            outputs, batch, cost, (1.0,), self.rule, self.plan
        )
        metrics = diagnostics.measure(outputs, self.plan, None)
        return value, state, {**metrics, diagnostics.UNINFORMED: uninformed}
