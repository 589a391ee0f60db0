"""The spread of seeds: what is pooled, and what is said of it."""

import math

import numpy as np
import pytest
from scipy import stats
from seed_draws import draws, table

from clipjax.study_statistics import seed_spread, seed_table


def test_the_check_is_bartletts():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(5, 4)) * np.arange(1, 6)[:, None]
    squares = values.var(1) * 4
    found = seed_spread.bartlett(squares, np.full(5, 3.0))
    assert found == pytest.approx(stats.bartlett(*values).pvalue)


def test_it_seldom_refuses_equal_spreads_of_three_seeds():
    found = [seed_spread.estimate(table(x)).design for x in draws(500, 15, 3, seed=1)]
    assert found.count("separate") <= 15


def test_a_pooled_variance_by_hand():
    found = seed_spread.estimate(table([[1, 3], [5, 5], [0, math.nan]]))
    assert found.design == "pooled"
    assert found.variances.tolist() == [1, 1, 1] and found.dfs[0] == 2
    assert "cannot be checked" in found.said  # two seeds a cell


def test_paired_residuals_by_hand():
    # Means 2, 3 and 4 of cells, 2 and 4 of seeds: what is left is 0 but for one cell.
    found = seed_spread.estimate(table([[1, 3], [2, 4], [2, 6]]), paired=True)
    left = np.array([[1, 3], [2, 4], [2, 6]]) - np.array([[2], [3], [4]])
    left = left - left.mean(0)
    assert found.design == "paired" and found.dfs[0] == 2
    assert found.variances[0] == pytest.approx((left**2).sum() / 2)


def test_pairing_takes_the_seeds_of_all_cells_and_says_so():
    values = [[1, 2, 3.5, 4], [2, 3, 4, math.nan]]
    found = seed_spread.estimate(table(values), paired=True)
    assert found.table.seeds == (0, 1, 2) and "have them: 1." in found.said
    gaps = seed_spread.estimate(table([[1, 2, math.nan], [math.nan, 2, 3]]), True)
    assert gaps.design == "pooled" and gaps.said.startswith("Too few seeds")


def test_tables_of_runs_keep_their_gaps():
    made = seed_table.make({"a": {0: 1.0, 1: math.nan}, "b": {1: 2.0, 7: 3.0}}, (0, 1))
    assert made.seeds == (0, 1, 7) and made.stages.tolist() == [0, 0, 1]
    assert made.counts.tolist() == [1, 2] and made.means.tolist() == [1, 2.5]
    assert made.compared == 2
    with pytest.raises(ValueError):
        seed_table.SeedTable(("a",), (0,), np.zeros((2, 1)), np.zeros(1, int), 1)
