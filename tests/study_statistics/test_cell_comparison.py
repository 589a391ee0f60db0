"""Simultaneous intervals of cells: how often they err, and their values."""

import math

import numpy as np
import pytest
from scipy import stats
from seed_draws import draws, table

from clipjax.study_statistics import cell_comparison

DRAWS = 2000


def false_rate(values, **options):
    """How often any two cells of draws are told apart."""
    found = [cell_comparison.compare(table(x), **options).apart.any() for x in values]
    return np.mean(found)


def holds(compared, truth):
    """Whether all intervals of means, and of differences, hold the truth at once."""
    errors, dfs = compared._errors
    half = compared._ranges(dfs) * errors / math.sqrt(2)
    means = compared.table.means
    gaps = np.abs(means[:, None] - means - (truth[:, None] - truth))
    inside = all(
        one.low <= true <= one.high
        for one, true in zip(compared.means, truth, strict=True)
    )
    return inside, (gaps <= half + 1e-12).all()


def test_fifteen_equal_cells_of_three_seeds_are_seldom_told_apart():
    rate = false_rate(draws(DRAWS, 15, 3))
    assert 0.03 < rate <= 0.07


@pytest.mark.thorough
def test_intervals_of_different_cells_hold_together():
    truth = np.linspace(0, 30, 15)
    held = [
        holds(cell_comparison.compare(table(x)), truth)
        for x in draws(DRAWS, 15, 3, means=truth, seed=1)
    ]
    means, pairs = np.mean(held, axis=0)
    assert 0.93 < means < 0.97
    assert 0.93 < pairs < 0.97


def test_pairing_by_seed_takes_out_what_seeds_share():
    values = draws(500, 6, 4, shared=5.0, seed=2)
    paired = [cell_comparison.compare(table(x), paired=True) for x in values]
    assert 0.02 < np.mean([one.apart.any() for one in paired]) < 0.085
    assert np.mean([one.spread.deviation for one in paired]) == pytest.approx(1, 0.05)
    apart = values + 3 * (np.arange(6) == 0)[:, None]
    found = [
        [cell_comparison.compare(table(x), paired=y).apart[0, 1] for y in (True, False)]
        for x in apart[:100]
    ]
    assert np.mean(found, axis=0)[0] > 0.7 > 0.2 > np.mean(found, axis=0)[1]


@pytest.mark.thorough
def test_finalists_chosen_by_their_first_seeds_keep_the_error():
    values = draws(1000, 15, 6, seed=3)
    wrong = 0
    for x in values:
        best = np.argsort(-x[:, :2].mean(1))[:4]
        x = x.copy()
        x[np.setdiff1d(np.arange(15), best), 2:] = np.nan
        both = table(x, stages=[0, 0, 1, 1, 1, 1])
        kept = cell_comparison.finalists(both)
        assert len(kept.names) == 4
        wrong += cell_comparison.compare(kept).apart.any()
    assert wrong / len(values) <= 0.07


@pytest.mark.thorough
def test_spreads_that_differ_get_intervals_of_their_own():
    rng = np.random.default_rng(4)
    values = rng.normal(size=(4, 6)) * np.array([0.1, 0.1, 3, 9])[:, None]
    found = cell_comparison.compare(table(values))
    assert found.spread.design == "separate" and "Bartlett" in found.spread.said
    scipys = stats.tukey_hsd(*values, equal_var=False)
    ends = scipys.confidence_interval(0.95)
    for i, j in ((0, 1), (0, 3), (2, 3)):
        pair = found.pair(i, j)
        assert pair.p == pytest.approx(scipys.pvalue[i, j], abs=1e-4)
        assert pair.low == pytest.approx(ends.low[i, j], rel=1e-4)
        assert pair.high == pytest.approx(ends.high[i, j], rel=1e-4)


@pytest.mark.thorough
def test_unequal_spreads_seldom_give_false_differences():
    values = draws(300, 4, 5, deviation=np.array([0.2, 1, 1, 5]), seed=5)
    assert false_rate(values) < 0.09


@pytest.mark.thorough
def test_values_are_tukeys_of_scipy_with_unequal_counts():
    rng = np.random.default_rng(6)
    values = rng.normal(size=(4, 5)) + np.arange(4)[:, None]
    values[1, 3:] = np.nan
    found = cell_comparison.compare(table(values))
    scipys = stats.tukey_hsd(*(row[np.isfinite(row)] for row in values))
    ends = scipys.confidence_interval(0.95)
    for i, j in ((0, 1), (1, 3), (0, 3)):
        pair = found.pair(i, j)
        assert pair.difference == pytest.approx(scipys.statistic[i, j])
        assert pair.p == pytest.approx(scipys.pvalue[i, j], abs=1e-4)
        assert pair.low == pytest.approx(ends.low[i, j], rel=1e-4)


def test_a_control_is_compared_as_dunnett_does():
    rng = np.random.default_rng(7)
    values = rng.normal(size=(4, 6)) + np.array([0, 0, 1, 3])[:, None]
    found = cell_comparison.compare(table(values)).against("cell 0")
    ends = stats.dunnett(*values[1:], control=values[0], rng=0).confidence_interval()
    assert [one.first for one in found] == ["cell 1", "cell 2", "cell 3"]
    assert [one.low for one in found] == pytest.approx(list(ends.low), abs=0.01)
    assert [one.high for one in found] == pytest.approx(list(ends.high), abs=0.01)
    every = cell_comparison.compare(table(values)).pair(3, 0)
    assert every.low < found[2].low


def test_the_probability_of_a_better_run_by_hand():
    # Two cells of variance 2 whose means are 2 apart: 2 / sqrt(2 + 2) = 1.
    found = cell_comparison.compare(table([[2, 4], [0, 2]])).chance(0, 1)
    assert found.value == pytest.approx(stats.norm.cdf(1))
    assert found.low < 0.5 < found.value < found.high < 1


@pytest.mark.thorough
def test_its_interval_holds_the_true_probability():
    truth = stats.norm.cdf(1 / math.sqrt(2))
    held = []
    for x in draws(300, 3, 4, means=np.array([1, 0, 0]), seed=8):
        one = cell_comparison.compare(table(x)).chance(0, 1)
        held.append(one.low <= truth <= one.high)
    assert 0.91 < np.mean(held) < 0.985


def test_equal_values_have_no_width_and_one_seed_has_no_interval():
    same = cell_comparison.compare(table([[1, 1], [2, 2]]))
    assert same.means[0].low == same.means[0].high == 1
    assert same.apart[0, 1] and same.chance(0, 1).value == 0
    assert cell_comparison.compare(table([[1], [2]])) is None


def test_a_cell_without_values_is_left_out():
    found = cell_comparison.compare(table([[1, 2], [np.nan, np.nan], [4, 5.5]]))
    assert found.table.names == ("cell 0", "cell 2")


def test_groups_start_with_the_better_side():
    found = cell_comparison.compare(table([[0, 0.1], [9, 9.1], [9.05, 9.2]]))
    assert found.groups() == ["b", "a", "a"]
    assert found.groups(higher_is_better=False) == ["a", "b", "b"]
