"""What a number of seeds can tell apart, before they are run."""

from __future__ import annotations

import math

from scipy import stats

from clipjax.study_statistics.cell_comparison import LEVEL
from clipjax.study_statistics.critical_values import range_quantile, root

POWER = 0.8
MOST_SEEDS = 10_000


def degrees(cells: int, seeds: int, paired: bool = False) -> int:
    """Degrees of freedom of the pooled spread."""
    return (cells - 1) * (seeds - 1) if paired else cells * (seeds - 1)


def power(
    difference: float,
    cells: int,
    seeds: int,
    deviation: float = 1.0,
    *,
    paired: bool = False,
) -> float:
    """The probability that two cells of this true difference are told apart, when all
    pairs of cells are compared at once.

    deviation: the standard deviation between seeds; of what the seeds do not share if
      paired. At least 2 seeds and 2 cells.
    """
    df = degrees(cells, seeds, paired)
    limit = range_quantile(LEVEL, cells, df) / math.sqrt(2)
    shift = abs(difference) / (deviation * math.sqrt(2 / seeds))
    if shift > limit + 40:  # where the tail's series no longer converge
        return 1.0
    above, below = stats.nct.sf(limit, df, shift), stats.nct.cdf(-limit, df, shift)
    return min(1.0, float(above) + max(0.0, float(below)))


def detectable(
    cells: int,
    seeds: int,
    deviation: float = 1.0,
    *,
    paired: bool = False,
) -> float:
    """The difference that is found with probability POWER, in units of deviation."""

    def miss(size: float) -> float:
        return power(size, cells, seeds, paired=paired) - POWER

    high = 1.0
    while miss(high) < 0:
        high *= 2
    return deviation * root(miss, 0, high)


def seeds_needed(
    difference: float,
    cells: int,
    deviation: float = 1.0,
    *,
    paired: bool = False,
) -> int | None:
    """The fewest seeds that find a difference with probability POWER; None above
    MOST_SEEDS."""

    def enough(seeds: int) -> bool:
        return power(difference, cells, seeds, deviation, paired=paired) >= POWER

    low, high = 1, 2
    while not enough(high):
        low, high = high, 2 * high
        if high > MOST_SEEDS:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high
