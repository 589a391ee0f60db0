"""Calibration errors against brute force, and what chance and draws make of them."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipjax.evals.common import confidence_bins

# Sixteenths tie often, and lie on the edges of 2, 4 and 8 bins.
IMAGES = st.lists(
    st.tuples(
        st.one_of(st.integers(0, 16).map(lambda x: x / 16), st.floats(0, 1)),
        st.sampled_from([0.0, 0.5, 1.0]),
    ),
    min_size=1,
    max_size=40,
)


def gap(images):
    """|mean confidence - share right| times the number of images."""
    return abs(math.fsum(c for c, _ in images) - math.fsum(r for _, r in images))


def equal_width(images, bins):
    """Guo et al.: bin b holds (b / bins, (b + 1) / bins]; here the first also 0."""
    total = 0.0
    for b in range(bins):
        inside = [
            (c, r)
            for c, r in images
            if (c > b / bins or b == 0) and (c <= (b + 1) / bins or b == bins - 1)
        ]
        total += gap(inside)
    return total / len(images)


def equal_mass(images, bins):
    """Sorted, place i is in bin floor(i * bins / n); ties are in that of their middle
    place, or of the middle between two.
    """
    inside: dict[int, list] = {}
    for value in sorted({c for c, _ in images}):
        own = [image for image in images if image[0] == value]
        before = sum(c < value for c, _ in images)
        middle = before + (len(own) - 1) / 2
        inside.setdefault(math.floor(middle * bins / len(images)), []).extend(own)
    return sum(map(gap, inside.values())) / len(images)


@pytest.mark.thorough
@settings(max_examples=50, deadline=None)
@given(images=IMAGES, bins=st.sampled_from([1, 2, 3, 4, 8, 15, 50]))
def test_errors_are_those_of_brute_force(images, bins):
    confidence, right = np.array(images).T
    ways = [
        confidence_bins.of_equal_width(confidence, bins),
        confidence_bins.of_equal_mass(confidence, bins),
    ]
    for way in ways:
        assert way.min() >= 0 and way.max() < bins
    found = confidence_bins.errors(confidence, right, ways, np.arange(len(images)))
    expected = equal_width(images, bins), equal_mass(images, bins)
    assert [one.value for one in found] == pytest.approx(expected, abs=1e-12)
    for one in found:
        assert 0 <= one.low <= one.value <= one.high <= 1 and one.low < one.high
    # The order of the images changes nothing.
    again = [
        confidence_bins.of_equal_width(confidence[::-1], bins)[::-1],
        confidence_bins.of_equal_mass(confidence[::-1], bins)[::-1],
    ]
    assert all((one == other).all() for one, other in zip(ways, again, strict=True))


def test_equal_mass_is_equal():
    confidence = np.random.default_rng(0).random(101)
    counts = np.bincount(confidence_bins.of_equal_mass(confidence, 15))
    assert len(counts) == 15 and set(counts) == {6, 7}
    # Fewer images than bins: each has its own.
    few = confidence_bins.of_equal_mass(confidence[:4], 15)
    assert len(set(few)) == 4


def test_what_a_calibrated_model_gets():
    """One bin: the mean of |S / n - p| for S of a binomial distribution."""
    n, p = 50, 0.7
    confidence = np.full(n, p)
    (found,) = confidence_bins.if_calibrated(
        confidence, [np.zeros(n, int)], np.arange(n)
    )
    shares = [math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(n + 1)]
    expected = sum(x * abs(k / n - p) for k, x in enumerate(shares))
    assert found.value == pytest.approx(expected, rel=0.1)
    assert found.low < 0.01 < 0.1 < found.high < 0.16
    # Five copies of each image tell as much as ten images.
    (copies,) = confidence_bins.if_calibrated(
        confidence, [np.zeros(n, int)], np.arange(n) // 5
    )
    assert copies.value == pytest.approx(expected * math.sqrt(5), rel=0.1)


@pytest.mark.thorough
@pytest.mark.parametrize("power", [1.0, 2.0])
def test_intervals_hold_the_error_of_so_many_images(power):
    """In 200 draws of 200 images, which are right with probability confidence ** power:
    the mean of the errors of these draws, which has their bias, is the truth.
    """
    rng, found = np.random.default_rng(1), []
    for _ in range(200):
        confidence = rng.uniform(0.3, 1, 200)
        right = (rng.random(200) < confidence**power).astype(float)
        ways = [
            confidence_bins.of_equal_width(confidence, 10),
            confidence_bins.of_equal_mass(confidence, 10),
        ]
        found.append(confidence_bins.errors(confidence, right, ways, np.arange(200)))
    for metrics in zip(*found, strict=True):
        truth = np.mean([one.value for one in metrics])
        held = np.mean([one.low <= truth <= one.high for one in metrics])
        assert 0.9 <= held, (truth, held)
