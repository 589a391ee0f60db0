"""Fractions with 95 % intervals: accuracies and recalls as metrics."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from clipjax.types import Metric

Z = 1.959963984540054  # 95 % of a normal distribution lie within Z deviations


def wilson(share: float, n: float) -> tuple[float, float]:
    """The score interval of a share among n draws (E. B. Wilson 1927).

    Unlike share +- Z * error, it stays in [0, 1] and has a width at shares of 0 and 1.
    """
    centre = (share + Z**2 / (2 * n)) / (1 + Z**2 / n)
    variance = share * (1 - share) / n + Z**2 / (4 * n**2)
    half = Z / (1 + Z**2 / n) * math.sqrt(max(variance, 0.0))
    return max(0.0, min(centre - half, share)), min(1.0, max(centre + half, share))


def share(
    hits: np.ndarray, groups: np.ndarray | None = None, chance: float | None = None
) -> Metric:
    """The mean of `hits` as a fraction with its interval.

    Args:
      hits: float [n] in [0, 1], each query's probability to hit.
      groups: int [n], each query's group, such as an image's captions. Queries of one
        group hit or miss together, so they tell less than n draws: n is divided by the
        design effect (Kish 1965), the variance of the mean over groups divided by the
        variance of the mean of n draws.
      chance: an uninformed model's share.
    """
    value, n = float(hits.mean()), len(hits)
    low, high = wilson(value, n if groups is None else _effective(hits, groups))
    return Metric(value, chance, "fraction", low=low, high=high, n=n)


def mean(shares: Sequence[Metric]) -> Metric:
    """The mean of shares and of their chances, without an interval: the shares come
    from the same data, so they are not independent.
    """
    value = float(np.mean([metric.value for metric in shares]))
    chances = [metric.chance for metric in shares if metric.chance is not None]
    known = len(chances) == len(shares)
    return Metric(value, float(np.mean(chances)) if known else None, "fraction")


def _effective(hits: np.ndarray, groups: np.ndarray) -> float:
    """The number of independent draws that tell as much as the grouped hits."""
    n, value = len(hits), hits.mean()
    count = len(np.unique(groups))
    if count == n:
        return n
    single = value * (1 - value) / n
    if count < 2 or single <= 0:  # all hit or all miss: each group counts once
        return count
    sums = np.bincount(groups, weights=hits - value)
    grouped = (sums**2).sum() * count / (count - 1) / n**2
    return n / max(1.0, grouped / single)
