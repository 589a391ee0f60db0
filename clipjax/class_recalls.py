"""What a classification's rows say per class: recalls, and which classes are confused.

rows = results.read("runs/x/evaluations/200").rows("zeroshot")
worst = class_recalls.recalls(rows)[:5]
"""

from __future__ import annotations

import collections
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from clipjax.evals.common import result_rows
from clipjax.evals.common.intervals import Hits, share
from clipjax.types import Metric, Rows, UserError

NEEDED = ("label_set", "label", "label_name", "prediction", "prediction_name", "ties")


class ClassRecall(NamedTuple):
    """A class, and what its images are taken for.

    label: its number. name. recall: the share of its images that are recognised, with
    Wilson's 95 % interval and the number of images. mistaken: what is most often
    predicted instead, "" if nothing is, or if outputs are not finite. count: how often.
    """

    label: int
    name: str
    recall: Metric
    mistaken: str
    count: int


class Confusion(NamedTuple):
    """Two classes: `count` of the `images` of class `name` are taken for `mistaken`.

    labels: the numbers of both; -1 stands for an output that is not finite, whose name
    is "".
    """

    name: str
    mistaken: str
    count: int
    images: int
    labels: tuple[int, int]

    @property
    def share(self) -> float:
        """From 0 to 1, of the class's images."""
        return self.count / self.images


def label_sets(rows: Rows) -> list[str]:
    """The label sets of a classification's rows; [] if the rows are of another kind."""
    if not set(NEEDED) <= rows.keys():
        return []
    return list(dict.fromkeys(rows["label_set"]))


def recalls(rows: Rows, label_set: str = "") -> list[ClassRecall]:
    """Each class that occurs, the worst first, then by number.

    The mean of the recalls is the metric "mean_class_recall". If classes tie, recall
    counts the expected hit, and `mistaken` the first of them.

    Args:
      rows: of zeroshot or classification, as `results.Evaluation.rows` gives them.
      label_set: which; "" if there is only one.

    Raises UserError for rows of another evaluator, or if there is no such label set.

    >>> rows = {"key": ["1", "2"], "label_set": ["pet"] * 2, "label": np.array([0, 0]),
    ...         "prediction": np.array([0, 1]), "label_name": ["cat", "cat"],
    ...         "prediction_name": ["cat", "dog"],
    ...         "rank": np.array([1.0, 2.0]), "ties": np.array([0, 0])}
    >>> found, = class_recalls.recalls(rows)
    >>> found.name, found.recall.value, found.recall.n, found.mistaken, found.count
    ('cat', 0.5, 2, 'dog', 1)
    """
    labels, predictions, names, hits = columns(rows, label_set)
    found = []
    for label in np.unique(labels).tolist():
        own = labels == label
        wrong = collections.Counter(predictions[own & (predictions != labels)].tolist())
        at, count = min(wrong.items(), key=lambda x: (-x[1], x[0]), default=(label, 0))
        recall = share(Hits(hits[own]))
        mistaken = names[at] if count else ""
        found.append(ClassRecall(label, names[label], recall, mistaken, count))
    return sorted(found, key=lambda one: (one.recall.value, one.label))


def confusions(rows: Rows, label_set: str = "") -> list[Confusion]:
    """The pairs of a class and another that is predicted for its images, most images
    first, then by number; in both directions.

    Args and errors as of `recalls`.

    >>> rows = {"key": ["1", "2"], "label_set": ["pet"] * 2, "label": np.array([0, 0]),
    ...         "prediction": np.array([0, 1]), "label_name": ["cat", "cat"],
    ...         "prediction_name": ["cat", "dog"],
    ...         "rank": np.array([1.0, 2.0]), "ties": np.array([0, 0])}
    >>> pair, = class_recalls.confusions(rows)
    >>> pair.name, pair.mistaken, pair.count, pair.images, pair.share
    ('cat', 'dog', 1, 2, 0.5)
    """
    labels, predictions, names, _ = columns(rows, label_set)
    images = collections.Counter(labels.tolist())
    pairs = collections.Counter(zip(labels.tolist(), predictions.tolist(), strict=True))
    found = [
        Confusion(names[one], names[other], count, images[one], (one, other))
        for (one, other), count in pairs.items()
        if one != other
    ]
    return sorted(found, key=lambda pair: (-pair.count, pair.labels))


def columns(rows: Rows, label_set: str) -> tuple[Any, Any, dict[int, str], Any]:
    """The labels, predictions and hits of a label set, and the names by number."""
    known = label_sets(rows)
    if not known:
        raise UserError(
            "these rows have no classes: give those of zeroshot or classification"
            + (", evaluated again" if "label_set" in rows else "")
        )
    if not label_set and len(known) > 1:
        raise UserError(f"name one of the label sets {', '.join(known)}")
    if label_set and label_set not in known:
        raise UserError(
            f"the rows have no label set {label_set!r}: they have {', '.join(known)}"
        )
    kept = np.array([name == (label_set or known[0]) for name in rows["label_set"]])
    labels, predictions = (
        np.asarray(rows[name])[kept] for name in ("label", "prediction")
    )
    hits = result_rows.ranks_of(rows).hits(1)[kept]
    names = {-1: ""}
    for numbers, column in (
        (labels, rows["label_name"]),
        (predictions, rows["prediction_name"]),
    ):
        texts: Sequence[str] = [column[at] for at in np.flatnonzero(kept).tolist()]
        names.update(zip(numbers.tolist(), texts, strict=True))
    return labels, predictions, names, hits
