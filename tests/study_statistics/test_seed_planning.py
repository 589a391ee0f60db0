"""The power that is promised before a study, against made studies."""

import numpy as np
import pytest
from scipy import stats
from seed_draws import draws, table

from clipjax.study_statistics import cell_comparison, seed_planning


@pytest.mark.thorough
@pytest.mark.parametrize(
    "cells, seeds, size, paired",
    [(15, 3, 3.0, False), (4, 5, 2.0, False), (6, 4, 2.2, True)],
)
def test_power_is_as_predicted(cells, seeds, size, paired):
    said = seed_planning.power(size, cells, seeds, paired=paired)
    means = size * (np.arange(cells) == 0)
    shared = 3.0 if paired else 0.0
    values = draws(1000, cells, seeds, means=means, shared=shared, seed=9)
    found = [
        cell_comparison.compare(table(x), paired=paired).apart[0, 1] for x in values
    ]
    assert 0.2 < said < 0.95
    assert abs(np.mean(found) - said) < 0.05


def test_two_cells_are_a_t_test():
    # Of 17 values each, a difference of one deviation is found with 0.807.
    assert seed_planning.seeds_needed(1.0, 2) == 17
    shift, df = 1 / np.sqrt(2 / 17), 32
    limit = stats.t.ppf(0.975, df)
    by_hand = stats.nct.sf(limit, df, shift) + stats.nct.cdf(-limit, df, shift)
    assert seed_planning.power(1.0, 2, 17) == pytest.approx(by_hand, abs=1e-6)


def test_detectable_and_needed_agree():
    size = seed_planning.detectable(8, 5, deviation=0.3)
    assert seed_planning.power(size, 8, 5, 0.3) == pytest.approx(0.8, abs=1e-4)
    assert seed_planning.seeds_needed(size * 1.001, 8, 0.3) == 5
    assert seed_planning.seeds_needed(size * 0.95, 8, 0.3) > 5


def test_a_tiny_difference_needs_more_seeds_than_can_be():
    assert seed_planning.seeds_needed(1e-4, 4) is None
