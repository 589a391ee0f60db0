"""Fractions with 95 % intervals: accuracies and recalls as metrics.

All are Wilson's score intervals. A share of independent queries has its own number n.
Other means of hits have an effective number: that of independent queries whose share
varies as much from data to data. The variance is linearised over images (a sum of one
term per image), because an image's queries hit or miss together.

With few hits the variance is a poor estimate, and zero if all queries hit or all miss.
So half an image that hits and misses as a whole is added to it (`_effective`).
`benchmarks/interval_coverage.py` measures how often the intervals hold the truth.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from clipjax.types import Metric

Z = 1.959963984540054  # 95 % of a normal distribution lie within Z deviations


class Hits(NamedTuple):
    """The hits of n queries of one kind.

    values: float [n] in [0, 1], each query's probability to hit.
    groups: int [n] from 0, each query's image, or None if they are n images in order.
    chance: an uninformed model's share.
    """

    values: np.ndarray
    groups: np.ndarray | None = None
    chance: float | None = None


def wilson(share: float, n: float) -> tuple[float, float]:
    """The score interval of a share among n draws (E. B. Wilson 1927).

    Unlike share +- Z * error, it stays in [0, 1] and has a width at shares of 0 and 1.
    """
    centre = (share + Z**2 / (2 * n)) / (1 + Z**2 / n)
    variance = share * (1 - share) / n + Z**2 / (4 * n**2)
    half = Z / (1 + Z**2 / n) * math.sqrt(max(variance, 0.0))
    return max(0.0, min(centre - half, share)), min(1.0, max(centre + half, share))


def share(hits: Hits) -> Metric:
    """The share of hits.

    An image's captions tell less than as many independent queries: n is divided by the
    design effect (Kish 1965), the ratio of the mean's variance to that of n draws.
    """
    return mean([hits])


def mean(parts: Sequence[Hits]) -> Metric:
    """The mean of several shares over the same images, as of both directions' recalls.

    An image's term of the variance is the sum of its terms in all shares, so what the
    shares have in common counts. n is the number of all queries.
    """
    value = float(np.mean([hits.values.mean() for hits in parts]))
    n = sum(len(hits.values) for hits in parts)
    chances = [hits.chance for hits in parts if hits.chance is not None]
    chance = float(np.mean(chances)) if len(chances) == len(parts) else None
    return _metric(value, n, _by_images(parts, value), chance)


def mean_of_metrics(parts: Sequence[Metric], groups: Sequence[int]) -> Metric:
    """The mean of metrics of one unit and direction, at least one.

    groups: as of `mean_interval`. Chance is the mean of theirs, n the sum; None unless
    all have one.
    """
    low, high = mean_interval(parts, groups) or (None, None)
    chances = [part.chance for part in parts if part.chance is not None]
    counts = [part.n for part in parts if part.n is not None]
    return Metric(
        float(np.mean([part.value for part in parts])),
        float(np.mean(chances)) if len(chances) == len(parts) else None,
        parts[0].unit,
        parts[0].higher_is_better,
        low,
        high,
        sum(counts) if len(counts) == len(parts) else None,
    )


def mean_interval(
    parts: Sequence[Metric], groups: Sequence[int]
) -> tuple[float, float] | None:
    """An interval of the mean of metrics, from theirs; None if one has none.

    groups: the number of each part's data. The distances from values to ends add within
    a group, whose parts may vary together, and as squares across groups, which are
    independent (Zou and Donner 2008, doi:10.1002/sim.3095).
    """
    below, above = (dict.fromkeys(groups, 0.0) for _ in range(2))
    for part, group in zip(parts, groups, strict=True):
        if part.low is None or part.high is None or not math.isfinite(part.value):
            return None
        below[group] += (part.value - part.low) / len(parts)
        above[group] += (part.high - part.value) / len(parts)
    mean = float(np.mean([part.value for part in parts]))
    return mean - math.hypot(*below.values()), mean + math.hypot(*above.values())


def class_mean(hits: np.ndarray, labels: np.ndarray, chance: float) -> Metric:
    """The mean of the classes' shares of hits, over the classes that occur.

    The variance is that of a stratified sample: each class's own, for as many images as
    it has. A class's few images show its variance poorly, so one image with the
    variance of the mean is added to each.

    Args:
      hits: float [n] in [0, 1]. labels: int [n] from 0, each image's class.
    """
    counts = np.bincount(labels)
    hit_counts = np.bincount(labels, weights=hits)[counts > 0]
    counts = counts[counts > 0]
    shares = hit_counts / counts
    value, weight = float(shares.mean()), 1 / len(counts) ** 2
    spread = (counts * shares * (1 - shares) + value * (1 - value)) / counts
    variance = float((spread / counts).sum()) * weight
    concentration = float((1 / counts).sum()) * weight
    effective = _effective(value, variance, concentration)
    return _metric(value, len(hits), effective, chance)


def grouped_class_mean(
    hits: np.ndarray, labels: np.ndarray, groups: np.ndarray, chance: float | None
) -> Metric:
    """`class_mean` of queries of which an image may have several, in several classes.

    An image's term of the variance is the sum of its queries' terms, and what is added
    to a class is one image of as many as it has.

    Args:
      hits: float [n] in [0, 1]. labels, groups: int [n] from 0, each query's class and
        image.
    """
    _, labels = np.unique(labels, return_inverse=True)
    counts = np.bincount(labels)
    shares = np.bincount(labels, weights=hits) / counts
    value, weights = float(shares.mean()), 1 / (counts[labels] * len(counts))
    terms = np.bincount(groups, weights=weights * (hits - shares[labels]))
    images = np.bincount(np.unique(np.stack([labels, groups]), axis=1)[0])
    added = value * (1 - value) * float((1 / images**2).sum()) / len(counts) ** 2
    variance = float((terms**2).sum()) + added
    concentration = float((np.bincount(groups, weights=weights) ** 2).sum())
    effective = min(_effective(value, variance, concentration), len(hits))
    return _metric(value, len(hits), effective, chance)


def over_draws(hits: np.ndarray, chance: float) -> Metric:
    """The mean share of hits of several draws of training images.

    Both what is drawn and which images are evaluated move the number. The distance from
    the mean to either end is the root of the summed squares of two: that of Wilson's
    interval over the images, and that of Student's t interval over the draws' shares
    (Zou and Donner 2008). One draw shows no spread, so its interval lacks the second.

    Args:
      hits: float [draws n] in [0, 1], of the same n images in order.
    """
    draws, n = hits.shape
    shares = hits.mean(axis=1)
    value = float(shares.mean())
    low, high = wilson(value, n)
    half = 0.0
    if draws > 1:
        import scipy.special  # here: its import takes long

        quantile = scipy.special.stdtrit(draws - 1, 0.975)
        half = float(quantile * shares.std(ddof=1) / math.sqrt(draws))
    return Metric(
        value,
        chance,
        "fraction",
        low=max(0.0, value - math.hypot(value - low, half)),
        high=min(1.0, value + math.hypot(high - value, half)),
        n=n,
    )


def _metric(value: float, n: int, effective: float, chance: float | None) -> Metric:
    low, high = wilson(value, effective)
    return Metric(value, chance, "fraction", low=low, high=high, n=n)


def _by_images(parts: Sequence[Hits], value: float) -> float:
    """The effective number of queries of a mean of shares, at most their number."""
    groups = [
        np.arange(len(hits.values)) if hits.groups is None else hits.groups
        for hits in parts
    ]
    images = max(int(own.max()) for own in groups) + 1
    weights, weighted_hits = np.zeros(images), np.zeros(images)
    for own, (values, _, _) in zip(groups, parts, strict=True):
        weights += np.bincount(own, minlength=images) / len(values)
        weighted_hits += np.bincount(own, values, minlength=images) / len(values)
    weights, weighted_hits = weights / len(parts), weighted_hits / len(parts)
    n, count = sum(len(own) for own in groups), int(np.count_nonzero(weights))
    if count in (1, n):  # one image tells of one draw
        return count
    residuals = weighted_hits - value * weights
    variance = float((residuals**2).sum()) * count / (count - 1)
    return min(_effective(value, variance, float((weights**2).sum())), n)


def _effective(value: float, variance: float, concentration: float) -> float:
    """The number of independent draws whose mean has this variance.

    concentration: the sum of the images' squared weights, 1 / images if all are alike:
    the variance, divided by value * (1 - value), of images that hit or miss as a whole.
    Half an image's worth of it stands in for what few hits do not show, so no variance
    at all leaves 1 / concentration draws.
    """
    more = concentration / 2
    single = max(value * (1 - value), 0.0)
    return (single + more) / (variance + more * concentration)
