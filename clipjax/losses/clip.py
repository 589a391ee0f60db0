"""CLIP's symmetric softmax loss (InfoNCE over the batch), arXiv 2103.00020 section 2.3.

L = (CE over rows + CE over columns) / 2 of the logits scale * <image_i, text_j> + bias,
the matching pair on the diagonal.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from clipjax.types import Batch, LossSpec, Metrics, Outputs, UserError


def make(spec: LossSpec, *, label_smoothing: float = 0.0) -> ClipLoss:
    """The CLIP loss.

    label_smoothing: weight in [0, 1) moved from the matching pair to all pairs evenly.
    """
    del spec
    if not 0 <= label_smoothing < 1:
        raise UserError(f"loss.label_smoothing={label_smoothing}: must be in [0, 1)")
    return ClipLoss(label_smoothing)


@dataclasses.dataclass(frozen=True)
class ClipLoss:
    label_smoothing: float

    def init(self) -> dict:
        return {}

    def __call__(
        self, outputs: Outputs, batch: Batch, state: dict, step: jax.Array
    ) -> tuple[jax.Array, dict, Metrics]:
        """Needs image_embed, text_embed [b e], logit_scale; takes logit_bias."""
        image, text = outputs["image_embed"], outputs["text_embed"]
        # At temperature 0.01 a bfloat16 or TF32 product errs by tenths of a logit.
        cosines = jnp.matmul(image, text.T, precision=jax.lax.Precision.HIGHEST)
        logits = cosines * outputs["logit_scale"]
        if "logit_bias" in outputs:
            logits = logits + outputs["logit_bias"]
        own = jnp.diagonal(logits)
        target = own
        if self.label_smoothing:
            kept = 1 - self.label_smoothing
            rows = kept * own + self.label_smoothing * logits.mean(axis=1)
            columns = kept * own + self.label_smoothing * logits.mean(axis=0)
            target = (rows + columns) / 2
        normaliser = (
            jax.nn.logsumexp(logits, axis=1) + jax.nn.logsumexp(logits, axis=0)
        ) / 2
        metrics = {
            "image_to_text_accuracy": _accuracy(logits),
            "text_to_image_accuracy": _accuracy(logits.T),
        }
        return jnp.mean(normaliser - target), state, metrics


def _accuracy(logits: jax.Array) -> jax.Array:
    """Share of rows whose own column is the largest; ties count as by chance."""
    top = logits == logits.max(axis=1, keepdims=True)
    return jnp.mean(jnp.diagonal(top) / top.sum(axis=1))
