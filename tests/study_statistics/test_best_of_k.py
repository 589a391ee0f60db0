"""The expected best of k trials, by hand and by listing all draws."""

import itertools
import math

import numpy as np
import pytest

from clipjax.study_statistics import best_of_k


@pytest.mark.parametrize("higher", [True, False])
def test_it_is_the_mean_over_all_sets_of_trials(higher):
    values = [0.3, 0.1, 0.9, 0.9, 0.2, 0.5]
    best = max if higher else min
    found = best_of_k.curve(values, higher)
    for k, one in enumerate(found, 1):
        sets = [best(chosen) for chosen in itertools.combinations(values, k)]
        assert one.trials == k
        assert one.mean == pytest.approx(np.mean(sets))
        assert one.low <= one.mean <= one.high


def test_a_trial_that_reached_nothing_is_the_worst():
    found = best_of_k.curve([math.nan, 3.0, 1.0])
    assert found == best_of_k.curve([1.0, 3.0, 1.0])
    assert best_of_k.curve([math.nan]) == []


def test_all_trials_have_one_best():
    last = best_of_k.curve([4.0, 7.0, 5.0])[-1]
    assert last == best_of_k.BestOf(3, pytest.approx(7.0), 7.0, 7.0)
