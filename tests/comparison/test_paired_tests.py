"""Intervals and p values of paired differences against SciPy and brute force."""

import itertools

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from clipjax.comparison import paired_tests
from clipjax.comparison.paired_tests import Pairs


def pairs(first, second, groups=None, weights=None):
    first, second = np.asarray(first, float), np.asarray(second, float)
    count = len(first)
    groups = np.arange(count) if groups is None else np.asarray(groups)
    weights = np.full(count, 1 / count) if weights is None else np.asarray(weights)
    return Pairs(first, second, weights, groups)


def by_hand(found):
    """The p of all 2^images flips, one by one."""
    terms = [
        (found.weights * (found.second - found.first))[found.groups == image].sum()
        for image in range(found.groups.max() + 1)
    ]
    sums = [np.dot(s, terms) for s in itertools.product((-1, 1), repeat=len(terms))]
    return np.mean(np.abs(sums) >= abs(sum(terms)) - 1e-12)


@pytest.mark.parametrize(("up", "down"), [(0, 0), (1, 0), (9, 2), (40, 61), (300, 5)])
def test_single_captions_have_mcnemars_exact_test(up, down):
    first = [0] * up + [1] * down + [1] * 7 + [0] * 30
    second = [1] * up + [0] * down + [1] * 7 + [0] * 30
    found = paired_tests.sign_flips(pairs(first, second))
    if not up + down:
        assert found == 1
        return
    exact = scipy.stats.binomtest(up, up + down).pvalue
    assert found == pytest.approx(max(exact, 1e-12), rel=1e-6)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**20), ties=st.booleans())
def test_captions_of_an_image_flip_together(seed, ties):
    """Against every flip, with images of one to four captions, and weights of parts."""
    draw = np.random.default_rng(seed)
    counts = draw.integers(1, 5, 9)
    groups = np.repeat(np.arange(9), counts)
    parts = draw.integers(0, 2, len(groups))
    weights = np.where(parts == 0, 1 / max(1, sum(parts == 0)), 1 / max(1, sum(parts)))
    few = [0, 1 / 3, 0.5, 1] if ties else [0, 1]
    first, second = draw.choice(few, (2, len(groups)))
    found = pairs(first, second, groups, weights / weights.sum())
    assert paired_tests.sign_flips(found) == pytest.approx(by_hand(found), abs=1e-9)


def test_drawn_flips_are_near_scipys():
    """Differences without a common divisor, of one image each."""
    draw = np.random.default_rng(3)
    first, second = draw.normal(0, 1, 90), draw.normal(0.17, 1, 90)
    theirs = scipy.stats.permutation_test(
        (second - first,),
        np.mean,
        permutation_type="samples",
        n_resamples=20_000,
        rng=1,
    ).pvalue
    found = paired_tests.sign_flips(pairs(first, second))
    assert found == pytest.approx(theirs, abs=0.015)
    assert 0.02 < found < 0.5  # neither end, where all agree
    # Blocks do not matter.
    assert paired_tests.sign_flips(pairs(second, first)) == found


def test_medians_swap_as_scipys_do():
    draw = np.random.default_rng(4)
    first = np.floor(np.exp(draw.normal(2, 1, 61)))
    second = np.floor(first * np.exp(draw.normal(0.15, 0.6, 61)))

    def statistic(one, other, axis):
        return np.median(other, axis=axis) - np.median(one, axis=axis)

    theirs = scipy.stats.permutation_test(
        (first, second),
        statistic,
        permutation_type="samples",
        n_resamples=20_000,
        vectorized=True,
        rng=1,
    ).pvalue
    found = paired_tests.median_swaps(pairs(first, second))
    assert found == pytest.approx(theirs, abs=0.05)
    assert paired_tests.median_swaps(pairs(first, first)) == 1


@pytest.mark.parametrize(("up", "down"), [(0, 0), (3, 0), (9, 2), (40, 61)])
def test_the_interval_of_single_captions_is_bonett_and_prices(up, down):
    """Their formula of 2012: one is added to either count of flips."""
    n = up + down + 50
    found = pairs([0] * up + [1] * (n - up), [1] * (n - down) + [0] * down)
    assert found.difference == pytest.approx((up - down) / n)
    one, other = (up + 1) / (n + 2), (down + 1) / (n + 2)
    half = 1.959964 * np.sqrt((one + other - (one - other) ** 2) / (n + 2))
    expected = one - other - half, one - other + half
    assert paired_tests.share_interval(found) == pytest.approx(expected, abs=1e-6)
    assert np.ptp(paired_tests.share_interval(found)) > 0


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**20), copies=st.integers(2, 5))
def test_copies_of_a_caption_tell_nothing_new(seed, copies):
    draw = np.random.default_rng(seed)
    first, second = draw.integers(0, 2, (2, 30))
    alone = pairs(first, second)
    groups = np.repeat(np.arange(30), copies)
    more = pairs(np.repeat(first, copies), np.repeat(second, copies), groups)
    assert paired_tests.sign_flips(more) == pytest.approx(
        paired_tests.sign_flips(alone)
    )
    found, expected = map(paired_tests.share_interval, (more, alone))
    assert found == pytest.approx(expected)
    assert found[0] <= more.difference <= found[1] and found[0] < found[1]


@pytest.mark.parametrize("captions", [1, 5])
@pytest.mark.parametrize("truth", [0.001, 0.05, 0.5, 0.99])
def test_equals_seldom_differ(captions, truth):
    """Images differ in difficulty, for each model by itself if they have five captions:
    then a test that took captions as independent would find far more.
    """
    draw = np.random.default_rng(0)
    images, draws = 300, 200
    groups = np.arange(images).repeat(captions)
    sure = outside = 0
    for _ in range(draws):
        rates = draw.beta(truth, 1 - truth, (2, images))
        rates = rates[:, groups] if captions > 1 else np.full((2, images), truth)
        first, second = draw.random(rates.shape) < rates
        found = pairs(first, second, groups)
        low, high = paired_tests.share_interval(found)
        sure += paired_tests.sign_flips(found) < 0.05
        outside += not low <= 0 <= high
    # 7 %, and two deviations of a share of 200 draws.
    assert sure <= 0.105 * draws and outside <= 0.105 * draws


def test_a_real_difference_is_found():
    draw = np.random.default_rng(0)
    groups = np.arange(500).repeat(5)
    sure = 0
    for _ in range(50):
        rate = draw.beta(1, 1, 500)[groups]
        first = draw.random(2500) < rate * 0.95
        second = draw.random(2500) < rate * 0.95 + 0.05
        sure += paired_tests.sign_flips(pairs(first, second, groups)) < 0.05
    assert sure >= 45


def test_holm_equals_its_definition():
    draw = np.random.default_rng(0)
    values = draw.random(12) ** 3
    found = paired_tests.holm(values.tolist())
    for at, value in enumerate(values):
        smaller = [v for v in values if v <= value]
        steps = [(12 - sum(values < v)) * v for v in smaller]
        assert found[at] == pytest.approx(min(1, max(steps)))
    assert paired_tests.holm([]) == []
