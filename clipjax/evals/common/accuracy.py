"""Accuracies over classes, from the ranks of the right ones."""

from __future__ import annotations

import numpy as np

from clipjax.evals.common.ranking import Ranks


def of(
    ranks: Ranks, labels: np.ndarray, count: int, ks: tuple[int, ...], prefix: str
) -> tuple[dict[str, float], dict[str, float]]:
    """(metrics, chances): "<prefix>top<k>" for k below the number of classes,
    "<prefix>mean_class_recall" of the classes that occur and "<prefix>majority_share",
    what always naming the most frequent class gets.

    ranks: of the right class of n images. labels: int [n]. count: of classes.
    """
    metrics, chances = {}, {}
    for k in ks:
        if k < count:
            metrics[f"{prefix}top{k}"] = float(ranks.hits(k).mean())
            chances[f"{prefix}top{k}"] = k / count
    counts = np.bincount(labels, minlength=count)
    hits = np.bincount(labels, weights=ranks.hits(1), minlength=count)
    recalls = hits[counts > 0] / counts[counts > 0]
    metrics[f"{prefix}mean_class_recall"] = float(recalls.mean())
    chances[f"{prefix}mean_class_recall"] = 1 / count
    metrics[f"{prefix}majority_share"] = float(counts.max() / counts.sum())
    return metrics, chances
