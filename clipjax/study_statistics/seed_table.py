"""Values of a metric by cell and seed."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np


@dataclasses.dataclass(frozen=True)
class SeedTable:
    """What each cell reached with each seed.

    names: of the cells [k]. seeds: [n]. values: float [k n], NaN for a run that is
      missing or has no finite value.
    stages: int [n], 0 for a seed that all cells got, 1 for one of the finalists alone.
    compared: how many cells were compared in the first stage, of which `names` may be
      the finalists; it decides how wide simultaneous intervals are.
    """

    names: tuple[str, ...]
    seeds: tuple[int, ...]
    values: np.ndarray
    stages: np.ndarray
    compared: int

    def __post_init__(self) -> None:
        shape = len(self.names), len(self.seeds)
        if self.values.shape != shape or self.stages.shape != shape[1:]:
            raise ValueError(f"values {self.values.shape} are not of {shape}")

    @property
    def counts(self) -> np.ndarray:
        """int [k]: the values of each cell."""
        return np.isfinite(self.values).sum(1)

    @property
    def means(self) -> np.ndarray:
        """float [k]: NaN for a cell without values."""
        known = np.isfinite(self.values)
        total = np.where(known, self.values, 0).sum(1)
        return np.where(known.any(1), total / np.maximum(known.sum(1), 1), np.nan)

    def take(self, rows: Sequence[int] | np.ndarray) -> SeedTable:
        """The table of some cells, which are still compared as before."""
        rows = np.asarray(rows, int)
        names = tuple(self.names[i] for i in rows)
        return dataclasses.replace(self, names=names, values=self.values[rows])

    def shared(self) -> SeedTable:
        """The table of the seeds that every cell has a value of."""
        whole = np.asarray(np.isfinite(self.values).all(0))
        seeds = tuple(
            s for s, kept in zip(self.seeds, whole.tolist(), strict=True) if kept
        )
        return dataclasses.replace(
            self, seeds=seeds, values=self.values[:, whole], stages=self.stages[whole]
        )


def make(
    values: Mapping[str, Mapping[int, float]], screened: Sequence[int] = ()
) -> SeedTable:
    """The table of cell -> seed -> value.

    screened: the seeds of the first stage, if there are two; then the cells that have
    others too are its finalists, and all cells are of the table.
    """
    seeds = tuple(sorted({seed for one in values.values() for seed in one}))
    rows = [
        [one.get(seed, np.nan) if np.isfinite(one.get(seed, np.nan)) else np.nan
         for seed in seeds]
        for one in values.values()
    ]  # fmt: skip
    array = np.array(rows, float).reshape(len(values), len(seeds))
    stages = np.array([bool(screened) and s not in screened for s in seeds], int)
    compared = int(np.isfinite(array).any(1).sum())
    return SeedTable(tuple(values), seeds, array, stages, compared)
