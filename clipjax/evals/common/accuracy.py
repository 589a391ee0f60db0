"""Accuracies over classes, computed from the right classes' ranks."""

from __future__ import annotations

import numpy as np

from clipjax.evals.common.intervals import Hits, class_mean, share
from clipjax.evals.common.ranking import Ranks
from clipjax.types import Metric


def units(count: int, ks: tuple[int, ...], prefix: str) -> dict[str, str]:
    """The metrics of `of` by name, with their units."""
    tops = [f"top{k}" for k in ks if k < count]
    names = [*tops, "mean_class_recall", "majority_share"]
    return {f"{prefix}{name}": "fraction" for name in names}


def of(
    ranks: Ranks, labels: np.ndarray, count: int, ks: tuple[int, ...], prefix: str
) -> dict[str, Metric]:
    """Metrics "<prefix>top<k>" for k below the number of classes,
    "<prefix>mean_class_recall" over the classes that occur and
    "<prefix>majority_share", the accuracy of always naming the most frequent class.

    ranks: the right classes' for n images. labels: int [n]. count: number of classes.
    """
    metrics = {
        f"{prefix}top{k}": share(Hits(ranks.hits(k), chance=k / count))
        for k in ks
        if k < count
    }
    metrics[f"{prefix}mean_class_recall"] = class_mean(ranks.hits(1), labels, 1 / count)
    most = np.bincount(labels).argmax()
    metrics[f"{prefix}majority_share"] = share(Hits((labels == most).astype(float)))
    return metrics
