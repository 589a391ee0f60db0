"""CLIP's symmetric softmax loss (InfoNCE over the batch), arXiv 2103.00020 section 2.3.

L = (CE over rows + CE over columns) / 2 of the logits scale * <image_i, text_j>, the
matching pair on the diagonal. A logit bias would cancel, and is not added.
"""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int

from clipjax.losses.common import diagnostics, matches, pairs
from clipjax.losses.common.combined import check_weights
from clipjax.types import Batch, LossSpec, Metrics, Outputs, Tree, UserError


def make(
    spec: LossSpec,
    *,
    label_smoothing: float = 0.0,
    image_weight: float = 0.5,
    text_weight: float = 0.5,
    same_image: str = "negative",
    same_caption: str = "negative",
    block: int = 0,
) -> ClipLoss:
    """The CLIP loss.

    Args:
      label_smoothing: weight in [0, 1) moved from the matching pair to all evenly.
      image_weight, text_weight: of the mean over images (each finds its text) and of
        the mean over texts.
      same_image, same_caption: "negative", "mask" or "positive" (an even target over
        all matches); see losses/common/matches.py.
      block: rows of the matrix at a time, 0 for all; see losses/common/pairs.py.

    Raises UserError for a value out of range.
    """
    if not 0 <= label_smoothing < 1:
        raise UserError(f"loss.label_smoothing={label_smoothing}: must be in [0, 1)")
    check_weights(image_weight=image_weight, text_weight=text_weight)
    rule = matches.rule(same_image, same_caption)
    plan = pairs.Plan(block, spec.mesh)
    return ClipLoss(label_smoothing, image_weight, text_weight, rule, plan)


@dataclasses.dataclass(frozen=True)
class ClipLoss:
    label_smoothing: float
    image_weight: float
    text_weight: float
    rule: matches.Rule
    plan: pairs.Plan

    def init(self) -> Tree:
        return {}

    def __call__(
        self, outputs: Outputs, batch: Batch, state: Tree, step: Int[ArrayLike, ""]
    ) -> tuple[Float[Array, ""], Tree, Metrics]:
        """Needs image_embed, text_embed [b e], logit_scale; image_id by same_image,
        text and text_mask by same_caption.

        Raises UserError for a batch of one, which has no negatives.
        """
        matches.at_least_two(outputs["image_embed"])
        scale = outputs["logit_scale"]
        rows, columns = self.rule.sides(outputs, batch, (scale, scale))
        sums = pairs.log_sums(rows, columns, "all", self.plan)
        over_images = sums[0].lse - scale * self._target(rows, columns)
        over_texts = sums[1].lse - scale * self._target(columns, rows)
        value = (
            self.image_weight * over_images.mean()
            + self.text_weight * over_texts.mean()
        )
        known = None if self.rule.has("mask") else sums
        metrics = diagnostics.measure(outputs, self.plan, known)
        even = jnp.log(matches.kept_count(columns)).mean()
        metrics[diagnostics.UNINFORMED] = (self.image_weight + self.text_weight) * even
        return value, state, metrics

    def _target(self, rows: pairs.Side, columns: pairs.Side) -> Float[Array, " b"]:
        """The similarity of each row to what it should find."""
        wanted = matches.targets(columns)
        if self.label_smoothing:
            everything = matches.kept_mean(columns)
            wanted = (
                1 - self.label_smoothing
            ) * wanted + self.label_smoothing * everything
        return (rows.vectors * wanted).sum(axis=1)
