"""Exact ranks of right answers, with ties: the arithmetic of the evaluators.

A tie counts as its expected value under random order, so a model that cannot tell two
answers apart scores as if it guessed between them. Chance is the same arithmetic for a
model that scores all answers equally.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

MAX_SIMILARITIES = 2**25  # held at once (128 MiB), whatever the size of the gallery
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

    It runs on the host: as fast as XLA on a CPU, with the same result on every device,
    and never rounded to TF32 or bfloat16. Identical gallery entries tie exactly. An
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
    queries = np.where(ok[:, None], queries, 0).astype(np.float32)
    gallery = np.where(usable[:, None], gallery, 0).astype(np.float32)
    copies = np.ones(len(gallery), np.int64) if copies is None else copies
    weights = np.zeros(len(gallery), np.int64)
    np.add.at(weights, first, copies)
    answers = np.where(right >= 0, first[right], -1)
    wide = int(weights.max(initial=0)) > 1

    greater, same, own = (np.zeros(len(queries), np.int64) for _ in range(3))
    best_places = np.full((len(queries), nearest), -1)
    best_scores = np.full(len(queries), np.nan, np.float32)
    finite_queries, distinct = ok.copy(), len(np.unique(first)) == len(first)
    rows = max(1, min(block, MAX_SIMILARITIES // max(len(gallery), 1)))
    for start in range(0, len(queries), rows):
        part = slice(start, start + rows)
        scores = queries[part] @ gallery.T
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
    return np.asarray(np.isfinite(embed).all(axis=1))


def spread(total: int, count: int) -> np.ndarray:
    """int64: `count` of `total` places, evenly spread; all places if count is 0."""
    count = min(count or total, total)
    return np.arange(count) * total // max(count, 1)


def _keep_best(scores: np.ndarray, places: np.ndarray, best: np.ndarray) -> None:
    """Fills places [n k] and best [n], as `Ranks`; overwrites scores [n m]."""
    rows = np.arange(len(scores))
    for i in range(min(places.shape[1], scores.shape[1])):
        at = scores.argmax(axis=1)  # the first of those that tie
        value = scores[rows, at]
        places[:, i] = np.where(value > -np.inf, at, -1)
        if i == 0:
            best[:] = np.where(value > -np.inf, value, np.nan)
        scores[rows, at] = -np.inf


def first_places(gallery: np.ndarray) -> np.ndarray:
    """int64 [m]: per entry, the place of the first with the same bytes."""
    firsts: dict[bytes, int] = {}
    return np.array(
        [firsts.setdefault(row.tobytes(), place) for place, row in enumerate(gallery)],
        np.int64,
    )


def _count(where: np.ndarray, weights: np.ndarray, wide: bool) -> np.ndarray:
    """int64 [n]: the copies that each row of a bool [n m] marks."""
    if wide:  # BLAS is many times faster than an integer sum; float32 is exact to 2^24
        exact = np.float32 if weights.sum() < 2**24 else np.float64
        return (where.astype(exact) @ weights.astype(exact)).astype(np.int64)
    return np.count_nonzero(where, axis=1)
