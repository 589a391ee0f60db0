"""Calibration errors: confidences put into bins, and compared with how many are right.

The expected calibration error (ECE; Guo et al. 2017, arXiv 1706.04599) is the mean over
images of their bin's |mean confidence - share right|. Bins have equal widths there, and
equal numbers of images in the adaptive one (Nixon et al. 2019, arXiv 1904.01685).

Chance alone makes the share right differ from the confidence in each bin, so either is
above 0 for a perfectly calibrated model too; `if_calibrated` says how much.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from clipjax.evals.common import bootstrap
from clipjax.types import Metric

MOST = 10_000  # bins


def of_equal_width(confidence: np.ndarray, bins: int) -> np.ndarray:
    """int [n] from 0: the bin of each confidence in [0, 1].

    Bin b holds those above b / bins, up to (b + 1) / bins; the first one also 0.
    """
    edges = np.arange(1, bins) / bins
    return np.searchsorted(edges, confidence, side="left")


def of_equal_mass(confidence: np.ndarray, bins: int) -> np.ndarray:
    """int [n] from 0: the bin of each confidence, by its place in their order.

    Bins differ by one image at most, but equal confidences share the bin of their
    middle, so that the order of the images changes nothing.
    """
    _, value, counts = np.unique(confidence, return_inverse=True, return_counts=True)
    # Twice the middle place of each value, a whole number.
    middles = 2 * (np.cumsum(counts) - counts) + counts - 1
    return (middles * bins // max(2 * len(confidence), 1))[value]


def errors(
    confidence: np.ndarray,
    right: np.ndarray,
    bins_of: Sequence[np.ndarray],
    groups: np.ndarray,
) -> list[Metric]:
    """The calibration error for each way to put n images into bins.

    The interval is the bootstrap's over groups, shifted so that it does not count the
    bias twice: it is that of the error of so many images, bias and all.

    Args:
      confidence: float [n], n at least 1. right: float [n], each prediction's
        probability to be right.
      bins_of: int [n] from 0 each. groups: int [n] from 0, the images that are drawn
        together.
    """
    gaps, ways = confidence - right, [_Bins(bin_of) for bin_of in bins_of]

    def drawn(times: np.ndarray) -> np.ndarray:
        weights = times[:, groups]
        found = _errors(weights * gaps, ways)
        return found / weights.sum(axis=1, keepdims=True)

    whole = _errors(gaps[None], ways)[0] / len(gaps)
    ends = [(0.0, 1.0)] * len(ways)
    drawn_from = int(groups.max()) + 1
    intervals = bootstrap.statistics_over_images(
        drawn, drawn_from, ends, held=len(gaps)
    )
    return [
        _metric(value, *interval, len(gaps))
        for value, interval in zip(whole.tolist(), intervals, strict=True)
    ]


def by_image(
    confidence: np.ndarray, right: np.ndarray, bin_of: np.ndarray
) -> np.ndarray:
    """float64 [n], whose mean is the calibration error: confidence - right of each
    image, with the other sign in bins that are right more often than they say.

    Args: as of `errors`.
    """
    gaps = confidence - right
    return gaps * np.sign(np.bincount(bin_of, gaps))[bin_of]


def if_calibrated(
    confidence: np.ndarray, bins_of: Sequence[np.ndarray], groups: np.ndarray
) -> list[Metric]:
    """The expected error if each prediction were right with its confidence as the
    probability, for each way to put the images into bins.

    The value is the mean of simulated errors with a fixed seed, and the interval has
    95 % of them: an error above it is more than chance.

    Args: as of `errors`; images of a group are right together.
    """
    rng, ways = np.random.default_rng(0), [_Bins(bin_of) for bin_of in bins_of]
    parts, count = [], len(confidence)
    for draws in bootstrap.parts_of(bootstrap.DRAWS, count):
        right = rng.random((draws, int(groups.max()) + 1))[:, groups] < confidence
        parts.append(_errors(confidence - right, ways) / count)
    found = np.concatenate(parts)
    ends = np.quantile(found, [0.025, 0.975], axis=0)
    return [
        _metric(value, low, high, count)
        for value, low, high in zip(
            found.mean(axis=0).tolist(), *ends.tolist(), strict=True
        )
    ]


class _Bins:
    """Images in the order of their bins."""

    def __init__(self, bin_of: np.ndarray):
        self._order = np.argsort(bin_of, kind="stable")
        ordered = bin_of[self._order]
        self._starts = np.flatnonzero(np.diff(ordered, prepend=-1))

    def sums(self, values: np.ndarray) -> np.ndarray:
        """float [d b] for [d n]: the sums over each bin that has images."""
        return np.add.reduceat(values[:, self._order], self._starts, axis=1)


def _errors(gaps: np.ndarray, ways: Sequence[_Bins]) -> np.ndarray:
    """float [d k] for gaps [d n]: the sums of the bins' absolute ones, for k ways."""
    sums = [np.abs(bins.sums(gaps)).sum(axis=1) for bins in ways]
    return np.stack(sums, axis=1)


def _metric(value: float, low: float, high: float, n: int) -> Metric:
    ends = max(min(low, value), 0.0), min(max(high, value), 1.0)
    return Metric(min(value, 1.0), None, "fraction", False, *ends, n)
