"""How much a cell's value varies from seed to seed, pooled over cells if it may be."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from scipy import special

from clipjax.study_statistics.seed_table import SeedTable

POOLED, PAIRED, SEPARATE = "pooled", "paired", "separate"
# Below this p the cells' spreads count as different. It is small because the check
# looks at few seeds, and intervals without pooling are several times as wide.
UNEQUAL = 0.01


@dataclasses.dataclass(frozen=True)
class Spread:
    """The variance of one run about its cell's mean.

    design: "pooled": one variance for all cells; "paired": the same, of what is left
      when each seed's common part is taken out; "separate": each cell's own.
    table: the values that it is of: "paired" has the seeds of all cells alone.
    variances: float [k]. dfs: float [k], degrees of freedom of each.
    said: a sentence on what was done and why.
    """

    design: str
    table: SeedTable
    variances: np.ndarray
    dfs: np.ndarray
    said: str

    @property
    def deviation(self) -> float:
        """The standard deviation of a run; the cells' root mean square if each has its
        own."""
        return math.sqrt(float(np.nanmean(self.variances)))


def estimate(table: SeedTable, paired: bool = False) -> Spread | None:
    """The spread of a table whose cells all have a value; None if no cell has two.

    paired: whether runs of the same seed are compared with each other, because they
    share what the seed decides. It takes the seeds that all cells have.
    """
    lead = ""
    if paired:
        whole = table.shared()
        squares, df = _residuals(whole)
        if df > 0:
            return _paired(whole, len(table.seeds), squares, df)
        lead = "Too few seeds are shared by all cells to pair by seed. "
    squares, dfs = _within(table)
    if dfs.sum() == 0:
        return None
    check = bartlett(squares, dfs)
    if check < UNEQUAL and (dfs > 0).all():
        said = (
            f"{lead}The spreads between seeds differ (Bartlett's p {check:.2g}): each "
            "cell has its own (Welch, Games and Howell)."
        )
        return Spread(SEPARATE, table, squares / dfs, dfs, said)
    df = float(dfs.sum())
    said = f"{lead}One spread between seeds for all cells, {df:g} degrees of freedom"
    if math.isnan(check):
        said += "; whether they differ cannot be checked."
    elif check < UNEQUAL:
        said += (
            f". They differ (Bartlett's p {check:.2g}), but a cell has one seed alone:"
            " the intervals are not to be trusted."
        )
    else:
        said += f" (Bartlett's check that they are equal: p {check:.2g})."
    every = np.ones(len(table.names))
    variance = squares.sum() / df
    return Spread(POOLED, table, variance * every, df * every, said)


def _paired(table: SeedTable, given: int, squares: float, df: float) -> Spread:
    left = given - len(table.seeds)
    said = (
        f"Paired by seed: what {len(table.seeds)} seeds share is taken out, "
        f"{df:g} degrees of freedom"
    )
    said += f"; seeds left out, as not all cells have them: {left}." if left else "."
    every = np.ones(len(table.names))
    return Spread(PAIRED, table, squares / df * every, df * every, said)


def bartlett(squares: np.ndarray, dfs: np.ndarray) -> float:
    """p of Bartlett's test (1937) that normal variances are equal; NaN if it cannot be
    made.

    squares: sums of squares [k]. dfs: their degrees of freedom [k].

    Tests that centre by medians (Levene's by Brown and Forsythe) find nothing with
    three seeds a cell, and those that centre by means find far too much.
    """
    known = dfs > 0
    squares, dfs = squares[known], dfs[known]
    if len(dfs) < 2 or dfs.max() < 2:
        return math.nan
    if not squares.any():
        return 1.0
    if not squares.all():
        return 0.0
    total = dfs.sum()
    pooled = squares.sum() / total
    statistic = total * math.log(pooled) - float(dfs @ np.log(squares / dfs))
    correction = 1 + (float((1 / dfs).sum()) - 1 / total) / (3 * (len(dfs) - 1))
    return float(special.chdtrc(len(dfs) - 1, statistic / correction))


def _within(table: SeedTable) -> tuple[np.ndarray, np.ndarray]:
    """Sums of squares about the means of each cell and stage, and their degrees of
    freedom [k]. Stages have means of their own, because the first one's mean decided
    whether a cell has a second.
    """
    squares, dfs = np.zeros(len(table.names)), np.zeros(len(table.names))
    for stage in np.unique(table.stages):
        values = table.values[:, table.stages == stage]
        known = np.isfinite(values)
        count = known.sum(1)
        filled = np.where(known, values, 0)
        mean = filled.sum(1) / np.maximum(count, 1)
        squares += (np.where(known, values - mean[:, None], 0) ** 2).sum(1)
        dfs += np.maximum(count - 1, 0)
    return squares, dfs


def _residuals(table: SeedTable) -> tuple[float, float]:
    """The sum of squares of what neither cell nor seed explains, and its degrees of
    freedom, of a table without gaps."""
    squares, df = 0.0, 0.0
    for stage in np.unique(table.stages):
        values = table.values[:, table.stages == stage]
        centred = values - values.mean(1, keepdims=True) - values.mean(0)
        squares += float(((centred + values.mean()) ** 2).sum())
        df += (len(values) - 1) * (values.shape[1] - 1)
    return squares, df
