"""Option `same_image`: what becomes of pairs with several captions of one image.

"negative" treats them as any other pair, "mask" leaves them out, "positive" counts them
as matches too. Which rows belong together is said by batch["image_id"].
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from clipjax.losses import pairs
from clipjax.types import Batch, Outputs, UserError

MODES = ("negative", "mask", "positive")
WITHOUT_POSITIVE = MODES[:2]


def check(mode: str, modes: tuple[str, ...] = MODES) -> None:
    """Raises UserError for a mode that a loss does not have."""
    if mode not in modes:
        raise UserError(
            f"loss.same_image={mode!r}: must be one of {', '.join(modes)} with this "
            "loss"
        )


def wanted(
    vectors: jax.Array, batch: Batch, mode: str, here: jax.Array | None = None
) -> jax.Array:
    """What each row of the other side is to find [b e]: its own, or by "positive" the
    mean over its image's.

    here: bool [b], the rows that count, None for all; what others get means nothing.
    """
    if mode != "positive":
        return vectors
    ids = batch["image_id"]
    return group_mean(vectors, ids if here is None else jnp.where(here, ids, -1))


def groups(batch: Batch, mode: str) -> jax.Array | None:
    """The ids int32 [b] to leave pairs out by (pairs.Side), None for none."""
    return batch["image_id"] if mode == "mask" else None


def sides(
    outputs: Outputs, batch: Batch, scales: tuple, same_image: str
) -> tuple[pairs.Side, pairs.Side]:
    """Rows and columns with their inverse temperatures."""
    group = groups(batch, same_image)
    return (
        pairs.side(outputs["image_embed"], scales[0], group),
        pairs.side(outputs["text_embed"], scales[1], group),
    )


def sides_apart(
    outputs: Outputs, batch: Batch, scales: tuple, same_image: str
) -> tuple[pairs.Side, pairs.Side]:
    """As `sides`; by "positive" too no match is a negative."""
    mode = "mask" if same_image == "positive" else same_image
    return sides(outputs, batch, scales, mode)


def at_least_two(rows: jax.Array) -> int:
    """The batch size; raises UserError for a batch of one, which has no negatives."""
    if rows.shape[0] < 2:
        raise UserError(
            "data.batch_size=1: this loss needs two pairs or more in a batch"
        )
    return rows.shape[0]


def mean_over_anchors(
    outputs: Outputs,
    batch: Batch,
    cost: Callable[..., jax.Array],
    factors: tuple[float, ...],
    same_image: str,
    plan: pairs.Plan,
) -> jax.Array:
    """The mean of a cost over images and texts, each told from its negatives.

    cost(own, count, *log_sums) -> [b]: own: S_ii; count: of negatives; log_sums: for
    each of `factors` log sum over negatives of exp(factor * scale * S). An anchor
    without negatives costs nothing. By "positive" own is the mean over all matches, and
    none of them is a negative. Raises UserError for a batch of one.
    """
    scale = outputs["logit_scale"]
    rows, columns = sides_apart(outputs, batch, (scale, scale), same_image)
    n = at_least_two(rows.vectors)
    own = [
        (one.vectors * wanted(other.vectors, batch, same_image)).sum(axis=1)
        for one, other in ((rows, columns), (columns, rows))
    ]
    count = jnp.maximum(n - counts(rows.group), 1).astype(rows.vectors.dtype)
    found = [pairs.negative_sums(rows, columns, factor, plan) for factor in factors]
    value = jnp.zeros((), rows.vectors.dtype)
    # Over images, over texts.
    for ours, *log_sums in zip(own, *found, strict=True):
        some = jnp.isfinite(log_sums[0])
        safe = [jnp.where(some, log_sum, 0) for log_sum in log_sums]
        value += jnp.where(some, cost(ours, count, *safe), 0).mean() / 2
    return value


def counts(ids: jax.Array) -> jax.Array:
    """How often each row's id is in the batch, [b]."""
    slot = slots(ids)
    return jax.ops.segment_sum(jnp.ones_like(ids), slot, ids.shape[0])[slot]


def group_mean(vectors: jax.Array, ids: jax.Array) -> jax.Array:
    """The mean of the vectors [b e] over the rows of equal id, for each row."""
    slot = slots(ids)
    sums = jax.ops.segment_sum(vectors, slot, ids.shape[0])[slot]
    return sums / counts(ids)[:, None].astype(vectors.dtype)


def slots(ids: jax.Array) -> jax.Array:
    """A number in [0, b) for each row, equal where the ids are equal."""
    ids = jnp.asarray(ids)
    order = jnp.argsort(ids)
    ordered = ids[order]
    new = jnp.concatenate([jnp.zeros(1, bool), ordered[1:] != ordered[:-1]])
    number = jnp.cumsum(new, dtype=jnp.int32)
    return jnp.zeros_like(number).at[order].set(number)
