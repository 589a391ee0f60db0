"""Tables of an evaluation: one row per query, with the best answers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from clipjax.evals.common.ranking import Ranks
from clipjax.types import Rows


def by_class(
    keys: Sequence[str],
    names: Sequence[str],
    labels: np.ndarray,
    ranks: Ranks,
    label_set: str,
) -> Rows:
    """The rows of n classified images.

    key: the image's. label_set. label, prediction: class numbers, and label_name,
    prediction_name: their names; -1 and "" if the output is not finite. score: the
    prediction's. rank: the right class's expected rank. ties: how many other classes
    have its score. neighbours: int [n k], the numbers of the best classes, the best
    first, then -1.

    Args:
      keys: of the images. names: of the classes. labels: int [n]. ranks: of the right
        classes, with `nearest`.
    """
    nearest, scores = _nearest(ranks)
    return {
        "key": list(keys),
        "label_set": [label_set] * len(keys),
        "label": labels,
        "prediction": nearest[:, 0],
        "label_name": [names[label] for label in labels],
        "prediction_name": [names[at] if at >= 0 else "" for at in nearest[:, 0]],
        "score": scores,
        "rank": ranks.expected(),
        "ties": ranks.ties,
        "neighbours": nearest,
    }


def by_query(
    keys: Sequence[str],
    queries: np.ndarray,
    captions: Sequence[Sequence[str]],
    right: Sequence[Sequence[int]],
    gallery: np.ndarray,
    ranks: Ranks,
    *,
    protocol: str,
    direction: str,
    fold: int = 0,
) -> Rows:
    """The rows of n queries of a retrieval.

    key: of the query's image. protocol, direction. fold: the number of the gallery, for
    protocols with several. query: its id. captions: a text query's text, an image's own
    captions. right: the right answers' ids. prediction: the id of the best answer,
    -1 if the query is not finite, and score: its similarity. rank: the expected rank of
    the best right answer. ties, own: how many wrong and right answers have its score,
    itself included. neighbours: int [n k], the ids of the best answers, the best first,
    then -1.

    Args:
      keys: of the queries' images. captions: of the queries. queries: int64 [n],
      gallery: int64 [m], ids.
      right: ids of each query's right answers. ranks: theirs, with `nearest`.
    """
    nearest, scores = _nearest(ranks)
    ids = np.where(nearest >= 0, gallery[nearest], -1)
    return {
        "key": list(keys),
        "protocol": [protocol] * len(keys),
        "direction": [direction] * len(keys),
        "fold": np.full(len(keys), fold),
        "query": queries,
        "captions": [list(own) for own in captions],
        "right": [list(own) for own in right],
        "prediction": ids[:, 0],
        "score": scores,
        "rank": ranks.expected(),
        "ties": ranks.ties,
        "own": ranks.own,
        "neighbours": ids,
    }


def ranks_of(rows: Rows) -> Ranks:
    """The ranks that rows of `by_class` or `by_query` were made of.

    A classified image has one right class, so its rows have no `own`.
    """
    rank, ties = np.asarray(rows["rank"]), np.asarray(rows["ties"])
    own = np.asarray(rows["own"]) if "own" in rows else np.ones_like(ties)
    return Ranks(np.rint(rank - 1 - ties / (own + 1)).astype(np.int64), ties, own)


def join(tables: Sequence[Rows]) -> Rows:
    """Tables of the same columns, one below the other."""
    if len(tables) == 1:
        return tables[0]
    rows = {}
    for name in tables[0]:
        columns = [table[name] for table in tables]
        if isinstance(columns[0], np.ndarray):
            rows[name] = np.concatenate(columns)
        else:
            rows[name] = [value for column in columns for value in column]
    return rows


def _nearest(ranks: Ranks) -> tuple[np.ndarray, np.ndarray]:
    assert ranks.nearest is not None and ranks.score is not None  # asked for by callers
    return ranks.nearest, ranks.score
