"""Options `same_image` and `same_caption`: pairs of different rows that match.

An image and a text belong together by `same_image` if their rows are of one image
(equal in batch["image_id"]), and by `same_caption` if their rows have one caption
(equal in all tokens of batch["text"]). "negative" treats such a pair as any other,
"mask" leaves it out, "positive" counts it as a match too. What either option masks is
left out, whatever the other says; a row's own pair always is a match.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Int, Shaped

from clipjax.losses.common import pairs
from clipjax.models.multimodal.fusion import rows_with
from clipjax.option_checks import one_of
from clipjax.types import Batch, Outputs, UserError

MODES = ("negative", "mask", "positive")
WITHOUT_POSITIVE = MODES[:2]


@dataclasses.dataclass(frozen=True)
class Rule:
    """Both options; see `rule`."""

    same_image: str = "negative"
    same_caption: str = "negative"

    def has(self, mode: str) -> bool:
        return mode in (self.same_image, self.same_caption)

    def side(
        self,
        vectors: Float[Array, "b e"],
        scale: ArrayLike,
        batch: Batch,
        there: Bool[Array, " b"] | None = None,
    ) -> pairs.Side:
        """A batch's rows or columns. there: those that count, None for all.

        Raises UserError for an option that needs texts, in a batch without.
        """
        ids: dict[str, list[Int[Array, " b"]]] = {mode: [] for mode in MODES}
        if self.same_image != "negative":
            ids[self.same_image].append(batch["image_id"])
        if self.same_caption != "negative":
            ids[self.same_caption].append(captions(batch))
        if there is not None:
            ids = {
                m: [jnp.where(there, x, -1) for x in some] for m, some in ids.items()
            }
        return pairs.side(
            vectors, scale, tuple(ids["mask"]), tuple(ids["positive"]), there
        )

    def sides(
        self, outputs: Outputs, batch: Batch, scales: tuple[ArrayLike, ArrayLike]
    ) -> tuple[pairs.Side, pairs.Side]:
        """Images as rows and texts as columns, with their inverse temperatures."""
        image = self.side(outputs["image_embed"], scales[0], batch)
        text = pairs.side(
            outputs["text_embed"], scales[1], image.apart, image.match, image.there
        )
        return image, text


def rule(same_image: str, same_caption: str, modes: tuple[str, ...] = MODES) -> Rule:
    """Raises UserError for a mode that a loss does not have."""
    one_of("loss.same_image", same_image, modes)
    one_of("loss.same_caption", same_caption, modes)
    return Rule(same_image, same_caption)


def captions(batch: Batch) -> Int[Array, " b"]:
    """A number, equal in rows that have the same tokens.

    A row whose `text_present` is false has a number that no other row has.
    """
    if "text" not in batch:
        raise UserError("loss.same_caption: this model takes no texts; leave it out")
    text = batch["text"]
    number = slots(jnp.where(batch["text_mask"], text, -1))
    n = number.shape[0]
    return jnp.where(rows_with(batch, "text", n), number, n + jnp.arange(n))


def targets(other: pairs.Side) -> Float[Array, "b e"]:
    """Each row's target on the other side: the mean over its matches."""
    if not other.match:
        return other.vectors

    def over_matches(x: Float[Array, "b e"]) -> Float[Array, "b e"]:
        if not other.apart:
            return _over(x, other.match)
        either = _over(x, other.apart + other.match)
        return either - _over(x, other.apart) + x

    return over_matches(other.vectors) / over_matches(_ones(other))


def kept_mean(other: pairs.Side) -> Float[Array, "#b e"]:
    """The mean of the other side over all pairs of a row that count; one row if all
    rows have the same."""
    return _over_kept(other.vectors, other) / _over_kept(_ones(other), other)


def kept_count(other: pairs.Side) -> Float[Array, " b"]:
    """How many pairs of each row count; the own is one of them."""
    count = _over_kept(_ones(other), other)[:, 0]
    return jnp.broadcast_to(count, other.index.shape)


def _over_kept(x: Float[Array, "b e"], other: pairs.Side) -> Float[Array, "#b e"]:
    valid = x if other.there is None else jnp.where(other.there[:, None], x, 0)
    total = valid.sum(axis=0, keepdims=True)
    return total - _over(x, other.apart) + x if other.apart else total


def negatives(side: pairs.Side) -> Float[Array, " b"]:
    """How many negatives each row has."""
    ones = _ones(side)
    return (len(ones) - _over(ones, side.apart + side.match))[:, 0]


def _ones(side: pairs.Side) -> Float[Array, "b 1"]:
    return jnp.ones_like(side.vectors[:, :1])


def _over(
    x: Float[Array, "b e"], ids: tuple[Int[Array, " b"], ...]
) -> Float[Array, "b e"]:
    """The sum of x over the rows equal to each in any of the ids; over itself
    without ids."""
    total = jnp.zeros_like(x) if ids else x
    for size in range(1, len(ids) + 1):  # by inclusion and exclusion
        for some in itertools.combinations(ids, size):
            total += (-1) ** (size + 1) * _group_sum(x, slots(jnp.stack(some, axis=1)))
    return total


def mean_over_anchors(
    outputs: Outputs,
    batch: Batch,
    cost: Callable[..., Float[Array, " b"]],
    factors: tuple[float, ...],
    rule: Rule,
    plan: pairs.Plan,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """The mean of a cost over images and texts, each against its negatives; and its
    value if all pairs were equally similar.

    cost(own, count, *log_sums) -> [b]: own: S_ii, or the mean over all matches; count:
    of negatives; log_sums: for each of `factors` log sum over negatives of exp(factor *
    scale * S). An anchor without negatives costs nothing. Raises UserError for a batch
    of one.
    """
    scale = outputs["logit_scale"]
    rows, columns = rule.sides(outputs, batch, (scale, scale))
    at_least_two(rows.vectors)
    own = [
        (one.vectors * targets(other)).sum(axis=1)
        for one, other in ((rows, columns), (columns, rows))
    ]
    count = jnp.maximum(negatives(rows), 1)
    found = [pairs.negative_sums(rows, columns, factor, plan) for factor in factors]
    value = uninformed = jnp.zeros((), rows.vectors.dtype)
    alike = cost(jnp.zeros_like(own[0]), count, *[jnp.log(count)] * len(factors))
    # Over images, over texts.
    for ours, *log_sums in zip(own, *found, strict=True):
        some = jnp.isfinite(log_sums[0])
        safe = [jnp.where(some, log_sum, 0) for log_sum in log_sums]
        value += jnp.where(some, cost(ours, count, *safe), 0).mean() / 2
        uninformed += jnp.where(some, alike, 0).mean() / 2
    return value, jax.lax.stop_gradient(uninformed)


def counts(ids: Int[Array, " b"]) -> Int[Array, " b"]:
    """How often each row's id is in the batch."""
    return _group_sum(jnp.ones_like(ids), slots(ids))


def group_mean(
    vectors: Float[Array, "b e"], ids: Int[Array, " b"]
) -> Float[Array, "b e"]:
    """The mean of the vectors over the rows of equal id, for each row."""
    sums = _group_sum(vectors, slots(ids))
    return sums / counts(ids)[:, None].astype(vectors.dtype)


def _group_sum(
    x: Shaped[Array, "b ..."], slot: Int[Array, " b"]
) -> Shaped[Array, "b ..."]:
    return jax.ops.segment_sum(x, slot, slot.shape[0])[slot]


def slots(ids: Int[ArrayLike, " b"] | Int[ArrayLike, "b k"]) -> Int[Array, " b"]:
    """A number in [0, b) for each row of ids, equal if the rows
    are equal."""
    ids = jnp.asarray(ids)
    if ids.ndim == 1:
        return _numbered(ids)

    def join(number: Int[Array, " b"], column: Int[Array, " b"]):
        return _numbered(number, column), ()

    return jax.lax.scan(join, _numbered(ids[:, 0]), ids[:, 1:].T)[0]


def _numbered(*ids: Int[Array, " b"]) -> Int[Array, " b"]:
    order = jnp.lexsort(ids)
    new = jnp.zeros(ids[0].shape, bool)
    for column in ids:
        ordered = column[order]
        new = new.at[1:].set(new[1:] | (ordered[1:] != ordered[:-1]))
    number = jnp.cumsum(new, dtype=jnp.int32)
    return jnp.zeros_like(number).at[order].set(number)


def at_least_two(rows: Float[Array, "b e"]) -> int:
    """The batch size; raises UserError for a batch of one, which has no negatives."""
    if rows.shape[0] < 2:
        raise UserError(
            "data.batch_size=1: this loss needs two pairs or more in a batch"
        )
    return rows.shape[0]
