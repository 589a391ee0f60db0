"""Intervals of mean and median ranks against SciPy's and a plain loop."""

import numpy as np
import pytest
import scipy.stats

from clipjax.evals.common import bootstrap
from clipjax.evals.common.bootstrap import mean_and_median


def ranks(seed, n, spread=1.2):
    return 1 + np.floor(np.exp(np.random.default_rng(seed).normal(1.2, spread, n)))


@pytest.mark.parametrize("seed", [0, 1])
def test_the_mean_equals_scipys_bca(seed):
    values = ranks(seed, 300)
    (low, high), _ = mean_and_median(values, draws=6000)
    theirs = scipy.stats.bootstrap(
        (values,), np.mean, n_resamples=6000, method="BCa", rng=1
    ).confidence_interval
    width = theirs.high - theirs.low
    assert low == pytest.approx(theirs.low, abs=0.05 * width)
    assert high == pytest.approx(theirs.high, abs=0.05 * width)
    # Skewed: farther above the mean than below.
    assert high - values.mean() > 1.1 * (values.mean() - low)


@pytest.mark.parametrize(("images", "most"), [(1, 4), (7, 1), (40, 5), (400, 3)])
def test_draws_equal_a_loop_that_repeats_images(images, most):
    """With ties, images of different numbers of queries, and numbers left out."""
    rng = np.random.default_rng(images)
    groups = np.repeat(np.arange(images) * 2, rng.integers(1, most + 1, images))
    groups = rng.permutation(groups)
    values = rng.integers(1, 9, len(groups)) / 2 + 1
    numbers = np.unique(groups)
    draw = np.random.default_rng(0)
    means, medians = [], []
    for _ in range(200):
        taken = numbers[draw.integers(0, images, images)]
        drawn = np.concatenate([values[groups == number] for number in taken])
        means.append(drawn.mean())
        medians.append(np.median(drawn))
    mean, median = mean_and_median(values, groups, draws=200)
    assert median == pytest.approx(tuple(np.quantile(medians, [0.025, 0.975])))
    if images == 1:  # which tells little of others: z^2 / (1 + z^2)
        assert mean == pytest.approx((means[0], means[0] + 0.793450))
        return
    # SciPy's quantiles of such draws, from the same bias and acceleration.
    lower = np.mean(np.array(means) < values.mean() - 1e-12)
    lower += np.mean(np.isclose(means, values.mean(), rtol=0, atol=1e-12)) / 2
    bias = scipy.stats.norm.ppf(lower)
    own = [values[groups == number] for number in numbers]
    influence = np.array([(x - values.mean()).sum() for x in own])
    skew = (influence**3).sum() / 6 / (influence**2).sum() ** 1.5
    z = bias + scipy.stats.norm.ppf([0.025, 0.975])
    places = scipy.stats.norm.cdf(bias + z / (1 - skew * z))
    assert mean == pytest.approx(tuple(np.quantile(means, places)))


def test_captions_of_an_image_do_not_narrow_the_interval():
    values = ranks(3, 200)
    alone = mean_and_median(values)
    copies = mean_and_median(values.repeat(5), np.arange(200).repeat(5))
    assert copies[0] == pytest.approx(alone[0])
    assert copies[1] == pytest.approx(alone[1])


def test_equal_ranks_have_a_width():
    """Nothing but first places among 100 images: Wilson's upper share of others is
    3.84146 / 103.84146.
    """
    mean, median = mean_and_median(np.ones(300), np.arange(100).repeat(3))
    assert mean == pytest.approx((1.0, 1.036994), abs=1e-6)
    assert median == (1.0, 1.0)


@pytest.mark.thorough
def test_the_interval_of_the_mean_holds_the_truth():
    held = []
    truth = 1 + sum(scipy.stats.norm.sf(np.log(np.arange(1, 5000)), loc=1.2, scale=0.8))
    for seed in range(150):
        (low, high), _ = mean_and_median(ranks(seed, 150, 0.8), draws=200)
        held.append(low <= truth <= high)
    assert 0.89 < np.mean(held) < 0.99


def test_one_far_rank():
    """The acceleration of such skewed ranks still gives ends among the draws."""
    values = np.ones(50)
    values[7] = 1e6
    (low, high), median = mean_and_median(values)
    assert 1 <= low <= values.mean() <= high <= 1e6
    assert median == (1, 1)


@pytest.mark.parametrize("captions", [1, 3])
def test_differences_take_the_same_images_of_both(captions):
    """Against a loop; a constant difference has no spread, unlike either alone."""
    rng = np.random.default_rng(5)
    groups = np.arange(50).repeat(captions)
    first = ranks(5, len(groups))
    second = np.floor(first * np.exp(rng.normal(0, 0.3, len(groups)))) + 1
    draw = np.random.default_rng(0)
    medians = []
    for _ in range(200):
        taken = draw.integers(0, 50, 50)
        at = np.concatenate([np.flatnonzero(groups == number) for number in taken])
        medians.append(np.median(second[at]) - np.median(first[at]))
    mean = bootstrap.mean_difference(first, second, groups, draws=200)
    median = bootstrap.median_difference(first, second, groups, draws=200)
    assert median == pytest.approx(tuple(np.quantile(medians, [0.025, 0.975])))
    assert mean == mean_and_median(second - first, groups, draws=200)[0]
    seen = 1.959964**2 / (50 + 1.959964**2)  # Wilson's upper end of 0 of 50
    mean = bootstrap.mean_difference(first, first + 2, groups, draws=50, step=3)
    assert mean == pytest.approx((2 - 3 * seen, 2 + 3 * seen))
    assert bootstrap.median_difference(first, first + 2, groups, draws=50) == (2, 2)


def test_ratios_equal_scipys_bca_of_pairs():
    rng = np.random.default_rng(3)
    base = (rng.random(250) < 0.6).astype(float)
    kept = base * (rng.random(250) < 0.7) + (1 - base) * (rng.random(250) < 0.05)
    half = kept * rng.random(250)

    def ratio(one, other):
        return one.mean() / other.mean()

    values = np.column_stack([kept, half])
    found = bootstrap.ratios_over_images(values, base, draws=6000)
    for column, interval in zip(values.T, found, strict=True):
        theirs = scipy.stats.bootstrap(
            (column, base),
            ratio,
            paired=True,
            vectorized=False,
            n_resamples=6000,
            method="BCa",
            rng=1,
        ).confidence_interval
        width = theirs.high - theirs.low
        assert interval == pytest.approx(tuple(theirs), abs=0.06 * width)


def test_ratios_without_spread_have_a_width():
    ones = np.ones(50)
    same, none = bootstrap.ratios_over_images(np.column_stack([ones, 0 * ones]), ones)
    unseen = scipy.stats.binomtest(0, 50).proportion_ci(method="wilson").high
    assert same == pytest.approx((1 - unseen, 1 + unseen))
    assert none == pytest.approx((0, unseen))
