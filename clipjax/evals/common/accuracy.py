"""Accuracies over classes, computed from the right classes' ranks."""

from __future__ import annotations

import numpy as np

from clipjax.evals.common.intervals import share
from clipjax.evals.common.ranking import Ranks
from clipjax.types import Metric


def of(
    ranks: Ranks, labels: np.ndarray, count: int, ks: tuple[int, ...], prefix: str
) -> dict[str, Metric]:
    """Metrics "<prefix>top<k>" for k below the number of classes,
    "<prefix>mean_class_recall" over the classes that occur and
    "<prefix>majority_share", the accuracy of always naming the most frequent class.

    ranks: the right classes' for n images. labels: int [n]. count: number of classes.
    """
    metrics = {
        f"{prefix}top{k}": share(ranks.hits(k), chance=k / count)
        for k in ks
        if k < count
    }
    counts = np.bincount(labels, minlength=count)
    hits = np.bincount(labels, weights=ranks.hits(1), minlength=count)
    recalls = hits[counts > 0] / counts[counts > 0]
    metrics[f"{prefix}mean_class_recall"] = Metric(
        float(recalls.mean()), 1 / count, "fraction", n=len(labels)
    )
    metrics[f"{prefix}majority_share"] = Metric(
        float(counts.max() / counts.sum()), unit="fraction", n=len(labels)
    )
    return metrics
