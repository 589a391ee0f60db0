"""What tuning reaches with fewer trials: the best of k, for each k."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import special


class BestOf(NamedTuple):
    """The best of k trials drawn from those that were run.

    mean: expected. low, high: the middle 95 % of what the draws give.
    """

    trials: int
    mean: float
    low: float
    high: float


def curve(values: Sequence[float], higher_is_better: bool = True) -> list[BestOf]:
    """The best of 1, 2, ..., n of n trials, each set of k drawn equally often.

    values: of all trials in any order; a NaN is a trial that reached nothing, and
      counts as the worst of all. [] if none has a value.

    Drawing without replacement gives the expected best of k without bias (R. Tang et
    al. 2020); with all n trials there is one draw, whose best is known.

    >>> [round(one.mean, 3) for one in curve([1.0, 2.0, 4.0])]
    [2.333, 3.333, 4.0]
    """
    array = np.array(values, float)
    known = np.isfinite(array)
    if not known.any():
        return []
    sign = 1 if higher_is_better else -1
    array = np.where(known, sign * array, (sign * array[known]).min())
    ordered = np.sort(array)
    count = len(ordered)
    ranks = np.arange(1, count + 1)
    found = []
    for k in ranks:
        # The best has rank r if the other k - 1 are among the r - 1 below.
        chances = special.comb(ranks - 1, k - 1) / special.comb(count, k)
        total = np.cumsum(chances)
        places = np.minimum(np.searchsorted(total, (0.025, 0.975)), count - 1)
        low, high = sorted(sign * float(end) for end in ordered[places])
        found.append(BestOf(int(k), sign * float(chances @ ordered), low, high))
    return found
