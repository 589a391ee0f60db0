"""95 % intervals of mean and median ranks, of the differences of two models', and of
means of values by image, by drawing images again (Efron 1979).
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence

import numpy as np

from clipjax.evals.common.intervals import Z, wilson

DRAWS = 1000
_CLOSE = 1e-8  # of a range: what float32's rounding changes, averaged over images
_REACH = 8.0  # beyond it lies one draw in 10^15
_HELD = 2**21  # numbers, as float64
Interval = tuple[float, float]


def mean_and_median(
    values: np.ndarray, groups: np.ndarray | None = None, draws: int = DRAWS
) -> tuple[Interval, Interval]:
    """The intervals of the mean and of the median of `values`.

    Each draw takes as many images as there are, with replacement, and all queries of
    each. The mean's interval is bias-corrected and accelerated (BCa, Efron 1987), since
    ranks are skewed, the median's is the middle 95 % of the draws. The seed is fixed,
    and memory is a few times that of `values`, whatever the number of draws.

    If no draw's mean differs, as for equal values, the mean ranges up to what it would
    be if Wilson's upper share of the images were one rank worse: an image that is not
    here may be.

    Args:
      values: float [n], such as the ranks of n queries.
      groups: int [n] from 0, each query's image, or None if they are n images.
    """
    if groups is None:
        groups = np.arange(len(values))
    _, groups = np.unique(groups, return_inverse=True)
    means, medians = _draws(values, groups, draws)
    median_interval = _middle(medians, float(np.median(values)))
    interval = _mean_interval(values, groups, means)
    if interval is None:
        mean = float(values.mean())
        return (mean, mean + _unseen(groups)), median_interval
    return interval, median_interval


def mean_difference(
    first: np.ndarray,
    second: np.ndarray,
    groups: np.ndarray,
    draws: int = DRAWS,
    step: float = 1.0,
) -> Interval:
    """The interval of mean(second) - mean(first), as that of `mean_and_median`.

    If no draw's difference differs, it ranges to both sides as far as if Wilson's upper
    share of the images differed by one `step` more.

    Args:
      first, second: float [n], of the same queries. groups: int [n], their images.
      step: one rank, or what values of another kind differ by.
    """
    _, groups = np.unique(groups, return_inverse=True)
    values = second - first
    interval = _mean_interval(values, groups, _draws(values, groups, draws)[0])
    if interval is None:
        mean, unseen = float(values.mean()), step * _unseen(groups)
        return mean - unseen, mean + unseen
    return interval


def median_difference(
    first: np.ndarray, second: np.ndarray, groups: np.ndarray, draws: int = DRAWS
) -> Interval:
    """The middle 95 % of median(second) - median(first), with the same draws for both.

    Args: as of `mean_difference`.
    """
    _, groups = np.unique(groups, return_inverse=True)
    before, after = (_draws(values, groups, draws)[1] for values in (first, second))
    return _middle(after - before, float(np.median(second) - np.median(first)))


def means_over_images(
    values: np.ndarray, ends: Sequence[Interval], draws: int = DRAWS
) -> list[Interval]:
    """The intervals of the means of several numbers, BCa's as of `mean_and_median`,
    with the same draws of images for all.

    If no draw's mean differs by more than float32 tells, the interval reaches as far as
    the mean would move if Wilson's upper share of the images were unlike all of these:
    that share of the whole range, to both sides.

    Args:
      values: float [n k], k numbers of n images. ends: of the range of each of the k
        means, which its interval does not leave.
    """
    images, count = values.shape
    rng = np.random.default_rng(0)
    means = np.empty((draws, count))
    for i in range(draws):
        taken = np.bincount(rng.integers(0, images, images), minlength=images)
        means[i] = taken.astype(float) @ values / images
    every, found = np.arange(images), []
    for column, drawn, (least, most) in zip(values.T, means.T, ends, strict=True):
        close = _CLOSE * (most - least)
        interval = _mean_interval(column, every, drawn, close)
        if interval is None:
            mean, reach = float(column.mean()), (most - least) * _unseen(every)
            interval = mean - reach, mean + reach
        found.append((max(interval[0], least), min(interval[1], most)))
    return found


def ratios_over_images(
    values: np.ndarray, base: np.ndarray, draws: int = DRAWS
) -> list[Interval]:
    """The intervals of the ratios of means values / base, BCa's as of
    `mean_and_median`, with the same draws of images for all; from 0 on.

    Draws without any base, at most 37 %, are left out. If no draw's ratio differs, the
    interval reaches as far as the ratio would move if Wilson's upper share of the
    images differed by 1 in their values.

    Args:
      values: float [n k], k numbers of n images, from 0 on. base: float [n], the
        images' number below the line, from 0 on with a mean above 0.
    """
    images, count = values.shape
    rng = np.random.default_rng(0)
    sums = np.empty((draws, count + 1))
    both = np.column_stack([values, base])
    for i in range(draws):
        taken = np.bincount(rng.integers(0, images, images), minlength=images)
        sums[i] = taken.astype(float) @ both
    sums = sums[sums[:, -1] > 0]
    every, found = np.arange(images), []
    ratios = values.sum(axis=0) / base.sum()
    for column, ratio, drawn in zip(values.T, ratios, sums.T[:-1], strict=True):
        # The ratio's error is the mean of what exceeds it, in units of the base.
        excess = (column - ratio * base) / base.mean()
        errors = drawn / sums[:, -1] - ratio
        interval = _mean_interval(excess, every, errors)
        if interval is None:
            reach = _unseen(every) / float(base.mean())
            interval = -reach, reach
        low, high = float(ratio) + min(interval[0], 0), float(ratio) + interval[1]
        found.append((max(low, 0.0), max(high, float(ratio))))
    return found


def statistics_over_images(
    statistic: Callable[[np.ndarray], np.ndarray],
    images: int,
    ends: Sequence[Interval],
    draws: int = DRAWS,
    held: int = 0,
) -> list[Interval]:
    """The intervals of numbers that are no means, such as sums of absolute values.

    Drawing images again adds the bias of such a number once more. So the interval is
    the middle 95 % of the draws, shifted until their mean is the value: that of the
    number of so many images, not of its limit for many. If no draw differs, it reaches
    as `means_over_images`.

    Args:
      statistic: how often each image is drawn, float [d images] -> float [d k].
      held: how many numbers per draw it holds, if more than images.
      ends: of the range of each of the k, which its interval does not leave.
    """
    rng = np.random.default_rng(0)
    values = statistic(np.ones((1, images)))[0]
    parts = []
    for count in parts_of(draws, max(images, held)):
        taken = [
            np.bincount(rng.integers(0, images, images), minlength=images)
            for _ in range(count)
        ]
        parts.append(statistic(np.array(taken, float)))
    found = []
    for value, drawn, (least, most) in zip(
        values, np.concatenate(parts).T, ends, strict=True
    ):
        if np.allclose(drawn, value, rtol=0, atol=_CLOSE * (most - least)):
            reach = (most - least) * _unseen(np.arange(images))
            low, high = value - reach, value + reach
        else:
            shifted = np.quantile(drawn, [0.025, 0.975]) - drawn.mean() + value
            low, high = _holding(shifted, float(value))
        found.append((max(float(low), least), min(float(high), most)))
    return found


def parts_of(draws: int, images: int) -> list[int]:
    """How many draws to make at a time, so that little memory is held."""
    most = max(1, _HELD // max(images, 1))
    return [min(most, draws - done) for done in range(0, draws, most)]


def _unseen(groups: np.ndarray) -> float:
    """The share of images that may be another kind than all of these."""
    return wilson(0.0, int(groups.max()) + 1)[1]


def _draws(
    values: np.ndarray, groups: np.ndarray, draws: int
) -> tuple[np.ndarray, np.ndarray]:
    """float [draws], the means and medians of draws that depend on the groups alone.

    groups: int [n], each number from 0 to the largest at least once.
    """
    images = int(groups.max()) + 1
    ordered = np.sort(values)
    sums = np.bincount(groups, values, images)
    counts = np.bincount(groups, minlength=images).astype(float)
    # Only values near the median can be a draw's: within _REACH standard errors.
    error = 0.5 * float(np.sqrt((counts**2).sum())) / len(values)
    ends = np.array([-1, 1]) * _REACH * error + 0.5
    low, high = ordered[np.clip(ends * len(values), 0, len(values) - 1).astype(int)]
    near = np.flatnonzero((values >= low) & (values <= high))
    near = near[np.argsort(values[near], kind="stable")]
    near_values, near_groups = values[near], groups[near]
    below = np.bincount(groups[values < low], minlength=images).astype(float)
    by_image = np.stack([sums, counts, below], axis=1)

    rng = np.random.default_rng(0)
    means, medians = np.empty(draws), np.empty(draws)
    for i in range(draws):
        taken = np.bincount(rng.integers(0, images, images), minlength=images)
        total, count, before = taken.astype(float) @ by_image
        means[i] = total / count
        ends = before + np.cumsum(taken[near_groups])  # each value's last place
        # Equal places for an odd number of values, the two middle ones for an even.
        one, other = ends.searchsorted([(count - 1) // 2, count // 2], side="right")
        medians[i] = (near_values[one] + near_values[other]) / 2
    return means, medians


def _middle(draws: np.ndarray, value: float) -> Interval:
    return _holding(np.quantile(draws, [0.025, 0.975]), value)


def _mean_interval(
    values: np.ndarray, groups: np.ndarray, means: np.ndarray, close: float = 1e-12
) -> Interval | None:
    """BCa's interval of the mean by the draws' means; None if none of these differs by
    more than `close`.
    """
    mean, draws = float(values.mean()), len(means)
    same = np.isclose(means, mean, rtol=1e-12, atol=close)
    if same.all():
        return None
    influence = np.bincount(groups, values) - mean * np.bincount(groups)
    skew = float((influence**3).sum() / (influence**2).sum() ** 1.5) / 6
    lower = float((means < mean)[~same].sum() + same.sum() / 2) / draws
    mean_ends = np.quantile(means, _accelerated(lower, skew, draws))
    return _holding(mean_ends, mean)


def _accelerated(lower: float, skew: float, draws: int) -> list[float]:
    """The quantiles of the draws that are the interval's ends.

    lower: the share of draws below the estimate. skew: the acceleration.
    """
    normal = statistics.NormalDist()
    bias = normal.inv_cdf(min(max(lower, 1 / draws), 1 - 1 / draws))
    found = []
    for z in (bias - Z, bias + Z):
        # A skew this large has no corrected quantile: the last draw is the nearest.
        stretch = 1 - skew * z
        found.append(normal.cdf(bias + z / stretch) if stretch > 0 else float(z > 0))
    return found


def _holding(ends: np.ndarray, value: float) -> Interval:
    return min(float(ends[0]), value), max(float(ends[1]), value)
