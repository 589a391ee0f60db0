"""Quantiles of several t values, against SciPy and printed tables."""

import math

import numpy as np
import pytest
from scipy import stats

from clipjax.study_statistics import critical_values


@pytest.mark.parametrize(
    "count, df, printed",
    [(3, 10, 3.877), (2, 5, 3.635), (10, 20, 5.008), (15, 30, 5.211), (4, 120, 3.685)],
)
def test_ranges_are_those_of_printed_tables(count, df, printed):
    found = critical_values.range_quantile(0.95, count, df)
    assert found == pytest.approx(printed, abs=6e-4)


def test_probabilities_of_ranges_are_scipys():
    for q, count, df in ((3.0, 5, 12), (6.5, 15, 2.7), (4.2, 4, math.inf)):
        scipys = stats.studentized_range.sf(q, count, min(df, 1e6))
        assert critical_values.range_p(q, count, df) == pytest.approx(scipys, abs=2e-5)


def test_one_extreme_value_is_students_t():
    for df in (1, 3, 17.5):
        found = critical_values.extreme_quantile(0.95, (0.0,), df)
        assert found == pytest.approx(stats.t.ppf(0.975, df), rel=1e-4)


def test_many_independent_extremes_of_a_known_deviation_multiply():
    found = critical_values.extreme_quantile(0.95, (0.0,) * 8, math.inf)
    alone = stats.norm.ppf((1 + 0.95 ** (1 / 8)) / 2)
    assert found == pytest.approx(alone, abs=1e-6)


@pytest.mark.parametrize("others, df, printed", [(2, 10, 2.57), (5, 20, 2.73), (9, 60, 2.77)])  # fmt: skip  # noqa: E501
def test_differences_from_a_control_are_those_of_dunnetts_table(others, df, printed):
    loads = (math.sqrt(0.5),) * others
    found = critical_values.extreme_quantile(0.95, loads, df)
    assert found == pytest.approx(printed, abs=6e-3)


def test_two_degrees_of_freedom_or_fewer_are_wide_and_finite():
    wide = [critical_values.range_quantile(0.95, 15, df) for df in (1, 1.5, 2, 3)]
    assert np.isfinite(wide).all() and sorted(wide, reverse=True) == wide
    assert wide[1] > 10


def test_many_quantiles_at_once_are_the_same():
    dfs = np.array([1.0, 1.7, 2.3, 5.0, 11.1, 80.0, 4000.0])
    found = critical_values.range_quantiles(0.95, 6, dfs)
    alone = [critical_values.range_quantile(0.95, 6, df) for df in dfs]
    assert found == pytest.approx(alone, rel=1e-5)
