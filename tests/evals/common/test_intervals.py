"""Intervals of shares: by hand, by published values, and how often they hold."""

import numpy as np
import pytest

from clipjax.evals.common.intervals import (
    Hits,
    class_mean,
    grouped_class_mean,
    mean,
    mean_interval,
    over_draws,
    share,
    wilson,
)
from clipjax.types import Metric

TRUTHS = (0.001, 0.01, 0.05, 0.25, 0.5, 0.9, 0.99, 0.999)


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
    found = share(Hits((np.arange(n) < hits).astype(float)))
    assert (found.low, found.high) == pytest.approx((low, high), abs=6e-5)
    assert (found.value, found.n, found.unit) == (hits / n, n, "fraction")
    assert found.low <= found.value <= found.high


def ends(metric):
    return metric.low, metric.high


def test_captions_that_hit_together_count_once():
    """Five copies of each query tell as much as the queries alone."""
    hits = (np.arange(40) % 3 == 0).astype(float)
    single = share(Hits(hits))
    copies = share(Hits(hits.repeat(5), np.arange(40).repeat(5)))
    # The variance over images divides by 39, that of draws by 40.
    low, high = wilson(single.value, 39)
    assert ends(copies) == pytest.approx((low, high), abs=1e-3)
    assert copies.n == 200 and copies.value == pytest.approx(single.value)
    assert share(Hits(hits, np.arange(40))) == single
    everyone = share(Hits(np.ones(200), np.arange(40).repeat(5)))
    assert ends(everyone) == pytest.approx(wilson(1.0, 40))


def test_groups_by_hand():
    """Residuals of the mean 1/2 sum to 1, -1, 0 and 0 in four pairs: the variance over
    images is 2 * (4 / 3) / 64 = 1/24. Half an image's 1/8 * 1/4 = 1/32 is added to it
    and 1/8 to 1/2 * 1/2: the effective number is (3/8) / (7/96) = 36/7.
    """
    hits, groups = np.array([1, 1, 0, 0, 1, 0, 0, 1.0]), np.arange(4).repeat(2)
    found = share(Hits(hits, groups))
    assert ends(found) == pytest.approx(wilson(0.5, 36 / 7))
    # All alike: the pairs may be so inside, and count once.
    for all_alike in (np.ones(8), np.zeros(8)):
        found = share(Hits(all_alike, groups))
        assert ends(found) == pytest.approx(wilson(all_alike[0], 4))
    # One image tells of one draw.
    assert ends(share(Hits(hits, np.zeros(8, int)))) == wilson(0.5, 1)
    # Numbers without queries do not matter.
    assert share(Hits(hits, groups * 3)) == share(Hits(hits, groups))


def test_the_mean_of_two_directions_by_hand():
    """Two images with three captions, two of them of image 0. Image 0 hits, and one of
    its captions; its terms are 1/4 and 1/6, so the mean is 5/12 with weights 7/12 and
    5/12.
    """
    one = Hits(np.array([1.0, 0.0]), chance=0.5)
    other = Hits(np.array([1.0, 0.0, 0.0]), np.array([0, 0, 1]), 0.25)
    found = mean([one, other])
    variance = 2 * ((5 / 12 - 35 / 144) ** 2 + (25 / 144) ** 2)
    together = (49 + 25) / 144
    effective = (35 / 144 + together / 2) / (variance + together**2 / 2)
    assert (found.value, found.chance, found.n) == pytest.approx((5 / 12, 3 / 8, 5))
    assert ends(found) == pytest.approx(wilson(5 / 12, effective))
    assert mean([one, Hits(np.zeros(2))]).chance is None


def test_two_directions_that_agree_tell_no_more_than_one():
    hits = (np.arange(50) % 4 == 0).astype(float)
    found = mean([Hits(hits), Hits(hits)])
    assert ends(found) == pytest.approx(wilson(hits.mean(), 49), abs=1e-3)
    independent = mean([Hits(hits), Hits(np.roll(hits, 1))])
    assert independent.high - independent.low < found.high - found.low
    certain = mean([Hits(np.ones(50)), Hits(np.ones(250), np.arange(50).repeat(5))])
    assert ends(certain) == pytest.approx(wilson(1.0, 50))


def test_class_mean_by_hand():
    """Shares 1/2 of four images and 1 of one: 3/4. The classes' variances, with one
    more image of 3/16: (4 * 1/4 + 3/16) / 4 = 19/64 and 3/16.
    """
    labels, hits = np.array([0, 0, 0, 0, 2]), np.array([1, 1, 0, 0, 1.0])
    found = class_mean(hits, labels, 1 / 3)
    variance = (19 / 64 / 4 + 3 / 16) / 4
    together = (1 / 4 + 1) / 4
    effective = (3 / 16 + together / 2) / (variance + together**2 / 2)
    assert (found.value, found.chance, found.n) == (3 / 4, 1 / 3, 5)
    assert ends(found) == pytest.approx(wilson(3 / 4, effective))
    sure = class_mean(np.ones(20), np.arange(20) // 5, 1 / 4)
    assert sure.high == 1 and 0.8 < sure.low < 0.9  # of 20 images
    none = class_mean(np.zeros(20), np.arange(20) // 5, 1 / 4)
    assert none.low == 0 and none.high == pytest.approx(1 - sure.low)


def coverage(draw, draws=4000, images=200):
    """By truth, the share of draws whose interval holds it.

    draw: makes a metric of a truth and of the images' rates.
    """
    held = []
    for truth in TRUTHS:
        rng = np.random.default_rng(0)
        # Captions of an image have a correlation of 1 / (1 + 7 / 3) = 0.3.
        rates = rng.beta(truth * 7 / 3, (1 - truth) * 7 / 3, (draws, images))
        found = [draw(rng, truth, own) for own in rates]
        held.append(np.mean([metric.low <= truth <= metric.high for metric in found]))
    return np.array(held)


FIVE = np.arange(200).repeat(5)


def one_caption(rng, truth, rates):
    return share(Hits((rng.random(len(rates)) < truth).astype(float)))


def five_captions(rng, truth, rates):
    return share(Hits((rng.random(1000) < rates[FIVE]).astype(float), FIVE))


def both_directions(rng, truth, rates):
    one = Hits((rng.random(200) < rates).astype(float))
    return mean([one, Hits((rng.random(1000) < rates[FIVE]).astype(float), FIVE)])


@pytest.mark.parametrize(
    ("draw", "draws"),
    [(one_caption, 2000), (five_captions, 2000), (both_directions, 500)],
)
def test_the_intervals_hold_the_truth_as_often_as_they_say(draw, draws):
    held = coverage(draw, draws)
    assert 0.94 <= held.mean() <= 0.97, held
    assert held.min() >= 0.89, held


def test_the_interval_of_a_mean_of_metrics_by_hand():
    one = Metric(0.5, low=0.2, high=0.9)
    other = Metric(0.1, low=0.1 - 0.08, high=0.1 + 0.06)
    # Apart, distances add as squares: (0.3, 0.08) / 2 below, (0.4, 0.06) / 2 above.
    low, high = mean_interval([one, other], [0, 1])
    assert low == pytest.approx(0.3 - np.hypot(0.15, 0.04))
    assert high == pytest.approx(0.3 + np.hypot(0.2, 0.03))
    # On the same data they add.
    assert mean_interval([one, other], [3, 3]) == pytest.approx((0.11, 0.53))
    three = mean_interval([one, one, other], [0, 0, 1])
    assert three[0] == pytest.approx(1.1 / 3 - np.hypot(0.2, 0.08 / 3))
    assert mean_interval([one, Metric(0.3)], [0, 1]) is None


@pytest.mark.thorough
@pytest.mark.parametrize(("apart", "most"), [(True, 0.975), (False, 1.0)])
def test_the_interval_of_a_mean_of_metrics_holds_the_truth(apart, most):
    """Shares of different images, and two of the same ones, which vary together."""

    def draw(rng, truth, rates):
        one = Hits((rng.random(200) < rates).astype(float))
        others = rng.beta(truth * 7 / 3, (1 - truth) * 7 / 3, 200)
        other = others if apart else rates
        parts = [share(one), share(Hits((rng.random(200) < other).astype(float)))]
        low, high = mean_interval(parts, [0, int(apart)])
        return Metric(
            float(np.mean([part.value for part in parts])), low=low, high=high
        )

    held = coverage(draw, 1500)
    assert 0.94 <= held.mean() <= most, held
    assert held.min() >= 0.89, held


def test_draws_by_hand():
    """Shares of 0.5 and 0.75 of four images: Student's t of one degree is 12.7062."""
    hits = np.array([[1, 1, 0, 0], [1, 1, 1, 0]], float)
    metric = over_draws(hits, 0.25)
    assert (metric.value, metric.n, metric.chance) == (0.625, 4, 0.25)
    half = 12.7062 * np.std([0.5, 0.75], ddof=1) / np.sqrt(2)
    assert half > 1 and (metric.low, metric.high) == (0, 1)
    three = over_draws(np.concatenate([hits, hits[:1]] * 7), 0.25)
    half = 2.0860 * np.std([0.5, 0.75, 0.5] * 7, ddof=1) / np.sqrt(21)
    low, high = wilson(three.value, 4)
    assert three.low == pytest.approx(three.value - np.hypot(three.value - low, half))
    assert three.high == pytest.approx(three.value + np.hypot(high - three.value, half))
    one = over_draws(hits[:1], 0.25)
    assert (one.low, one.high) == pytest.approx(wilson(0.5, 4))


@pytest.mark.parametrize("spread", [0.0, 0.02, 0.1])
@pytest.mark.parametrize("truth", [0.25, 0.5, 0.9])
def test_the_interval_of_draws_holds_the_truth(truth, spread):
    """Five draws of a share that varies, on 200 images that differ in difficulty."""
    rng, held = np.random.default_rng(0), []
    for _ in range(600):
        limit = 1 - truth
        images = rng.uniform(-limit, limit, 200) / 2
        draws = rng.uniform(-1, 1, (5, 1)) * min(spread * 3**0.5, limit / 2)
        hits = (rng.random((5, 200)) < truth + images + draws).astype(float)
        metric = over_draws(hits, 0.1)
        held.append(metric.low <= truth <= metric.high)
    assert np.mean(held) >= 0.94


def test_without_the_design_effect_captions_promise_too_much():
    def naive(rng, truth, rates):
        hits, _, _ = Hits((rng.random(1000) < rates[FIVE]).astype(float))
        return share(Hits(hits))

    assert coverage(naive, 300).mean() < 0.85


@pytest.mark.parametrize(
    ("low", "high"), [(0.1, None), (None, 1), (0.6, 0.7), (0, 0.4)]
)
def test_an_interval_holds_its_value(low, high):
    with pytest.raises(ValueError, match="interval"):
        Metric(0.5, low=low, high=high)


def test_grouped_class_mean_of_copies():
    """Three copies of each query tell as much as one, of single images as before."""
    draw = np.random.default_rng(0)
    hits, labels = draw.integers(0, 2, 60).astype(float), np.arange(60) % 7
    one = class_mean(hits, labels, 0.5)
    images = draw.permutation(60)
    single = grouped_class_mean(hits, labels, images, 0.5)
    assert single.value == pytest.approx(one.value)
    assert (single.low, single.high) == pytest.approx((one.low, one.high))
    copies = grouped_class_mean(
        np.repeat(hits, 3), np.repeat(labels, 3), np.repeat(images, 3), 0.5
    )
    assert (copies.value, copies.n) == (pytest.approx(one.value), 180)
    assert (copies.low, copies.high) == pytest.approx((one.low, one.high))


def test_grouped_class_mean_covers():
    """An image's queries are of several classes and hit or miss together."""
    held = 0
    for seed in range(400):
        draw = np.random.default_rng(seed)
        images = np.arange(200)
        easy = draw.random(200) < 0.5
        chosen, classes = np.repeat(images, 4), draw.integers(0, 8, 800)
        hits = draw.random(800) < np.where(easy[chosen], 0.9, 0.3)
        found = grouped_class_mean(hits.astype(float), classes, chosen, 0.5)
        held += found.low <= 0.6 <= found.high
    assert 0.92 <= held / 400 <= 0.98
