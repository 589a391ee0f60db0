"""CLIP's symmetric softmax loss (InfoNCE over the batch), arXiv 2103.00020 section 2.3.

L = (CE over rows + CE over columns) / 2 of the logits scale * <image_i, text_j>, the
matching pair on the diagonal. A logit bias would cancel, and is not added.
"""

from __future__ import annotations

import dataclasses

import jax

from clipjax.losses import diagnostics, matches, pairs
from clipjax.losses.combined import check_weights
from clipjax.types import Batch, LossSpec, Metrics, Outputs, UserError


def make(
    spec: LossSpec,
    *,
    label_smoothing: float = 0.0,
    image_weight: float = 0.5,
    text_weight: float = 0.5,
    same_image: str = "negative",
    block: int = 0,
) -> ClipLoss:
    """The CLIP loss.

    Args:
      label_smoothing: weight in [0, 1) moved from the matching pair to all evenly.
      image_weight, text_weight: of the mean over images (each finds its text) and of
        the mean over texts.
      same_image: "negative", "mask" or "positive" (an even target over all texts of
        the image); see losses/matches.py.
      block: rows of the matrix at a time, 0 for all; see losses/pairs.py.

    Raises UserError for a value out of range.
    """
    if not 0 <= label_smoothing < 1:
        raise UserError(f"loss.label_smoothing={label_smoothing}: must be in [0, 1)")
    check_weights(image_weight=image_weight, text_weight=text_weight)
    matches.check(same_image)
    plan = pairs.Plan(block, spec.mesh)
    return ClipLoss(label_smoothing, image_weight, text_weight, same_image, plan)


@dataclasses.dataclass(frozen=True)
class ClipLoss:
    label_smoothing: float
    image_weight: float
    text_weight: float
    same_image: str
    plan: pairs.Plan

    def init(self) -> dict:
        return {}

    def __call__(
        self, outputs: Outputs, batch: Batch, state: dict, step: jax.Array
    ) -> tuple[jax.Array, dict, Metrics]:
        """Needs image_embed, text_embed [b e], logit_scale; image_id by same_image.

        Raises UserError for a batch of one, which has no negatives.
        """
        image, text = outputs["image_embed"], outputs["text_embed"]
        matches.at_least_two(image)
        scale = outputs["logit_scale"]
        group = matches.groups(batch, self.same_image)
        rows = pairs.side(image, scale, group)
        columns = pairs.side(text, scale, group)
        sums = pairs.log_sums(rows, columns, "all", self.plan)
        over_images = sums[0].lse - scale * self._target(image, text, batch)
        over_texts = sums[1].lse - scale * self._target(text, image, batch)
        value = (
            self.image_weight * over_images.mean()
            + self.text_weight * over_texts.mean()
        )
        known = sums if group is None else None
        return value, state, diagnostics.measure(outputs, self.plan, known)

    def _target(self, rows: jax.Array, columns: jax.Array, batch: Batch) -> jax.Array:
        """The similarity [b] of each row to what it should find."""
        wanted = matches.wanted(columns, batch, self.same_image)
        if self.label_smoothing:
            everything = columns.mean(axis=0, keepdims=True)
            if self.same_image == "mask":
                n, ids = columns.shape[0], batch["image_id"]
                count = matches.counts(ids)[:, None].astype(columns.dtype)
                left_out = count * matches.group_mean(columns, ids) - columns
                everything = (n * everything - left_out) / (n - count + 1)
            wanted = (
                1 - self.label_smoothing
            ) * wanted + self.label_smoothing * everything
        return (rows * wanted).sum(axis=1)
