"""CyCLIP: CLIP's loss and two terms of consistency (arXiv 2205.14459).

L = contrastive * L_CLIP
    + in_modal / b * sum_ij (<image_i, image_j> - <text_i, text_j>)^2
    + cross_modal / b * sum_ij (<image_i, text_j> - <image_j, text_i>)^2
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int

from clipjax.losses import clip
from clipjax.losses.common import diagnostics, pairs
from clipjax.losses.common.combined import check_weights
from clipjax.types import Batch, LossSpec, Metrics, Outputs, Tree


def make(
    spec: LossSpec,
    *,
    in_modal: float = 0.25,
    cross_modal: float = 0.25,
    contrastive: float = 1.0,
    same_image: str = "negative",
    same_caption: str = "negative",
    block: int = 0,
) -> CyclipLoss:
    """The CyCLIP loss.

    Args:
      in_modal, cross_modal: weights of the two terms.
      contrastive: weight of the CLIP loss; 0 for the two terms alone, to add to
        another loss.
      same_image, same_caption, block: as of the CLIP loss; the two terms are over all
        pairs.

    Raises UserError for a value out of range.
    """
    check_weights(in_modal=in_modal, cross_modal=cross_modal, contrastive=contrastive)
    softmax = clip.make(
        spec, same_image=same_image, same_caption=same_caption, block=block
    )
    return CyclipLoss(in_modal, cross_modal, contrastive, softmax)


@dataclasses.dataclass(frozen=True)
class CyclipLoss:
    in_modal: float
    cross_modal: float
    contrastive: float
    softmax: clip.ClipLoss

    def init(self) -> Tree:
        return {}

    def __call__(
        self, outputs: Outputs, batch: Batch, state: Tree, step: Int[ArrayLike, ""]
    ) -> tuple[Float[Array, ""], Tree, Metrics]:
        """Needs image_embed, text_embed [b e], logit_scale; image_id by same_image,
        text and text_mask by same_caption."""
        image, text = outputs["image_embed"], outputs["text_embed"]
        value, _, metrics = self.softmax(outputs, batch, {}, step)
        # Both differences are inner products of longer vectors.
        both = jnp.concatenate([image, text], axis=1)
        against = jnp.concatenate([image, -text], axis=1)
        crossed = jnp.concatenate([text, -image], axis=1)
        n, plan = image.shape[0], self.softmax.plan
        in_modal = pairs.total(_squares, both, against, plan) / n
        cross_modal = pairs.total(_squares, both, crossed, plan) / n
        # The contrastive term if all pairs were equally similar; the others stay.
        even = metrics.pop(diagnostics.UNINFORMED)
        consistency = self.in_modal * in_modal + self.cross_modal * cross_modal
        if self.contrastive:
            even = self.contrastive * even + jax.lax.stop_gradient(consistency)
            metrics[diagnostics.UNINFORMED] = even
        metrics = {
            **metrics,
            "contrastive": value,
            "in_modal": in_modal,
            "cross_modal": cross_modal,
        }
        return self.contrastive * value + consistency, state, metrics


def _squares(
    rows: Float[Array, "n e"], columns: Float[Array, "m e"]
) -> Float[Array, ""]:
    return jnp.square(pairs.products(rows, columns)).sum()
