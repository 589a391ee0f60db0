"""Exact ranks of right answers, with ties: the arithmetic of the evaluators.

A tie counts as its expected value under random order, so a model that cannot tell two
answers apart scores as if it guessed between them. Chance is the same arithmetic for a
model that scores all answers equally.
"""

from __future__ import annotations

from concurrent import futures
from typing import NamedTuple

import numpy as np

MAX_SIMILARITIES = 2**25  # held at once (128 MiB), whatever the size of the gallery
_AT_ONCE = 1024  # rows whose intermediate values are held
_CACHED = 2**18  # similarities (1 MiB) that a thread goes through several times
_FOLDED = 256  # scores that are few enough to order
NEAREST = 5  # answers of each query that evaluators keep


class Ranks(NamedTuple):
    """The place of the best right answer for n queries; int64 [n] each.

    greater: number of answers that score higher than the best right one.
    ties: number of wrong answers that score the same.
    own: number of right answers that score the same, at least 1.
    nearest: int64 [n k], the places of the best answers in the gallery, the best first,
      those that tie in the gallery's order, then -1; None unless asked for.
    score: float32 [n], of the best answer, NaN if there is none; None as `nearest`.
    """

    greater: np.ndarray
    ties: np.ndarray
    own: np.ndarray
    nearest: np.ndarray | None = None
    score: np.ndarray | None = None

    def hits(self, k: int) -> np.ndarray:
        """float64 [n], the probability that a right answer is among the first k.

        The own + ties answers of equal score share m = k - greater places, so it is
        1 - C(ties, m) / C(own + ties, m).
        """
        places = k - self.greater
        missed = np.ones(len(self.greater))
        for i in range(max(0, int(places.max(initial=0)))):
            alike = np.maximum(self.own + self.ties - i, 1)
            step = np.clip((self.ties - i) / alike, 0, None)
            missed *= np.where(i < places, step, 1)
        return 1 - missed

    def expected(self) -> np.ndarray:
        """float64 [n], the expected rank, from 1, of the best right answer."""
        return self.greater + 1 + self.ties / (self.own + 1)


def rank(
    queries: np.ndarray,
    gallery: np.ndarray,
    right: np.ndarray,
    *,
    copies: np.ndarray | None = None,
    block: int = 1024,
    nearest: int = 0,
) -> Ranks:
    """Ranks the gallery for each query by the float32 inner product.

    It runs on the host, with the same result on every device, and is never rounded to
    TF32 or bfloat16. Identical gallery entries tie exactly. An
    embedding that is not finite ranks behind all others, and so does the right answer
    to such a query.

    Args:
      queries: float32 [n e].
      gallery: float32 [m e].
      right: int [n p], each query's right answers as places in the gallery, at least
        one; -1 fills rows with fewer than p.
      copies: int [m], how often each entry is in the gallery, once if None; one copy of
        a right answer is right.
      block: queries at a time; fewer if the gallery is large.
      nearest: how many of each query's best answers to return; copies count once.
    """
    ok, usable = finite(queries), finite(gallery)
    # A product's last bit may depend on the column's place in the matrix, so copies
    # of one entry are counted at its first place.
    first = first_places(gallery)
    queries, gallery = _zeroed(queries, ok), _zeroed(gallery, usable)
    copies = np.ones(len(gallery), np.int64) if copies is None else copies
    weights = np.zeros(len(gallery), np.int64)
    np.add.at(weights, first, copies)
    answers = np.where(right >= 0, first[right], -1)
    wide = int(weights.max(initial=0)) > 1

    greater, same, own = (np.zeros(len(queries), np.int64) for _ in range(3))
    best_places = np.full((len(queries), nearest), -1)
    best_scores = np.full(len(queries), np.nan, np.float32)
    finite_queries, distinct = ok.copy(), len(np.unique(first)) == len(first)

    def count(part: slice, scores: np.ndarray) -> None:
        """Counts for a few queries by their scores [q m], which the cache holds."""
        scores[:, ~usable] = -np.inf
        mine = np.take_along_axis(scores, answers[part], axis=1)
        mine[right[part] < 0] = -np.inf
        best = mine.max(axis=1, keepdims=True)
        ok[part] &= np.isfinite(best[:, 0])
        greater[part] = _count(scores > best, weights, wide)
        same[part] = _count(scores == best, weights, wide)
        own[part] = (mine == best).sum(1)
        if nearest:
            scores = scores if distinct else scores[:, first]
            scores[~finite_queries[part]] = -np.inf
            _keep_best(scores, best_places[part], best_scores[part])

    rows = max(1, min(block, MAX_SIMILARITIES // max(len(gallery), 1)))
    few = max(1, _CACHED // max(len(gallery), 1))
    with futures.ThreadPoolExecutor() as pool:
        for start in range(0, len(queries), rows):
            scores = queries[start : start + rows] @ gallery.T
            cuts = [scores[at : at + few] for at in range(0, len(scores), few)]
            parts = [
                slice(start + at * few, start + at * few + len(cut))
                for at, cut in enumerate(cuts)
            ]
            run = map if len(cuts) == 1 else pool.map  # which then starts no thread
            list(run(count, parts, cuts))
    ranks = Ranks(
        np.where(ok, greater, copies.sum()),
        np.where(ok, same - own, 0),
        np.where(ok, own, 1),
    )
    return ranks._replace(nearest=best_places, score=best_scores) if nearest else ranks


def rank_scores(scores: np.ndarray, right: np.ndarray, *, nearest: int = 0) -> Ranks:
    """As `rank`, for scores float32 [n m] themselves and right: int [n], one each."""
    ok = finite(scores)
    scores = np.where(ok[:, None], scores, 0).astype(np.float32)
    best = np.take_along_axis(scores, right[:, None], axis=1)
    greater = np.count_nonzero(scores > best, axis=1)
    ties = np.count_nonzero(scores == best, axis=1) - 1
    ranks = Ranks(
        np.where(ok, greater, scores.shape[1]),
        np.where(ok, ties, 0),
        np.ones(len(scores), np.int64),
    )
    if not nearest:
        return ranks
    scores[~ok] = -np.inf
    places = np.full((len(scores), nearest), -1)
    top = np.full(len(scores), np.nan, np.float32)
    _keep_best(scores, places, top)
    return ranks._replace(nearest=places, score=top)


def chance(own: np.ndarray, total: int) -> Ranks:
    """The ranks if all `total` answers tie, of which `own` are right."""
    own = np.asarray(own, np.int64)
    return Ranks(np.zeros_like(own), total - own, own)


def finite(embed: np.ndarray) -> np.ndarray:
    """bool [n], whether each embedding of [n e] is finite."""
    found = np.empty(len(embed), bool)
    for start in range(0, len(embed), _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        found[part] = np.isfinite(embed[part]).all(axis=1)
    return found


def spread(total: int, count: int) -> np.ndarray:
    """int64: `count` of `total` places, evenly spread; all places if count is 0."""
    count = min(count or total, total)
    return np.arange(count) * total // max(count, 1)


def _keep_best(scores: np.ndarray, places: np.ndarray, best: np.ndarray) -> None:
    """Fills places [n k] and best [n], as `Ranks`, by scores [n m]."""
    k = min(places.shape[1], scores.shape[1])
    rows, at = np.nonzero(scores >= bound(scores, k)[:, None])
    values = scores[rows, at]
    order = np.lexsort((at, -values, rows))  # of those that tie the first
    rows, at, values = rows[order], at[order], values[order]
    number = np.arange(len(rows)) - np.searchsorted(rows, rows)  # within its row
    kept = (number < k) & (values > -np.inf)
    places[rows[kept], number[kept]] = at[kept]
    first = kept & (number == 0)
    best[rows[first]] = values[first]


def bound(scores: np.ndarray, k: int) -> np.ndarray:
    """float32 [n], what the k best of each row [n m] are not below.

    It is the k-th best of the largest scores of disjoint groups, for which a row is
    folded in halves; few scores reach it.
    """
    while scores.shape[1] >= max(_FOLDED, 2 * k):
        half = scores.shape[1] // 2
        folded = np.maximum(scores[:, :half], scores[:, half : 2 * half])
        if scores.shape[1] % 2:
            np.maximum(folded[:, 0], scores[:, -1], out=folded[:, 0])
        scores = folded
    return np.partition(scores, -k, axis=1)[:, -k]


def first_places(gallery: np.ndarray) -> np.ndarray:
    """int64 [m]: per entry of [m e], the place of the first with the same bytes."""
    rows = np.ascontiguousarray(gallery)
    _, inverse, counts = np.unique(
        _hashes(rows), return_inverse=True, return_counts=True
    )
    places = np.arange(len(rows))
    firsts: dict[bytes, int] = {}
    # Entries whose hash is unique are so; only the others' bytes are held.
    for place in np.flatnonzero(counts[inverse] > 1).tolist():
        places[place] = firsts.setdefault(rows[place].tobytes(), place)
    return places


def _hashes(rows: np.ndarray) -> np.ndarray:
    """uint64 [m], equal for rows of equal bytes; C-contiguous [m e]."""
    words = rows.view(np.uint8).reshape(len(rows), rows.shape[1] * rows.itemsize)
    if words.shape[1] % 4 == 0:
        words = words.view(np.uint32)
    factors = np.random.default_rng(0).integers(
        2**64, size=words.shape[1], dtype=np.uint64
    )
    hashes = np.empty(len(rows), np.uint64)
    for start in range(0, len(rows), _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        hashes[part] = (words[part] * factors).sum(axis=1, dtype=np.uint64)
    return hashes


def _zeroed(rows: np.ndarray, usable: np.ndarray) -> np.ndarray:
    """float32, zeros in rows that are not usable; no copy if all are."""
    if not usable.all():
        rows = np.where(usable[:, None], rows, 0)
    return rows.astype(np.float32, copy=False)


def _count(where: np.ndarray, weights: np.ndarray, wide: bool) -> np.ndarray:
    """int64 [n]: the copies that each row of a bool [n m] marks."""
    if wide:  # BLAS is many times faster than an integer sum; float32 is exact to 2^24
        exact = np.float32 if weights.sum() < 2**24 else np.float64
        return (where.astype(exact) @ weights.astype(exact)).astype(np.int64)
    return np.count_nonzero(where, axis=1)
