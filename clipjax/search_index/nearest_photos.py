"""Exact search: the vectors with the largest cosines to a query, ties in their order.

One pass over the mapped vectors gives float32 cosines. Those near the k-th are computed
again in float64, each from its own row alone, so that equal vectors tie and the result
is that of a brute force in float64, wherever in the file a vector lies.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from clipjax.evals.common import ranking

# Numbers at once (256 MiB), which the disk reads once for all of the limits. Smaller
# blocks are slower, because BLAS's threads wait for each other after each.
_BLOCK = 2**26
_AGAIN = 2**22  # numbers in float64 at once (32 MiB)


class Limit(NamedTuple):
    """Only vectors whose cosine to `vector`, float [e], is at least `low` and below
    `high` are found.
    """

    vector: np.ndarray
    low: float = -np.inf
    high: float = np.inf


class Nearest(NamedTuple):
    """slots: int64 [n], the best first. cosines: float64 [n]."""

    slots: np.ndarray
    cosines: np.ndarray


def nearest(
    vectors: np.ndarray,
    query: np.ndarray,
    count: int,
    *,
    holes: Sequence[int] = (),
    limits: Sequence[Limit] = (),
) -> Nearest:
    """The `count` nearest of unit vectors; those that tie in the order of their slots.

    Besides the vectors, which may be mapped, it holds a few bytes per slot.

    Args:
      vectors: float32 [m e], C-contiguous. query: float [e], of unit norm.
      holes: slots that are not looked at.
    """
    size = vectors.shape[1]
    vectors, query = np.asarray(vectors), np.asarray(query, np.float64)
    wanted = [query, *(np.asarray(limit.vector, np.float64) for limit in limits)]
    columns = [one.astype(np.float32) for one in wanted]
    scores = np.empty((len(columns), len(vectors)), np.float32)
    rows = max(1, _BLOCK // size)
    for start in range(0, len(vectors), rows):
        block = vectors[start : start + rows]
        for column, found in zip(columns, scores, strict=True):
            np.dot(block, column, out=found[start : start + rows])
    # What a float32 sum of products of unit vectors can err, and its query's rounding.
    error = (size + 2) * 2.0**-23
    kept = np.ones(len(vectors), bool)
    kept[list(holes)] = False
    for vector, found, limit in zip(wanted[1:], scores[1:], limits, strict=True):
        for bound in (limit.low, limit.high):
            near = np.flatnonzero(np.abs(found - np.float32(bound)) <= error)
            exact = _cosines(vectors, near, vector)
            kept[near] &= (exact >= limit.low) & (exact < limit.high)
            kept[found < limit.low - error] = False
            kept[found >= limit.high + error] = False
    best = scores[0]
    best[~kept] = -np.inf
    if not len(best) or not count:
        return Nearest(np.zeros(0, np.int64), np.zeros(0))
    low = ranking.bound(best[None], min(count, len(best)))[0]
    slots = np.flatnonzero((best >= low - 2 * error) & kept)
    cosines = _cosines(vectors, slots, query)
    order = np.lexsort((slots, -cosines))[:count]
    return Nearest(slots[order], cosines[order])


def _cosines(vectors: np.ndarray, slots: np.ndarray, query: np.ndarray) -> np.ndarray:
    """float64 [n] of these slots, each from its row alone."""
    found = np.empty(len(slots))
    rows = max(1, _AGAIN // vectors.shape[1])
    for start in range(0, len(slots), rows):
        part = slice(start, start + rows)
        found[part] = (vectors[slots[part]].astype(np.float64) * query).sum(axis=1)
    return found
