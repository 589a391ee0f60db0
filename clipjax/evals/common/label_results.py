"""Collects the results of an evaluator that classifies images of several label sets."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from clipjax.evals.common import accuracy, result_rows
from clipjax.evals.common.intervals import Hits, mean
from clipjax.evals.common.labelled import Labelled, Reading, Splits
from clipjax.evals.common.ranking import NEAREST, rank_scores
from clipjax.types import EvalResult, Metric, Rows


class LabelResults:
    """What `add` has collected; see `result`.

    ks: the k of the top-k accuracies.
    """

    def __init__(self, reading: Reading, ks: Sequence[int]):
        self._reading = reading
        self._ks = tuple(ks)
        self._metrics: dict[str, Metric] = {}
        self._tables: list[Rows] = []
        self._sizes: list[str] = []
        self._top1: list[Hits] = []

    def add(self, data: Labelled, scores: np.ndarray, told: str = "") -> None:
        """Adds a label set's primary results, with rows.

        scores: float32 [n classes], of the evaluated images. told: what else to say.
        """
        hits, rows = self._count(data, scores, "")
        self._top1.append(Hits(hits, data.places, 1 / len(data.classes)))
        self._tables.append(rows)
        self._sizes.append(f"{data.size}, {told}" if told else data.size)

    def add_more(self, data: Labelled, scores: np.ndarray, prefix: str) -> None:
        """Adds further metrics of a label set, whose names begin with `prefix`."""
        self._count(data, scores, prefix)

    def result(self, protocol: str) -> EvalResult:
        """Metrics "<set>/top<k>", "<set>/mean_class_recall" and "<set>/majority_share",
        and with several sets the primary "mean_top1". Rows as in result_rows.by_class,
        one per image and label set.
        """
        primary = f"{self._reading.label_sets[0].name}/top1"
        if len(self._top1) > 1:
            primary = "mean_top1"
            self._metrics[primary] = mean(self._top1)
        return EvalResult(
            self._metrics,
            primary,
            "; ".join([*self._sizes, *self._reading.notes]),
            self._reading.broken,
            result_rows.join(self._tables),
            protocol,
        )

    def _count(
        self, data: Labelled, scores: np.ndarray, prefix: str
    ) -> tuple[np.ndarray, Rows]:
        """Adds the metrics, and returns each image's hits and the rows."""
        count, labels = len(data.classes), data.test_labels
        ranks = rank_scores(scores, labels, nearest=NEAREST)
        start = f"{prefix}{data.name}/"
        self._metrics |= accuracy.of(ranks, labels, count, self._ks, start)
        rows = result_rows.by_class(data.keys, data.classes, labels, ranks, data.name)
        return ranks.hits(1), rows


def metric_units(
    splits: Splits, ks: tuple[int, ...], more: Sequence[str] = ()
) -> dict[str, str]:
    """The metrics of LabelResults by name, with their units, if every class has
    training images.

    more: the prefixes of `add_more`.
    """
    classes = splits.train.source.class_names
    units = {
        name: unit
        for prefix in ("", *more)
        for label_set in splits.places
        for name, unit in accuracy.units(
            len(classes[label_set]), ks, f"{prefix}{label_set}/"
        ).items()
    }
    return units | ({"mean_top1": "fraction"} if len(splits.places) > 1 else {})
