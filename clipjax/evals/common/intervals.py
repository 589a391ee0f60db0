"""Shares with 95 % intervals: accuracies and recalls as metrics."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from clipjax.types import Metric

Z = 1.959963984540054  # of the normal distribution, 95 % lie within


def wilson(share: float, n: float) -> tuple[float, float]:
    """The score interval of a share of n draws (E. B. Wilson 1927).

    Unlike share +- Z * error it stays in [0, 1] and has a width at 0 and 1.
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
      hits: float [n] in [0, 1], the probability that each query hits.
      groups: int [n], which queries belong together, such as an image's captions. They
        hit or miss together, so they tell less than n draws: n is divided by the design
        effect (Kish 1965), the variance of the mean over groups over that of n draws.
    """
    value, n = float(hits.mean()), len(hits)
    low, high = wilson(value, n if groups is None else _effective(hits, groups))
    return Metric(value, chance, "fraction", low=low, high=high, n=n)


def mean(shares: Sequence[Metric]) -> Metric:
    """The mean of shares and of their chances; of several questions to one data, so it
    has no interval.
    """
    value = float(np.mean([one.value for one in shares]))
    chances = [one.chance for one in shares if one.chance is not None]
    known = len(chances) == len(shares)
    return Metric(value, float(np.mean(chances)) if known else None, "fraction")


def _effective(hits: np.ndarray, groups: np.ndarray) -> float:
    """How many independent draws tell as much as the hits in their groups."""
    n, value = len(hits), hits.mean()
    count = len(np.unique(groups))
    if count == n:
        return n
    single = value * (1 - value) / n
    if count < 2 or single <= 0:  # all hit or all miss: the groups may be alike inside
        return count
    sums = np.bincount(groups, weights=hits - value)
    grouped = (sums**2).sum() * count / (count - 1) / n**2
    return n / max(1.0, grouped / single)
