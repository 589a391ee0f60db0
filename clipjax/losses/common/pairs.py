"""Sums over all image-text pairs of a batch, at once or in blocks.

What a contrastive loss needs of its B x B matrix S of inner products are sums over rows
and columns. `log_sums` and `total` give them, and their gradients, from the whole
matrix, or (`block` above 0) from a few rows at a time, computed again in the backward
pass, so that memory grows with B and not with its square. On several devices the
second form runs in a ring: each keeps its rows, and the columns go round.

Dimensions in shape comments: n rows, m columns, e embedding.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, ArrayLike, Bool, Float, Int, PyTree

from clipjax.types import UserError

AXES = ("data", "fsdp")
FLOOR = -1e30  # stands for the maximum of no pairs; finite, so that differences are


@dataclasses.dataclass(frozen=True)
class Plan:
    """How sums are computed.

    block: rows at a time, 0 for the whole matrix. mesh: over whose devices the batch is
    split, None for one device; it matters to blocks only.
    """

    block: int = 0
    mesh: Mesh | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.block, int) or self.block < 0:
            raise UserError(f"loss.block={self.block}: must be 0 (no blocks) or more")

    @property
    def ring(self) -> int:
        """The number of devices in the ring."""
        return self.mesh.size if self.block and self.mesh is not None else 1


class Side(NamedTuple):
    """What is known of each row, or each column.

    vectors [n e]. scale [n]: the inverse temperature. index int32 [n]: equal in a row
    and a column that are each other's own pair. apart, match: ids int32 [n]; other
    pairs that are equal in any id of `apart` are left out, and what then is equal in
    any of `match` counts as a match, as own pairs do. there bool [n]: false on rows or
    columns that are empty, None if none is.
    """

    vectors: Float[Array, "n e"]
    scale: Float[Array, " n"]
    index: Int[Array, " n"]
    apart: tuple[Int[Array, " n"], ...] = ()
    match: tuple[Int[Array, " n"], ...] = ()
    there: Bool[Array, " n"] | None = None


class Sums(NamedTuple):
    """Of each row over its columns (or the other way round), all [n].

    lse: log of the sum of exp(scale * S), -inf over no pair. mean: of S with these
    exponentials as weights, best: the largest S, ties: how many pairs have it; these
    three carry no gradient.
    """

    lse: Float[Array, " n"]
    mean: Float[Array, " n"]
    best: Float[Array, " n"]
    ties: Float[Array, " n"]


def side(
    vectors: Float[Array, "n e"],
    scale: ArrayLike,
    apart: tuple[Int[Array, " n"], ...] = (),
    match: tuple[Int[Array, " n"], ...] = (),
    there: Bool[Array, " n"] | None = None,
) -> Side:
    """A whole batch's rows or columns, in order."""
    n = vectors.shape[0]
    vectors = vectors.astype(jnp.promote_types(vectors.dtype, jnp.float32))
    index = jnp.arange(n, dtype=jnp.int32)
    scale = jnp.broadcast_to(jnp.asarray(scale, vectors.dtype), (n,))
    return Side(vectors, scale, index, apart, match, there)


def products(
    rows: Float[Array, "n e"], columns: Float[Array, "m e"]
) -> Float[Array, "n m"]:
    """S at the highest precision; with TF32 or bfloat16, logits at temperature 0.01 err
    by tenths."""
    return jnp.matmul(rows, columns.T, precision=lax.Precision.HIGHEST)


def mask(rows: Side, columns: Side, among: str) -> Bool[Array, "n m"]:
    """Whether each pair counts.

    among: "negatives" (neither matches nor left out), "matches" (own pairs among
    them), or "all" (both).
    """
    ours = rows.index[:, None] == columns.index[None]
    apart = _alike(rows.apart, columns.apart)
    matches = ours | (_alike(rows.match, columns.match) & ~apart)
    found = {"negatives": ~matches & ~apart, "all": ours | ~apart, "matches": matches}
    keep = found[among]
    if rows.there is not None:
        keep &= rows.there[:, None]
    if columns.there is not None:
        keep &= columns.there[None]
    return keep


def _alike(
    rows: tuple[Int[Array, " n"], ...], columns: tuple[Int[Array, " m"], ...]
) -> Bool[Array, "n m"] | Bool[Array, ""]:
    """Whether they are equal in any of the ids; one False without ids."""
    found = jnp.zeros((), bool)
    for ours, theirs in zip(rows, columns, strict=True):
        found = found | (ours[:, None] == theirs[None])
    return found


def log_sums(rows: Side, columns: Side, among: str, plan: Plan) -> tuple[Sums, Sums]:
    """Of the rows over the columns, and of the columns over the rows.

    among: which pairs are summed over, see `mask`.
    """
    if plan.block:
        return _blocked(rows, columns, among, True, plan)
    s, keep = products(rows.vectors, columns.vectors), mask(rows, columns, among)
    return (
        _whole(s, keep, rows.scale),
        _whole(s.T, keep.T, columns.scale),
    )


def row_sums(rows: Side, columns: Side, among: str, plan: Plan) -> Sums:
    """As `log_sums`, of the rows over the columns alone."""
    if plan.block:
        found: tuple[Sums, Sums] = _blocked(rows, columns, among, False, plan)
        return found[0]
    s, keep = products(rows.vectors, columns.vectors), mask(rows, columns, among)
    return _whole(s, keep, rows.scale)


def _whole(
    s: Float[Array, "n m"], keep: Bool[Array, "n m"], scale: Float[Array, " n"]
) -> Sums:
    logits = jnp.where(keep, s * scale[:, None], -jnp.inf)
    # Of a row of -inf alone, logsumexp has no gradient but NaN.
    some = keep.any(axis=1)
    lse = jax.nn.logsumexp(jnp.where(some[:, None], logits, 0), axis=1)
    lse = jnp.where(some, lse, -jnp.inf)
    part = lax.stop_gradient(_part(s, keep, scale))
    return Sums(lse, part.moment / _one(part.weight), part.best, part.ties)


class _Part(NamedTuple):
    """Sums over some of the pairs: best and ties as in Sums; weight: the sum of
    exp(scale * (S - best)), moment: that of exp(scale * (S - best)) * S."""

    best: Float[Array, " n"]
    ties: Float[Array, " n"]
    weight: Float[Array, " n"]
    moment: Float[Array, " n"]


def _part(
    s: Float[Array, "n m"], keep: Bool[Array, "n m"], scale: Float[Array, " n"]
) -> _Part:
    s = jnp.where(keep, s, FLOOR)
    best = s.max(axis=1)
    weights = jnp.where(keep, jnp.exp(scale[:, None] * (s - best[:, None])), 0)
    ties = (keep & (s == best[:, None])).sum(axis=1).astype(s.dtype)
    return _Part(best, ties, weights.sum(axis=1), (weights * s).sum(axis=1))


def _merge(one: _Part, two: _Part, scale: Float[Array, " n"]) -> _Part:
    best = jnp.maximum(one.best, two.best)
    first, second = (jnp.exp(scale * (part.best - best)) for part in (one, two))
    return _Part(
        best,
        one.ties * (one.best == best) + two.ties * (two.best == best),
        one.weight * first + two.weight * second,
        one.moment * first + two.moment * second,
    )


def _nothing(scale: Float[Array, " n"]) -> _Part:
    zero = scale * 0  # varies over devices as scale does
    return _Part(zero + FLOOR, zero, zero, zero)


def _sums(part: _Part, scale: Float[Array, " n"]) -> Sums:
    lse = jnp.where(
        part.weight > 0, scale * part.best + jnp.log(_one(part.weight)), -jnp.inf
    )
    return Sums(lse, part.moment / _one(part.weight), part.best, part.ties)


def _one(weight: Float[Array, " n"]) -> Float[Array, " n"]:
    """The weight, 1 if there is none."""
    return jnp.where(weight > 0, weight, 1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _blocked(
    rows: Side, columns: Side, among: str, both: bool, plan: Plan
) -> tuple[Sums, Sums]:
    """both: the columns' sums too; else theirs are those over no pair."""
    return _forward(rows, columns, among, both, plan)[0]


def _forward(rows: Side, columns: Side, among: str, both: bool, plan: Plan):
    def local(rows: Side, columns: Side) -> tuple[Sums, Sums]:
        def visit(part: _Part, guest: tuple[Side, _Part]):
            seen, theirs = guest

            def block(theirs: _Part, some: Side):
                s = products(some.vectors, seen.vectors)
                keep = mask(some, seen, among)
                if both:
                    found = _part(s.T, keep.T, seen.scale)
                    theirs = _merge(theirs, found, seen.scale)
                return theirs, _part(s, keep, some.scale)

            theirs, found = over_blocks(block, theirs, rows, plan.block)
            return _merge(part, found, rows.scale), (seen, theirs)

        part, (_, theirs) = _round(
            visit, _nothing(rows.scale), (columns, _nothing(columns.scale)), plan
        )
        return _sums(part, rows.scale), _sums(theirs, columns.scale)

    sums = _on_devices(local, plan)(rows, columns)
    return sums, (rows, columns, sums)


def _backward(among: str, both: bool, plan: Plan, saved, gradients: tuple[Sums, Sums]):
    rows, columns, (row_sums, column_sums) = saved
    toward = gradients[0].lse, gradients[1].lse

    def local(rows: Side, columns: Side, row_lse, column_lse, row_g, column_g):
        def visit(mine: Float[Array, "n e"], guest):
            seen, lse, g, theirs = guest

            def block(theirs: Float[Array, "m e"], some):
                here, own_lse, own_g = some
                s = products(here.vectors, seen.vectors)
                keep = mask(here, seen, among)
                along = jnp.exp(here.scale[:, None] * s - _finite(own_lse)[:, None])
                ds = along * (own_g * here.scale)[:, None]
                if both:
                    down = jnp.exp(seen.scale[None] * s - _finite(lse)[None])
                    ds += down * (g * seen.scale)[None]
                ds = jnp.where(keep, ds, 0)
                found = jnp.matmul(ds, seen.vectors, precision=lax.Precision.HIGHEST)
                return theirs + products(ds.T, here.vectors.T), found

            theirs, found = over_blocks(
                block, theirs, (rows, row_lse, row_g), plan.block
            )
            return mine + found, (seen, lse, g, theirs)

        mine, (_, _, _, theirs) = _round(
            visit,
            rows.vectors * 0,
            (columns, column_lse, column_g, columns.vectors * 0),
            plan,
        )
        return mine, theirs

    mine, theirs = _on_devices(local, plan)(
        rows, columns, row_sums.lse, column_sums.lse, *toward
    )
    # d lse / d scale is the weighted mean of S.
    none: Any = None  # of integers
    return (
        Side(mine, toward[0] * row_sums.mean, none, none, none, none),
        Side(theirs, toward[1] * column_sums.mean, none, none, none, none),
    )


_blocked.defvjp(_forward, _backward)


def _finite(lse: Float[Array, " n"]) -> Float[Array, " n"]:
    """0 for the sum over no pair, whose terms are left out."""
    return jnp.where(jnp.isneginf(lse), 0, lse)


def negative_sums(
    rows: Side, columns: Side, factor: float, plan: Plan
) -> tuple[Float[Array, " n"], Float[Array, " m"]]:
    """log of the sum over negatives of exp(factor * scale * S), both ways."""
    rows = rows._replace(scale=rows.scale * factor)
    columns = columns._replace(scale=columns.scale * factor)
    found = log_sums(rows, columns, "negatives", plan)
    return found[0].lse, found[1].lse


def total(
    term: Callable[..., Array], rows: PyTree, columns: PyTree, plan: Plan
) -> Float[Array, ""]:
    """The sum over blocks of rows of term(rows, columns) -> scalar.

    rows, columns: trees of arrays with n and m as their first dimension; `term` gets
    some of the rows and columns and must be a sum over their pairs.
    """
    if not plan.block:
        return term(rows, columns)
    term = jax.checkpoint(term)  # type: ignore[assignment]

    def local(rows: PyTree, columns: PyTree) -> Float[Array, " 1"]:
        def visit(sum_: Float[Array, ""], seen: PyTree):
            def block(sum_: Float[Array, ""], some: PyTree):
                return sum_ + term(some, seen), ()

            return over_blocks(block, sum_, rows, plan.block)[0], seen

        zero = 0 * jax.tree.leaves(rows)[0].ravel()[0]
        sum_, _ = _round(visit, zero, columns, plan)
        return sum_[None]

    return _on_devices(local, plan)(rows, columns).sum()


def row_log_total(
    term: Callable[..., Array], rows: PyTree, columns: PyTree, plan: Plan
) -> Float[Array, " n"]:
    """log of each row's sum over columns of exp(term(rows, columns)); no gradient.

    rows, columns: as of `total`; `term` gives [n m], -inf for pairs that do not count.
    """
    rows, columns = lax.stop_gradient((rows, columns))

    def sums(rows: PyTree, columns: PyTree) -> Float[Array, " n"]:
        return jax.nn.logsumexp(term(rows, columns), axis=1)

    if not plan.block:
        return sums(rows, columns)

    def local(rows: PyTree, columns: PyTree) -> Float[Array, " n"]:
        def visit(mine: Float[Array, " n"], seen: PyTree):
            def block(carry: PyTree, some: PyTree):
                return carry, sums(some, seen)

            found = over_blocks(block, (), rows, plan.block)[1]
            return jnp.logaddexp(mine, found), seen

        vectors = jax.tree.leaves(rows)[0]
        nothing = 0 * vectors.reshape(len(vectors), -1)[:, 0] - jnp.inf
        return _round(visit, nothing, columns, plan)[0]

    return _on_devices(local, plan)(rows, columns)


def over_blocks(
    block: Callable, carry: PyTree, rows: PyTree, size: int
) -> tuple[PyTree, PyTree]:
    """carry, found = block(carry, some rows), over all rows; the last may be fewer."""
    n = jax.tree.leaves(rows)[0].shape[0]
    whole = n // size * size
    found = []
    if whole:
        split = jax.tree.map(lambda x: x[:whole].reshape(-1, size, *x.shape[1:]), rows)
        carry, out = lax.scan(block, carry, split)
        found.append(jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), out))
    if whole < n:
        carry, out = block(carry, jax.tree.map(lambda x: x[whole:], rows))
        found.append(out)
    return carry, jax.tree.map(lambda *parts: jnp.concatenate(parts), *found)


def _round(
    visit: Callable, mine: PyTree, guest: PyTree, plan: Plan
) -> tuple[PyTree, PyTree]:
    """Visits every device's `guest` on each device, with its `mine`, in a ring."""
    if plan.ring == 1:
        return visit(mine, guest)
    size = plan.ring
    onward = [(i, (i + 1) % size) for i in range(size)]

    def turn(both, _):
        mine, guest = visit(*both)
        return (mine, jax.tree.map(lambda x: lax.ppermute(x, AXES, onward), guest)), ()

    return lax.scan(turn, (mine, guest), None, length=size)[0]


def _on_devices(local: Callable, plan: Plan) -> Callable:
    if plan.ring == 1:
        return local
    assert plan.mesh is not None
    split = PartitionSpec(AXES)
    return jax.shard_map(local, mesh=plan.mesh, in_specs=split, out_specs=split)
