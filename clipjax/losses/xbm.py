"""CLIP's loss with a memory of past embeddings (XBM, arXiv 1912.06798).

Each image is told from the texts of the batch and from the last `size` texts before it,
and the other way round. What is remembered carries no gradient; an entry of the same
image as the anchor is left out.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from clipjax.losses import diagnostics, matches, pairs
from clipjax.types import Batch, LossSpec, Metrics, Outputs, UserError


def make(
    spec: LossSpec,
    *,
    size: int = 4096,
    start_step: int = 0,
    same_image: str = "negative",
    block: int = 0,
) -> XbmLoss:
    """The CLIP loss with a memory.

    Args:
      size: pairs remembered, a multiple of the batch size.
      start_step: the first step whose embeddings are remembered; early ones drift.
      same_image: "negative" or "mask", of pairs within the batch.
      block: rows of the matrix at a time, 0 for all; see losses/pairs.py.

    Raises UserError for a value out of range.
    """
    matches.check(same_image, matches.WITHOUT_POSITIVE)
    if size < 1 or size % spec.global_batch:
        raise UserError(
            f"loss.size={size}: must be a multiple of data.batch_size, "
            f"{spec.global_batch}"
        )
    if not 0 <= start_step < max(spec.total_steps, 1):
        raise UserError(
            f"loss.start_step={start_step}: must be 0 or more and below the run's "
            f"{spec.total_steps} steps"
        )
    shape = size, spec.embed_dim
    return XbmLoss(shape, start_step, same_image, pairs.Plan(block, spec.mesh))


@dataclasses.dataclass(frozen=True)
class XbmLoss:
    shape: tuple[int, int]
    start_step: int
    same_image: str
    plan: pairs.Plan

    def init(self) -> dict[str, jax.Array]:
        """The embeddings kept, their image ids (-1: empty), and the next place."""
        return {
            "image_queue": jnp.zeros(self.shape, jnp.float32),
            "text_queue": jnp.zeros(self.shape, jnp.float32),
            "queue_id": jnp.full(self.shape[:1], -1, jnp.int32),
            "place": jnp.zeros((), jnp.int32),
        }

    def __call__(
        self, outputs: Outputs, batch: Batch, state: dict, step: jax.Array
    ) -> tuple[Any, dict, Metrics]:
        """Needs image_embed, text_embed [b e], logit_scale, image_id [b]."""
        scale, ids = outputs["logit_scale"], batch["image_id"]
        image, text = matches.sides(outputs, batch, (scale, scale), self.same_image)
        own = (image.vectors * text.vectors).sum(axis=1) * scale
        value = 0.0
        found = pairs.log_sums(image, text, True, self.plan)
        queues = state["text_queue"], state["image_queue"]
        for anchor, sums, queue in zip((image, text), found, queues, strict=True):
            queue = jax.lax.stop_gradient(queue.astype(anchor.vectors.dtype))
            past = pairs.side(queue, 1.0, state["queue_id"])
            # Nobody's own pair is in the past.
            past = past._replace(index=-1 - past.index)
            here = anchor._replace(group=ids)
            before, _ = pairs.log_sums(here, past, False, self.plan)
            value += (jnp.logaddexp(sums.lse, before.lse) - own).mean() / 2
        known = found if self.same_image == "negative" else None
        metrics = diagnostics.measure(outputs, self.plan, known)
        metrics["queue_filled"] = jnp.mean(state["queue_id"] >= 0)
        return value, self._remember(outputs, ids, state, step), metrics

    def _remember(self, outputs: Outputs, ids, state: dict, step) -> dict:
        place, n = state["place"], ids.shape[0]
        put = jax.lax.dynamic_update_slice_in_dim
        new = {"queue_id": put(state["queue_id"], ids, place, 0)}
        for side in ("image", "text"):
            queue = state[f"{side}_queue"]
            vectors = jax.lax.stop_gradient(outputs[f"{side}_embed"])
            new[f"{side}_queue"] = put(queue, vectors.astype(queue.dtype), place, 0)
        new["place"] = (place + n) % self.shape[0]
        begun = jnp.asarray(step) >= self.start_step
        return {key: jnp.where(begun, new[key], state[key]) for key in state}
