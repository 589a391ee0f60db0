"""The fits equal scikit-learn's LogisticRegression; see make_probe_goldens.py."""

import functools
import json
import pathlib

import numpy as np
import pytest

from clipjax.evals.common import logistic

GOLDENS = pathlib.Path(__file__).parents[1] / "goldens" / "probe.json"


@functools.cache
def made():
    found = json.loads(GOLDENS.read_text())["made"]
    features = np.array(found["features"], np.float32)
    labels = np.array(found["labels"])
    return found, features, labels, logistic.Problem(features, labels, 4)


@pytest.mark.parametrize("number", range(4))
def test_a_fit_equals_scikit_learn(number):
    found, features, labels, problem = made()
    golden = found["fits"][number]
    weights = problem.fit(golden["l2"])
    logits = problem.logits(weights, features)
    loss = logistic.mean_loss(logits, labels)
    assert loss == pytest.approx(golden["loss"], rel=1e-3)
    squares = ((weights.weight / problem.scale) ** 2).sum()
    total = loss * len(labels) + golden["l2"] / 2 * squares
    assert total == pytest.approx(golden["total"], rel=1e-5)
    powers = np.exp(logits[:10] - logits[:10].max(axis=1, keepdims=True))
    shares = powers / powers.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(shares, golden["probabilities"], atol=2e-3)
    assert 0 < weights.iterations < logistic.ITERATIONS


def test_a_fit_to_a_part_equals_scikit_learn():
    found, features, labels, problem = made()
    out = np.arange(100) // 4 % 5 == 0
    for place in (0, 32, 56, 96):
        weights = problem.fit(10 ** logistic.EXPONENTS[place], ~out)
        logits = problem.logits(weights, features[out])
        share = (logits.argmax(axis=1) == labels[out]).mean()
        golden = found["held_out_scores"][place]
        assert share == pytest.approx(golden[0])
        assert -logistic.mean_loss(logits, labels[out]) == pytest.approx(
            golden[1], rel=2e-3
        )


def test_the_search_finds_the_best_of_scikit_learns_fits():
    """Their scores have one peak, so the search finds it with 15 of 97 fits."""
    scores = made()[0]["held_out_scores"]
    tried = []

    def score(l2):
        place = round((np.log10(l2) + 6) * 8)
        assert 10 ** logistic.EXPONENTS[place] == l2
        tried.append(place)
        return tuple(scores[place])

    counts = []
    best = logistic.choose_l2(score, counts.append)
    assert best == 10 ** logistic.EXPONENTS[max(range(97), key=lambda i: scores[i])]
    assert tried[:7] == list(range(0, 97, 16)) and len(set(tried)) == len(tried)
    assert counts == list(range(1, len(tried) + 1))
    assert len(tried) <= logistic.most_tries() == 15


@pytest.mark.parametrize("peak", [0, 1, 37, 48, 95, 96])
def test_the_search_finds_any_single_peak(peak):
    def score(l2):
        return -abs(round((np.log10(l2) + 6) * 8) - peak), 0.0

    assert logistic.choose_l2(score) == 10 ** logistic.EXPONENTS[peak]


def test_of_equals_the_lower_loss_and_then_the_larger_penalty_is_taken():
    assert logistic.choose_l2(lambda l2: (1.0, -abs(np.log10(l2)))) == 1.0
    assert logistic.choose_l2(lambda l2: (1.0, 0.0)) == 1e6


def test_features_without_a_difference_and_not_finite_ones():
    problem = logistic.Problem(np.ones((4, 3), np.float32), np.array([0, 1, 1, 1]), 2)
    weights = problem.fit(1.0)
    logits = problem.logits(weights, np.array([[1, 1, 1], [np.nan, 1, 1]], np.float32))
    assert logits[0, 1] - logits[0, 0] == pytest.approx(np.log(3), abs=1e-3)
    assert np.isnan(logits[1]).all()
