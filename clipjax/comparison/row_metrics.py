"""How the metrics of an evaluation are made of its rows: a value for each query."""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np

from clipjax.evals.common import result_rows
from clipjax.types import Rows

_RETRIEVAL = re.compile(
    r"(?:(?P<start>.+)/)?"
    r"(?:(?P<side>image_to_text|text_to_image)_(?P<rank>mean|median)_rank"
    r"|(?P<recalled>image_to_text|text_to_image|mean)_recall@(?P<k>\d+))"
)
_CLASSES = re.compile(r"(?:(?P<set>.+)/)?(?:top(?P<k>\d+)|mean_class_recall)")
_CHOICES = re.compile(r"(?:(?P<kind>.+)/|mean_)(?P<macro>macro_)?accuracy")
# Whether a pair that they are over is right; None: both kinds count alike.
_MATCHES = {"accuracy": None, "right_accepted": True, "wrong_rejected": False}


class Queries(NamedTuple):
    """The n queries that a metric is over.

    places: int [n], of their rows. values: float [n]. weights: float [n] of sum 1.
    median: whether the metric is the values' median, not their weighted mean.
    """

    places: np.ndarray
    values: np.ndarray
    weights: np.ndarray
    median: bool = False

    @property
    def metric(self) -> float:
        """The metric's value."""
        if self.median:
            return float(np.median(self.values))
        return float((self.weights * self.values).sum())


def of(name: str, rows: Rows) -> Queries | None:
    """The queries of a metric; None if the rows have no values for it.

    Known are the metrics of retrieval, of classes (zeroshot, classification) and of
    calibration, the accuracies of caption choices and of a match cut-off, and of any
    evaluator those that are the mean of the column of their name.

    name: the metric's.
    """
    if "direction" in rows and "own" in rows and (match := _RETRIEVAL.fullmatch(name)):
        return _of_retrieval(match, rows)
    if "label_set" in rows and "ties" in rows:
        if match := _CLASSES.fullmatch(name):
            return _of_classes(match, rows)
        if name == "mean_top1":
            return _hits(rows, np.arange(len(rows["key"])), 1, rows["label_set"])
    if "hit" in rows and "scores" in rows and (match := _CHOICES.fullmatch(name)):
        return _of_choices(match["kind"], bool(match["macro"]), rows)
    if "confidence" in rows and "half" in rows:
        return _of_calibration(name, rows)
    if "hit" in rows and "half" in rows and name in _MATCHES:
        return _of_matches(_MATCHES[name], rows)
    column = rows.get(name)
    if isinstance(column, np.ndarray) and column.ndim == 1 and len(column):
        values = column.astype(float)
        if np.isfinite(values).all():
            count = len(values)
            return Queries(np.arange(count), values, np.full(count, 1 / count))
    return None


def _of_retrieval(match: re.Match[str], rows: Rows) -> Queries | None:
    """A recall is averaged over directions and folds, a rank over all queries."""
    start = match["start"] or "standard"
    start = f"standard/{start}" if start in ("same_caption", "same_image") else start
    side = match["side"] or match["recalled"]
    taken = np.array(rows["protocol"]) == start
    if side != "mean":
        taken &= np.array(rows["direction"]) == side
    places = np.flatnonzero(taken)
    if not len(places):
        return None
    if match["k"]:
        parts = zip(rows["direction"], rows["fold"], strict=True)
        return _hits(rows, places, int(match["k"]), [f"{a} {b}" for a, b in parts])
    values = np.asarray(rows["rank"], float)[places]
    weights = np.full(len(places), 1 / len(places))
    return Queries(places, values, weights, match["rank"] == "median")


def _of_classes(match: re.Match[str], rows: Rows) -> Queries | None:
    """An accuracy is over images, or over the classes that occur."""
    places = np.arange(len(rows["key"]))
    if match["set"]:
        places = np.flatnonzero(np.array(rows["label_set"]) == match["set"])
    if not len(places):
        return None
    by_class = match["k"] is None
    parts = rows["label"] if by_class else rows["label_set"]
    return _hits(rows, places, 1 if by_class else int(match["k"]), parts)


def _of_choices(kind: str | None, macro: bool, rows: Rows) -> Queries | None:
    """The accuracy of a kind of choices, or the mean of all kinds'.

    macro: whether a kind's is the mean over its groups that count.
    """
    kinds = np.array(rows["protocol"])
    taken = np.ones(len(kinds), bool) if kind is None else kinds == kind
    if macro:
        taken &= np.asarray(rows.get("counted", np.zeros(len(kinds))), bool)
    places = np.flatnonzero(taken)
    if not len(places):
        return None
    hits = np.asarray(rows["hit"], float)
    if not macro:
        return _mean_of_parts(hits, places, kinds)
    texts = [f"{kinds[at]}/{rows['group'][at]}" for at in places.tolist()]
    _, first, group, counts = np.unique(
        texts, return_index=True, return_inverse=True, return_counts=True
    )
    _, of_kind = np.unique(kinds[places], return_inverse=True)
    groups = np.bincount(of_kind[first])  # of each kind
    shares = 1 / (counts[group] * groups[of_kind] * len(groups))
    return Queries(places, hits[places], shares)


def _of_matches(kind: bool | None, rows: Rows) -> Queries | None:
    """The share of pairs of the measured half that are taken for what they are."""
    match, hits = np.asarray(rows["match"]), np.asarray(rows["hit"], float)
    taken = np.array(rows["half"]) == "measured"
    if kind is not None:
        taken &= match == kind
    places = np.flatnonzero(taken)
    if not len(places) or not np.isfinite(hits[places]).all():
        return None
    return _mean_of_parts(hits, places, match)


def _of_calibration(name: str, rows: Rows) -> Queries | None:
    """The mean over images of the measured half, and over label sets, of a column."""
    sets = np.array(rows["label_set"])
    taken = np.array(rows["half"]) == "measured"
    label_set, _, rest = name.partition("/")
    if name == "mean_ece":
        name = "ece"
    elif label_set in rows["label_set"]:
        name, taken = rest, taken & (sets == label_set)
    column = rows.get("hit" if name == "accuracy" else name)
    places = np.flatnonzero(taken)
    if not isinstance(column, np.ndarray) or not len(places):
        return None
    if column.dtype.kind != "f" or not np.isfinite(column[places]).all():
        return None
    return _mean_of_parts(column, places, sets)


def _hits(rows: Rows, places: np.ndarray, k: int, parts) -> Queries:
    """The mean over parts of each one's share of hits among the first k."""
    return _mean_of_parts(result_rows.ranks_of(rows).hits(k), places, parts)


def _mean_of_parts(values: np.ndarray, places: np.ndarray, parts) -> Queries:
    """The mean over parts of the mean of each one's values at `places`.

    values: each row's. parts: each row's, numbers or texts.
    """
    _, own = np.unique(np.asarray(parts)[places], return_inverse=True)
    counts = np.bincount(own)
    return Queries(places, values[places], 1 / (counts[own] * len(counts)))
