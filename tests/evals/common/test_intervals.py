"""Intervals of shares: by hand, by published values, and how often they hold."""

import numpy as np
import pytest

from clipjax.evals.common.intervals import mean, share, wilson
from clipjax.types import Metric


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),
    [
        (0, 10, 0.0, 0.27753),  # z^2 / (n + z^2) with z^2 = 3.84146
        (10, 10, 0.72247, 1.0),
        (5, 10, 0.23659, 0.76341),
        # R. G. Newcombe, Statistics in Medicine 17 (1998), table I, method 3.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson(hits, n, low, high):
    found = share(np.arange(n) < hits)
    assert (found.low, found.high) == pytest.approx((low, high), abs=6e-5)
    assert (found.value, found.n, found.unit) == (hits / n, n, "fraction")
    assert found.low <= found.value <= found.high


def test_groups_that_hit_together_count_once():
    """Five copies of each query tell as much as the queries alone."""
    hits = (np.arange(40) % 3 == 0).astype(float)
    single = share(hits)
    copies = share(hits.repeat(5), np.arange(40).repeat(5))
    # The variance over groups divides by 39, that of draws by 40.
    low, high = wilson(single.value, 39)
    assert (copies.low, copies.high) == pytest.approx((low, high))
    assert copies.n == 200 and copies.value == pytest.approx(single.value)
    alone = share(hits, np.arange(40))
    assert alone == single


def test_groups_by_hand():
    """Residuals of the mean 1/2 sum to 1, -1, 0 and 0 in four pairs: the variance over
    groups is 2 * (4 / 3) / 64 = 1/24, that of 8 draws 1/32, so they count as 6.
    """
    hits, groups = np.array([1, 1, 0, 0, 1, 0, 0, 1.0]), np.arange(4).repeat(2)
    found = share(hits, groups)
    assert (found.low, found.high) == pytest.approx(wilson(0.5, 6))
    # All alike: the pairs may be so inside, and count once.
    assert share(np.ones(8), groups).low == pytest.approx(wilson(1.0, 4)[0])
    # Fewer than two groups tell of one draw.
    assert share(hits, np.zeros(8, int)).low == pytest.approx(wilson(0.5, 1)[0])


def test_the_interval_holds_the_truth_about_as_often_as_it_says():
    """Also if each group of five has a rate of its own."""
    rng = np.random.default_rng(0)
    groups, truth, held, naive = np.arange(80).repeat(5), 0.4, 0, 0
    for _ in range(600):
        rates = rng.beta(0.8, 1.2, 80).repeat(5)  # of mean 0.4
        hits = (rng.random(400) < rates).astype(float)
        found = share(hits, groups)
        held += found.low <= truth <= found.high
        low, high = wilson(found.value, 400)
        naive += low <= truth <= high
    assert 0.92 < held / 600 < 0.98
    assert naive / 600 < 0.85


def test_mean_of_shares():
    one, other = (Metric(x, chance, "fraction") for x, chance in ((0.5, 0.1), (1, 0.2)))
    both = mean([one, other])
    assert (both.value, both.unit) == (0.75, "fraction")
    assert both.chance == pytest.approx(0.15)
    assert mean([one, Metric(0.0)]).chance is None


@pytest.mark.parametrize(
    ("low", "high"), [(0.1, None), (None, 1), (0.6, 0.7), (0, 0.4)]
)
def test_an_interval_holds_its_value(low, high):
    with pytest.raises(ValueError, match="interval"):
        Metric(0.5, low=low, high=high)
