"""CLIP's loss with a memory of past embeddings (XBM, arXiv 1912.06798).

Each image is contrasted with the batch's texts and with the last `size` texts before
them, and each text with images likewise. Embeddings in the queue carry no gradient;
entries of the anchor's image are left out. The queue has a dimension for the row of the
batch, so that every device keeps its own rows' embeddings.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int, Shaped

from clipjax.losses.common import diagnostics, matches, pairs
from clipjax.types import Batch, LossSpec, Metrics, Outputs, Tree, UserError

USUAL_START = 1000


def make(
    spec: LossSpec,
    *,
    size: int = 4096,
    start_step: int | None = None,
    same_image: str = "negative",
    same_caption: str = "negative",
    block: int = 0,
) -> XbmLoss:
    """The CLIP loss with a memory.

    Args:
      size: pairs remembered, a multiple of the batch size.
      start_step: the first step whose embeddings are remembered: 1,000 as in the paper,
        or in a shorter run half of it. Early ones drift, and a memory of them can keep
        a model from learning.
      same_image, same_caption: "negative", "mask" or "positive" (an even target over
        all matches), of pairs within the batch; see losses/common/matches.py.
      block: rows of the matrix at a time, 0 for all; see losses/common/pairs.py.

    Raises UserError for a value out of range.
    """
    rule = matches.rule(same_image, same_caption)
    if size < 1 or size % spec.global_batch:
        raise UserError(
            f"loss.size={size}: must be a multiple of data.batch_size, "
            f"{spec.global_batch}"
        )
    if start_step is None:
        start_step = min(USUAL_START, spec.total_steps // 2)
    if not 0 <= start_step < max(spec.total_steps, 1):
        raise UserError(
            f"loss.start_step={start_step}: must be 0 or more and below the run's "
            f"{spec.total_steps} steps"
        )
    shape = spec.global_batch, size // spec.global_batch, spec.embed_dim
    return XbmLoss(shape, start_step, rule, pairs.Plan(block, spec.mesh))


@dataclasses.dataclass(frozen=True)
class XbmLoss:
    shape: tuple[int, int, int]
    start_step: int
    rule: matches.Rule
    plan: pairs.Plan

    def init(self) -> dict[str, Array]:
        """The embeddings kept [b batches e], their image ids (-1: empty), and the place
        of the next batch."""
        return {
            "image_queue": jnp.zeros(self.shape, jnp.float32),
            "text_queue": jnp.zeros(self.shape, jnp.float32),
            "queue_id": jnp.full(self.shape[:2], -1, jnp.int32),
            "place": jnp.zeros((), jnp.int32),
        }

    def __call__(
        self, outputs: Outputs, batch: Batch, state: Tree, step: Int[ArrayLike, ""]
    ) -> tuple[Float[Array, ""], Tree, Metrics]:
        """Needs image_embed, text_embed [b e], logit_scale, image_id [b]."""
        scale, ids = outputs["logit_scale"], batch["image_id"]
        image, text = self.rule.sides(outputs, batch, (scale, scale))
        value = jnp.zeros((), image.vectors.dtype)
        both_sums = pairs.log_sums(image, text, "all", self.plan)
        past_ids = state["queue_id"].reshape(-1)
        for anchor, other, sums, queue in (
            (image, text, both_sums[0], state["text_queue"]),
            (text, image, both_sums[1], state["image_queue"]),
        ):
            queue = queue.reshape(-1, queue.shape[-1]).astype(anchor.vectors.dtype)
            past = pairs.side(
                jax.lax.stop_gradient(queue), 1.0, (past_ids,), there=past_ids >= 0
            )
            # No anchor's own pair is in the queue.
            past = past._replace(index=-1 - past.index)
            here = anchor._replace(apart=(ids,), match=())
            before = pairs.row_sums(here, past, "negatives", self.plan)
            own = (anchor.vectors * matches.targets(other)).sum(axis=1) * scale
            value += (jnp.logaddexp(sums.lse, before.lse) - own).mean() / 2
        known = None if self.rule.has("mask") else both_sums
        filled = jnp.sum(past_ids >= 0)
        metrics = diagnostics.measure(outputs, self.plan, known)
        ordered = jnp.sort(past_ids)
        same = jnp.searchsorted(ordered, ids, side="right")
        same -= jnp.searchsorted(ordered, ids, side="left")
        choices = matches.kept_count(text) + filled - same
        metrics[diagnostics.UNINFORMED] = jnp.log(choices).mean()
        metrics["queue_filled"] = filled / past_ids.shape[0]
        return value, self._remember(outputs, ids, state, step), metrics

    def _remember(
        self,
        outputs: Outputs,
        ids: Int[Array, " b"],
        state: Tree,
        step: Int[ArrayLike, ""],
    ) -> Tree:
        place = state["place"]

        def put(
            queue: Shaped[Array, "b n ..."], rows: Shaped[Array, "m ..."]
        ) -> Shaped[Array, "b n ..."]:
            rows = rows[:, None].astype(queue.dtype)
            return jax.lax.dynamic_update_slice_in_dim(queue, rows, place, 1)

        new = {"queue_id": put(state["queue_id"], ids)}
        for side in ("image", "text"):
            queue = state[f"{side}_queue"]
            vectors = jax.lax.stop_gradient(outputs[f"{side}_embed"])
            new[f"{side}_queue"] = put(queue, vectors)
        new["place"] = (place + 1) % self.shape[1]
        begun = jnp.asarray(step) >= self.start_step
        return {key: jnp.where(begun, new[key], state[key]) for key in state}
