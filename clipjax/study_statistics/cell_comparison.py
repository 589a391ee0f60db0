"""Cells of a study compared: intervals of means and differences that hold together."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import NamedTuple

import numpy as np
from scipy import special, stats

from clipjax.study_statistics import seed_spread
from clipjax.study_statistics.critical_values import (
    extreme_quantile,
    range_p,
    range_quantile,
    range_quantiles,
    root,
)
from clipjax.study_statistics.letter_groups import letters
from clipjax.study_statistics.seed_spread import SEPARATE, Spread
from clipjax.study_statistics.seed_table import SeedTable

LEVEL = 0.95


class CellMean(NamedTuple):
    """A cell's mean and its interval; all cells' intervals hold together."""

    name: str
    value: float
    low: float
    high: float
    count: int


class Pair(NamedTuple):
    """The difference of two cells' means, the first's less the second's.

    low, high: its interval; those of all pairs hold together. p: adjusted for the
    number of pairs; NaN against a control.
    """

    first: str
    second: str
    difference: float
    low: float
    high: float
    p: float

    @property
    def apart(self) -> bool:
        return not self.low <= 0 <= self.high


class Chance(NamedTuple):
    """The probability that a run of one cell is above a run of another, with its 95 %
    interval, which holds for this pair alone."""

    value: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class CellComparison:
    """Cells that all have a value, and the spread of their seeds.

    All intervals of one kind hold at once in LEVEL of studies.

    Means of paired cells are over these seeds, whose common part is no error: their
    intervals say how cells differ, not what another seed gives.
    """

    spread: Spread

    @property
    def table(self) -> SeedTable:
        return self.spread.table

    @functools.cached_property
    def means(self) -> list[CellMean]:
        table, spread = self.table, self.spread
        limits = np.array([self._extreme(df) for df in spread.dfs])
        half = limits * np.sqrt(spread.variances / table.counts)
        return [
            CellMean(name, float(mean), float(mean - h), float(mean + h), int(count))
            for name, mean, h, count in zip(
                table.names, table.means, half, table.counts, strict=True
            )
        ]

    @functools.cached_property
    def apart(self) -> np.ndarray:
        """bool [k k]: whether two cells are told apart."""
        errors, dfs = self._errors
        limit = self._ranges(dfs)
        means = self.table.means
        gaps = np.abs(means[:, None] - means)
        found = gaps > limit * errors / math.sqrt(2)
        np.fill_diagonal(found, False)
        return found

    @functools.cached_property
    def pairs(self) -> list[Pair]:
        """All pairs, i before j."""
        names = self.table.names
        count = range(len(names))
        return [self.pair(i, j) for i in count for j in count if i < j]

    def pair(self, i: int, j: int) -> Pair:
        """Of the cells' places in the table; intervals as of J. Tukey and C. Kramer,
        or of P. Games and J. Howell (1976) without a common spread."""
        (errors, dfs), table = self._errors, self.table
        error, df = float(errors[i, j]), float(dfs[i, j])
        difference = float(table.means[i] - table.means[j])
        half = float(self._ranges(dfs[i, j])) * error / math.sqrt(2)
        p = range_p(_ratio(abs(difference), error) * math.sqrt(2), table.compared, df)
        ends = difference - half, difference + half
        return Pair(table.names[i], table.names[j], difference, *ends, p)

    def against(self, control: str) -> list[Pair]:
        """Every other cell less a control, by C. Dunnett (1955), whose intervals are
        narrower than those of all pairs.

        Raises ValueError unless the spread is common.
        """
        table, spread = self.table, self.spread
        if spread.design == SEPARATE:
            raise ValueError("cells of different spreads: compare all pairs")
        at, counts, df = table.names.index(control), table.counts, spread.dfs[0]
        others = [i for i in range(len(table.names)) if i != at]
        loads = [math.sqrt(counts[i] / (counts[i] + counts[at])) for i in others]
        # Cells that were screened out were compared as well.
        loads += loads[:1] * (table.compared - len(table.names))
        limit = extreme_quantile(LEVEL, tuple(loads), float(df))
        found = []
        for i in others:
            difference = float(table.means[i] - table.means[at])
            half = limit * float(self._errors[0][i, at])
            ends = difference - half, difference + half
            found.append(Pair(table.names[i], control, difference, *ends, math.nan))
        return found

    def chance(self, i: int, j: int) -> Chance:
        """That a run of cell i is above one of cell j; of the same seed if paired."""
        table, spread = self.table, self.spread
        dfs, counts = self._errors[1], table.counts
        variance = (spread.variances[i] + spread.variances[j]) / 2
        difference = float(table.means[i] - table.means[j])
        size = math.sqrt(1 / counts[i] + 1 / counts[j])
        ratio = _ratio(difference, math.sqrt(variance) * size)
        if not math.isfinite(ratio):
            return Chance(*[float(ratio > 0)] * 3)
        ends = [
            special.ndtr(_noncentrality(ratio, float(dfs[i, j]), share) * size / 2**0.5)
            for share in (0.975, 0.025)
        ]
        value = float(special.ndtr(ratio * size / 2**0.5))
        return Chance(value, min(value, float(ends[0])), max(value, float(ends[1])))

    def groups(self, higher_is_better: bool = True) -> list[str]:
        """Letters of each cell, "a" for the best: two cells that share one are not
        told apart."""
        sign = -1 if higher_is_better else 1
        return letters(self.apart, np.argsort(sign * self.table.means, kind="stable"))

    @functools.cached_property
    def _errors(self) -> tuple[np.ndarray, np.ndarray]:
        """Standard errors of differences, and their degrees of freedom [k k]."""
        table, spread = self.table, self.spread
        parts = spread.variances / table.counts
        squares = parts[:, None] + parts
        if spread.design != SEPARATE:
            return np.sqrt(squares), np.full(squares.shape, spread.dfs[0])
        below = (parts**2 / spread.dfs)[:, None] + parts**2 / spread.dfs
        least = np.minimum(spread.dfs[:, None], spread.dfs)
        with np.errstate(invalid="ignore", divide="ignore"):
            dfs = np.where(below > 0, squares**2 / below, least)
        return np.sqrt(squares), dfs

    def _ranges(self, dfs: np.ndarray) -> np.ndarray:
        """Limits of differences, in standard errors of a mean, of the same shape."""
        count = max(2, self.table.compared)
        if self.spread.design == SEPARATE:
            return range_quantiles(LEVEL, count, dfs)
        df = float(self.spread.dfs[0])
        return np.full(np.shape(dfs), range_quantile(LEVEL, count, df))

    def _extreme(self, df: float) -> float:
        return extreme_quantile(LEVEL, (0.0,) * self.table.compared, float(df))


def compare(table: SeedTable, *, paired: bool = False) -> CellComparison | None:
    """Compares the cells of a table that have a value.

    paired: as of seed_spread.estimate. None if no cell has two seeds.
    """
    table = table.take(np.flatnonzero(table.counts > 0))
    if not len(table.names):
        return None
    spread = seed_spread.estimate(table, paired)
    return None if spread is None else CellComparison(spread)


def finalists(table: SeedTable) -> SeedTable:
    """The cells that have seeds of the second stage; all without one.

    Their means are over the seeds of both stages. The intervals stay as wide as those
    of all cells: had all of them gone on, all intervals would hold together, and so do
    those of the ones that were chosen, however they were.
    """
    second = table.stages > 0
    if not second.any():
        return table
    chosen = np.isfinite(table.values[:, second]).any(1)
    return table.take(np.flatnonzero(chosen))


def _ratio(value: float, error: float) -> float:
    if error > 0:
        return value / error
    return 0.0 if value == 0 else math.copysign(math.inf, value)


def _noncentrality(t: float, df: float, share: float) -> float:
    """The noncentrality that makes a t value at most `t` with this probability."""

    def miss(value: float) -> float:
        found = float(stats.nct.cdf(t, df, value))
        if math.isnan(found):  # far away, where its series do not converge
            found = float(value < t)
        return found - share

    low = high = t
    while miss(low) < 0:
        low -= 2
    while miss(high) > 0:
        high += 2
    return low if low == high else root(miss, low, high)
