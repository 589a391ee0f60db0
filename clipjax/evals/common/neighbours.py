"""Votes of the nearest neighbours, exact, with ties as their expected value.

Training images of equal similarity at the k-th place share the places that are left:
each votes with its probability to be among the k under random order. So the votes
depend neither on the order of the training images, nor on the place of a copy.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from clipjax.evals.common.ranking import MAX_SIMILARITIES, finite, first_places


def class_votes(
    queries: np.ndarray,
    gallery: np.ndarray,
    labels: np.ndarray,
    classes: int,
    ks: Sequence[int],
    temperature: float,
) -> list[np.ndarray]:
    """Per k, float32 [n classes]: the share of the votes of a query's k nearest.

    A neighbour's weight is exp(cosine / temperature). Features of norm zero have the
    cosine 0 to all. The votes of a query that is not finite are NaN.

    Similarities are held in blocks, so memory does not grow with n times m.

    Args:
      queries: float32 [n d]. gallery: float32 [m d], finite. labels: int [m], below
        `classes`. ks: above m counts as m.
    """
    first = first_places(gallery)
    copied = len(np.unique(first)) < len(first)
    ok = finite(queries)
    # A product's last bit may depend on the column's place, so copies of a training
    # image take the similarity of the first.
    columns = unit(gallery).T
    votes = [np.full((len(queries), classes), np.nan, np.float32) for _ in ks]
    rows = max(1, min(1024, MAX_SIMILARITIES // max(len(gallery), 1)))
    for start in range(0, len(queries), rows):
        part = np.arange(start, min(start + rows, len(queries)))
        part = part[ok[part]]
        if not len(part):
            continue
        similar = unit(queries[part]) @ columns
        if copied:
            similar = similar[:, first]
        for found, k in zip(votes, ks, strict=True):
            found[part] = _block(similar, labels, classes, k, temperature)
    return votes


def _block(
    similar: np.ndarray, labels: np.ndarray, classes: int, k: int, temperature: float
) -> np.ndarray:
    """The shares [b classes] for similarities [b m]."""
    m = similar.shape[1]
    k = min(k, m)
    kth = np.partition(similar, m - k, axis=1)[:, m - k, None]
    rows, columns = np.nonzero(similar >= kth)
    taken = similar[rows, columns]
    last = taken == kth[rows, 0]
    above = np.bincount(rows[~last], minlength=len(similar))
    level = np.bincount(rows[last], minlength=len(similar))
    weight = np.where(last, ((k - above) / level)[rows], 1.0)
    best = similar.max(axis=1)[rows]
    weight *= np.exp((taken.astype(float) - best) / temperature)
    flat = np.bincount(
        rows * classes + labels[columns], weight, minlength=len(similar) * classes
    )
    shares = flat.reshape(len(similar), classes)
    return shares / shares.sum(axis=1, keepdims=True)


def unit(rows: np.ndarray) -> np.ndarray:
    """float32 [n d]: rows of unit norm; those of norm zero stay."""
    with np.errstate(invalid="ignore"):  # infinite ones become NaN
        norms = np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
        return (rows / np.where(norms > 0, norms, 1)).astype(np.float32)
