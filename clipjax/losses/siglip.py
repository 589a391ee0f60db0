"""The sigmoid loss: a binary decision per pair (SigLIP, arXiv 2303.15343).

L = (1 / b) * sum over pairs of -log sigmoid(z_ij * (scale * <image_i, text_j> + bias)),
z = 1 for matches and -1 for all others.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int

from clipjax.losses.common import diagnostics, matches, pairs
from clipjax.types import Batch, LossSpec, Metrics, Outputs, Tree, UserError

# The paper's initial values; a config's own values take precedence.
MODEL_OPTIONS = {"logit_scale_init": 10.0, "logit_bias_init": -10.0}
# It has no limit like CLIP's: released scales exceed that (so400m has 112.3).
TRAIN_OPTIONS = {"max_logit_scale": 0.0}


def make(
    spec: LossSpec,
    *,
    same_image: str = "negative",
    same_caption: str = "negative",
    block: int = 0,
) -> SigmoidLoss:
    """The sigmoid loss.

    Args:
      same_image, same_caption: "negative", "mask" or "positive"; see
        losses/common/matches.py.
      block: rows of the matrix at a time, 0 for all; see losses/common/pairs.py.

    Raises UserError for a value out of range.
    """
    rule = matches.rule(same_image, same_caption)
    return SigmoidLoss(rule, pairs.Plan(block, spec.mesh))


@dataclasses.dataclass(frozen=True)
class SigmoidLoss:
    rule: matches.Rule
    plan: pairs.Plan

    def init(self) -> Tree:
        return {}

    def __call__(
        self, outputs: Outputs, batch: Batch, state: Tree, step: Int[ArrayLike, ""]
    ) -> tuple[Float[Array, ""], Tree, Metrics]:
        """Needs image_embed, text_embed [b e], logit_scale, logit_bias.

        Raises UserError for a model without a bias.
        """
        if "logit_bias" not in outputs:
            raise UserError(
                "the siglip loss needs a model with a bias: set "
                "model.logit_bias_init, -10 in the paper"
            )
        scale, bias = outputs["logit_scale"], outputs["logit_bias"]
        rows, columns = self.rule.sides(outputs, batch, (scale, scale))

        def term(
            rows: tuple[pairs.Side, Float[Array, " n"]], columns: pairs.Side
        ) -> Float[Array, ""]:
            side, bias = rows
            logits = pairs.products(side.vectors, columns.vectors)
            logits = side.scale[:, None] * logits + bias[:, None]
            match = pairs.mask(side, columns, "matches")
            # -log sigmoid(-l) = softplus(l), -log sigmoid(l) = softplus(l) - l.
            loss = jax.nn.softplus(logits) - jnp.where(match, logits, 0)
            return jnp.where(pairs.mask(side, columns, "all"), loss, 0).sum()

        n = rows.vectors.shape[0]
        biases = jnp.broadcast_to(bias, (n,))
        value = pairs.total(term, (rows, biases), columns, self.plan)
        metrics = diagnostics.measure(outputs, self.plan, None)
        image, text = rows.vectors.mean(axis=0), columns.vectors.mean(axis=0)
        even = jax.lax.stop_gradient(scale * (image * text).sum() + bias)
        count = matches.kept_count(columns).mean()
        match = count - matches.negatives(columns).mean()
        metrics[diagnostics.UNINFORMED] = count * jax.nn.softplus(even) - match * even
        return value / n, state, metrics
