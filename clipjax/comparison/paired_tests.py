"""Paired differences of two models: their intervals, and p values.

An image's queries are one unit in all of these, because its captions hit or miss
together. The tests ask how often a difference as large comes about if, for each image
by itself, a coin decided which model is which.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from clipjax.evals.common.intervals import Z

FLIPS = 10_000  # drawn if the exact distribution is out of reach
SWAPS = 1000  # of a median, which costs more
LEAST_P = 1e-12  # what the exact distribution's arithmetic can tell from 0
_LARGEST_STEP = 1000  # of integers that differences are multiples of
_LONGEST = 2**22  # values of an exact distribution
_BLOCK = 2**24  # signs held at once


class Pairs(NamedTuple):
    """The values of two models for the same n queries.

    first, second: float [n]. weights: float [n] of sum 1, each query's part of the
    mean. groups: int [n] from 0, each query's image.
    """

    first: np.ndarray
    second: np.ndarray
    weights: np.ndarray
    groups: np.ndarray

    @property
    def difference(self) -> float:
        """The second model's mean less the first's."""
        return float((self.weights * (self.second - self.first)).sum())

    def by_image(self) -> np.ndarray:
        """float [images]: each image's part of the difference."""
        return np.bincount(self.groups, self.weights * (self.second - self.first))


def share_interval(pairs: Pairs) -> tuple[float, float]:
    """The 95 % interval of a difference of shares, whose values are from 0 to 1.

    With one query per image it is that of Bonett and Price (2012), which adds an image
    that flips either way: so it has a width even if none flips. With several, images
    are its units (the variance is linearised, as in evals/common/intervals.py), and the
    two that are added flip as much as those that do, or as a whole if none does.
    """
    terms, loads = pairs.by_image(), np.bincount(pairs.groups, pairs.weights)
    images = len(loads)
    terms, loads = terms * images, loads * images
    flips = np.abs(terms)
    if not flips.any():
        flips = loads
    size = float((flips**2).sum() / flips.sum())
    value = pairs.difference
    centre = value * images / (images + 2)
    spread = float(((terms - centre * loads) ** 2).sum())
    spread += (size - centre) ** 2 + (size + centre) ** 2
    half = Z * math.sqrt(spread) / (images + 2)
    low, high = max(-1.0, centre - half), min(1.0, centre + half)
    return min(low, value), max(high, value)


def sign_flips(pairs: Pairs) -> float:
    """The two-sided p of a difference of means, by flipping images' signs.

    It is exact if the images' parts are multiples of one number, as hits are; with one
    query per image it is McNemar's exact test. Otherwise FLIPS random flips with a
    fixed seed give it.
    """
    terms = pairs.by_image()
    terms = terms[np.abs(terms) > 1e-9 * np.abs(terms).max(initial=0)]
    if not len(terms):
        return 1.0
    whole = _integers(terms)
    if whole is not None and 2 * np.abs(whole).sum() < _LONGEST:
        return _exact(whole)
    observed = abs(float(terms.sum())) * (1 - 1e-9)
    rng = np.random.default_rng(0)
    rows = max(1, _BLOCK // len(terms))
    reached = 0
    for start in range(0, FLIPS, rows):
        count = min(rows, FLIPS - start)
        size = -(-len(terms) // 8)
        bits = np.frombuffer(rng.bytes(count * size), np.uint8).reshape(count, size)
        chosen = np.unpackbits(bits, axis=1, count=len(terms)).astype(np.float32)
        totals = 2 * (chosen @ terms) - terms.sum()
        reached += int((np.abs(totals) >= observed).sum())
    return (1 + reached) / (1 + FLIPS)


def median_swaps(pairs: Pairs) -> float:
    """The two-sided p of a difference of medians, by swapping images' models SWAPS
    times with a fixed seed. Weights have no part in it.
    """
    first, second, _, groups = pairs
    if np.array_equal(first, second):
        return 1.0
    observed = abs(float(np.median(second) - np.median(first))) - 1e-9
    rng = np.random.default_rng(0)
    images, reached = int(groups.max()) + 1, 0
    for _ in range(SWAPS):
        swap = rng.integers(0, 2, images).astype(bool)[groups]
        one, other = np.where(swap, second, first), np.where(swap, first, second)
        reached += abs(float(np.median(one) - np.median(other))) >= observed
    return (1 + reached) / (1 + SWAPS)


def holm(values: Sequence[float]) -> list[float]:
    """p values adjusted for their number, in their order (S. Holm 1979).

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    adjusted, worst = [0.0] * len(values), 0.0
    for i, at in enumerate(sorted(range(len(values)), key=lambda at: values[at])):
        worst = max(worst, (len(values) - i) * values[at])
        adjusted[at] = min(1.0, worst)
    return adjusted


def _integers(terms: np.ndarray) -> np.ndarray | None:
    """Multiples of one number as small integers; None if they are not."""
    ratios = np.unique(np.round(np.abs(terms) / np.abs(terms).max(), 9))
    for step in range(1, _LARGEST_STEP + 1):
        scaled = ratios * step
        if (np.abs(scaled - np.rint(scaled)) < 1e-6).all():
            return np.rint(terms / np.abs(terms).max() * step).astype(np.int64)
    return None


def _exact(terms: np.ndarray) -> float:
    """The p of integers: the share of all sign flips whose sum is as far from 0.

    The sum's characteristic function is the product of cosines; its transform is the
    distribution.
    """
    sizes, counts = np.unique(np.abs(terms), return_counts=True)
    length = 2 * int(np.abs(terms).sum()) + 1
    angles = 2 * np.pi * np.arange(length // 2 + 1) / length
    transform = np.ones(len(angles))
    for size, count in zip(sizes, counts, strict=True):
        transform *= np.cos(size * angles) ** count
    chances = np.fft.irfft(transform, length)  # of 0, 1, ..., then of negative sums
    observed = abs(int(terms.sum()))
    if not observed:
        return 1.0
    tail = 2 * float(chances[observed : length // 2 + 1].sum())
    return min(1.0, max(tail, LEAST_P))
