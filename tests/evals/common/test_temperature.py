"""Temperature scaling against scipy's minimum, and known truths."""

import math
import re

import numpy as np
import pytest
import scipy.optimize
import scipy.special

from clipjax.evals.common import temperature


def blocks_of(logits, labels, size=1000):
    """As evaluators give them, some images at a time."""

    def blocks():
        for start in range(0, len(labels), size):
            part = slice(start, start + size)
            yield logits[part], labels[part]

    return blocks


def drawn(seed, n, classes=5, spread=2.0):
    """Logits, and labels of their softmax."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, spread, (n, classes))
    return logits, np.argmax(logits + rng.gumbel(size=logits.shape), axis=1)


def loss(value, logits, labels):
    logs = scipy.special.log_softmax(logits / value, axis=1)
    return -logs[np.arange(len(labels)), labels].mean()


@pytest.mark.parametrize("scale", [1e-3, 0.5, 1.0, 60.0, 1e4])
@pytest.mark.parametrize("size", [7, 1000])
def test_it_is_the_minimum(scale, size):
    logits, labels = drawn(0, 200)
    logits *= scale
    found = temperature.fit(blocks_of(logits, labels, size), np.arange(200))
    best = scipy.optimize.minimize_scalar(
        lambda log: loss(math.exp(log), logits, labels),
        bounds=(math.log(scale) - 3, math.log(scale) + 3),
        options={"xatol": 1e-10},
    )
    assert found.value == pytest.approx(math.exp(best.x), rel=1e-6)
    assert found.low < found.value < found.high and not found.problem


def test_probabilities_say_what_they_say():
    logits, labels = drawn(1, 50)
    logits[0] = 800, -800, 0, 0, 0  # which overflows unless shifted
    found = temperature.judge(blocks_of(logits, labels, 8), 0.7)
    shares = scipy.special.softmax(logits / 0.7, axis=1)
    assert found.confidence == pytest.approx(shares.max(axis=1))
    assert found.loss.mean() == pytest.approx(loss(0.7, logits, labels))
    truth = np.eye(5)[labels]
    brier = ((shares - truth) ** 2).sum(axis=1)
    assert found.brier == pytest.approx(brier, abs=1e-12)


def test_the_interval_holds_the_truth():
    """In 200 draws of 150 images whose logits are 1.5 times the true ones; copies of
    images have an interval as wide as their number says.
    """
    held = []
    for seed in range(200):
        logits, labels = drawn(seed, 150)
        found = temperature.fit(blocks_of(1.5 * logits, labels), np.arange(150))
        held.append(found.low < 1.5 < found.high)
    assert 0.9 <= np.mean(held) <= 0.99
    logits, labels = drawn(0, 150)
    one = temperature.fit(blocks_of(logits, labels), np.arange(150))
    copies = np.repeat(np.arange(150), 4)
    many = temperature.fit(blocks_of(logits[copies], labels[copies]), copies)
    assert (many.value, many.low, many.high) == pytest.approx(one[:3])


@pytest.mark.parametrize(
    ("logits", "labels", "value", "problem"),
    [
        ([[1.0, 1.0], [3.0, 3.0]], [0, 1], 1.0, "all classes tie"),
        ([[1.0], [2.0]], [0, 0], 1.0, "all classes tie"),
        ([[2.0, 1.0], [1.0, 5.0]], [0, 1], math.nan, "none .* is wrong"),
        ([[1.0, 2.0], [1.0, 2.0]], [0, 0], math.nan, "confidence tells nothing"),
        # Logits against the labels on the whole, though one image is right.
        ([[5.0, 0.0], [0.0, 1.0]], [1, 1], math.nan, "confidence tells nothing"),
    ],
)
def test_what_determines_no_temperature(logits, labels, value, problem):
    found = temperature.fit(blocks_of(np.array(logits), np.array(labels)), np.arange(2))
    assert found.value == pytest.approx(value, nan_ok=True)
    assert found.low is None and found.high is None
    assert re.search(problem, found.problem)
