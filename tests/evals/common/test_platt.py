"""Platt's scaling against SciPy's minimum, numbers by hand, and made data."""

import math

import numpy as np
import pytest
import scipy.optimize

from clipjax.evals.common import platt
from clipjax.evals.common.platt import Sigmoid


def minimum(similarity, match):
    """(slope, intercept) by a method without derivatives."""
    weights = np.where(match, 0.5 / match.mean(), 0.5 / (~match).mean())

    def loss(parameters):
        p = 1 / (1 + np.exp(-(parameters[0] * similarity + parameters[1])))
        entropy = -(weights * np.log(np.where(match, p, 1 - p))).sum()
        a, b, c = (np.sum(weights * p * (1 - p) * similarity**k) for k in range(3))
        return entropy - math.log(a * c - b * b) / 2

    options = {"xatol": 1e-10, "fatol": 1e-13, "maxiter": 10000}
    return scipy.optimize.minimize(loss, [0, 0], method="Nelder-Mead", options=options)


def drawn(rng, right, wrong, centres=(0.3, 0.2), deviation=0.05):
    """Normal similarities of one deviation, for which the sigmoid is exact: its slope
    is the centres' distance by the variance, its threshold their middle.
    """
    match = np.arange(right + wrong) < right
    return rng.normal(np.where(match, *centres), deviation), match


@pytest.mark.parametrize(("right", "wrong"), [(200, 200), (30, 900), (400, 7)])
@pytest.mark.parametrize("centres", [(0.3, 0.2), (0.22, 0.2), (0.1, 0.2), (0.5, 0.1)])
def test_it_is_the_minimum(right, wrong, centres):
    similarity, match = drawn(np.random.default_rng(0), right, wrong, centres)
    found = platt.fit(similarity, match)
    assert found == pytest.approx(minimum(similarity, match).x, rel=1e-4, abs=1e-5)


def test_two_values_by_hand():
    """With two values the penalty adds half a pair of each kind to each: 5/6 of 0.3's
    match, and 1/6 of 0.1's.
    """
    found = platt.fit(np.array([0.1, 0.3, 0.1, 0.3]), np.array([False, True] * 2))
    assert found.slope == pytest.approx(math.log(5) / 0.1)
    assert found.threshold == pytest.approx(0.2)
    assert found.probability([0.1, 0.3]) == pytest.approx([1 / 6, 5 / 6])
    losses = platt.log_losses(
        found, np.array([0.1, 0.1, 0.3]), np.array([False, True, True])
    )
    assert losses == pytest.approx([math.log(6 / 5), math.log(6), math.log(6 / 5)])


@pytest.mark.parametrize("wrong", [100, 800])
def test_the_truth_is_within_its_standard_errors(wrong):
    """150 draws of 100 groups, whose pairs share a part of their noise: 95 % intervals
    hold the truth as often as they say, whatever the share of wrong pairs.
    """
    rng, held = np.random.default_rng(1), []
    groups = np.concatenate([np.arange(100), np.arange(wrong) % 100])
    for _ in range(150):
        similarity, match = drawn(rng, 100, wrong, deviation=0.03)
        similarity += 0.04 * rng.normal(size=100)[groups]  # 0.05 with the own noise
        found = platt.fit(similarity, match)
        errors = platt.errors(found, similarity, match, groups)
        away = found.slope - 40, found.threshold - 0.25, found.intercept + 10
        sizes = errors.slope, errors.threshold, errors.intercept
        held.append(np.abs(away) < 1.984 * np.array(sizes))
    assert np.mean(held, axis=0) == pytest.approx([0.95] * 3, abs=0.05)


def test_pairs_that_hardly_overlap():
    """Centres four deviations apart, one pair in 44 on the wrong side: of 300 pairs of
    each kind the slope is not too small, on average, and its errors are right.
    """
    rng, slopes, held = np.random.default_rng(3), [], []
    for _ in range(100):
        similarity, match = drawn(rng, 300, 300, (0.4, 0.2))
        found = platt.fit(similarity, match)
        errors = platt.errors(found, similarity, match, np.arange(600))
        slopes.append(found.slope)
        held.append(abs(found.slope - 80) < 1.96 * errors.slope)
    assert np.mean(slopes) == pytest.approx(80, rel=0.04)
    assert np.mean(held) == pytest.approx(0.95, abs=0.06)


def test_errors_are_those_of_single_pairs_at_least():
    """Two groups of the same pairs show no spread."""
    similarity, match = np.tile([0.1, 0.25, 0.2, 0.3], 2), np.tile([0, 0, 1, 1], 2) > 0
    found = platt.fit(similarity, match)
    errors = platt.errors(found, similarity, match, np.arange(8) // 4)
    # By hand: the inverse of the curvature, for weights of 1/8 each.
    p = found.probability(similarity)
    x = np.stack([similarity, np.ones(8)], axis=1)
    covariance = np.linalg.inv((x * (p * (1 - p))[:, None]).T @ x)
    assert errors[:2] == pytest.approx(np.sqrt(np.diag(covariance)), rel=1e-6)


def test_pairs_that_a_threshold_separates_have_a_finite_fit():
    for count in (2, 100, 10000):
        ends = np.linspace(0, 0.1, count)
        similarity = np.concatenate([ends, ends + 0.5])
        match = np.arange(2 * count) >= count
        found = platt.fit(similarity, match)
        assert np.isfinite(found).all() and 0.1 < found.threshold < 0.5
        # As sure as so many pairs allow.
        assert found.probability(0.6) > 1 - 1 / count
        errors = platt.errors(found, similarity, match, np.arange(2 * count))
        assert 0 < min(errors) and np.isfinite(errors).all()


@pytest.mark.parametrize("value", [0.3, 1 / 3, -1.0])
def test_equal_similarities_tell_nothing(value):
    similarity, match = np.full(7, value), np.arange(7) < 4
    found = platt.fit(similarity, match)
    assert found.slope == 0 and math.isnan(found.threshold)
    assert found.probability(value) == pytest.approx(0.5, abs=0.06)
    assert np.isnan(platt.errors(found, similarity, match, np.arange(7))).all()


def test_a_model_that_prefers_wrong_pairs_has_no_threshold():
    similarity, match = drawn(np.random.default_rng(2), 50, 50, (0.1, 0.2))
    found = platt.fit(similarity, match)
    errors = platt.errors(found, similarity, match, np.arange(100))
    assert found.slope < 0 and math.isnan(found.threshold)
    assert math.isnan(errors.threshold) and errors.slope > 0


def test_another_prior_is_bayes_rule():
    found = Sigmoid(20.0, -5.0)
    similarity = np.array([0.1, 0.25, 0.4])
    even = found.probability(similarity)
    one_in_a_thousand = even * 0.001 / (even * 0.001 + (1 - even) * 0.999)
    assert found.probability(similarity, 0.001) == pytest.approx(one_in_a_thousand)


def test_probabilities_far_away_and_of_nan():
    found = Sigmoid(1e6, 0.0).probability([[-1.0, 1.0], [0.0, math.nan]])
    np.testing.assert_array_equal(found, [[0, 1], [0.5, math.nan]])
