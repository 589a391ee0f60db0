"""The geometry of embeddings against NumPy's definitions, weighted by image."""

import numpy as np
import pytest
from marks import mostly

from clipjax.evals.common import embedding_shape as shape
from clipjax.evals.common.bootstrap import means_over_images


def unit(rows):
    return np.float32(rows / np.linalg.norm(rows, axis=1, keepdims=True))


def drawn(seed, n, captions, width=5):
    """Images, texts near them, and owners; captions: the most per image."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, captions + 1, n)
    owner = np.repeat(np.arange(n), counts)
    images = rng.normal(size=(n, width)) + np.linspace(0, 1, width)
    texts = images[owner] + rng.normal(size=(len(owner), width)) + 0.5
    return unit(images), unit(texts), owner


def defined(images, texts, owner, weights, references=10**6):
    """All six numbers by their definitions, each image with a weight; in float64."""
    images, texts = images.astype(float), texts.astype(float)
    own = weights[owner]
    means = np.average(images, 0, weights), np.average(texts, 0, own)
    squares = ((images[owner] - texts) ** 2).sum(axis=1)

    def uniformity(rows, owners):
        chosen = np.arange(min(references, len(rows))) * len(rows)
        chosen //= min(references, len(rows))
        total = pairs = 0.0
        for row, one in zip(rows, owners, strict=True):
            for other in chosen:
                if owners[other] != one:
                    weight = weights[one] * weights[owners[other]]
                    distance = ((row - rows[other]) ** 2).sum()
                    total += weight * np.exp(-2 * distance)
                    pairs += weight
        return np.log(total / pairs)

    def rank(rows, row_weights, mean):
        scaled = (rows - mean) * np.sqrt(row_weights / row_weights.sum())[:, None]
        values = np.linalg.svd(scaled, compute_uv=False) ** 2
        shares = values[values > 1e-20] / values.sum()
        return np.exp(-(shares * np.log(shares)).sum())

    return np.array(
        [
            np.linalg.norm(means[0] - means[1]),
            np.average(squares, weights=own),
            uniformity(images, np.arange(len(images))),
            uniformity(texts, owner),
            rank(images, weights, means[0]),
            rank(texts, own, means[1]),
        ]
    )


def measured(images, texts, owner, references=10**6):
    n = len(images)
    return [
        shape.modality_gap(images, texts, owner).estimate,
        shape.mean_over_texts(shape.own_pairs(images, texts, owner)[0], owner, n),
        shape.uniformity(images, np.arange(n), n, references).estimate,
        shape.uniformity(texts, owner, n, references).estimate,
        shape.effective_rank(images, np.arange(n), n),
        shape.effective_rank(texts, owner, n),
    ]


@pytest.mark.parametrize(
    ("n", "captions", "references"), [(2, 1, 10), (9, 1, 4), (13, 5, 100), (13, 5, 7)]
)
def test_values_and_their_parts_equal_definitions(n, captions, references, monkeypatch):
    """An image's part is n times the derivative by its weight, in any blocks."""
    images, texts, owner = drawn(n, n, captions)
    if n > 9:
        images[3] = images[4]  # copies
        texts[2] = texts[-1]
    found = measured(images, texts, owner, references)
    even = np.ones(n)
    expected = defined(images, texts, owner, even, references)
    assert [one.value for one in found] == pytest.approx(expected, abs=2e-6)
    means = [one.by_image.mean() for one in found]
    assert means == pytest.approx(expected, abs=2e-6)
    if n > 2:  # of two the rank is 1, whatever their weights
        for image in range(n):
            moved = even.copy(), even.copy()
            moved[0][image] += 1e-4
            moved[1][image] -= 1e-4
            more, less = (
                defined(images, texts, owner, one, references) for one in moved
            )
            parts = [one.by_image[image] for one in found]
            slope = n * (more - less) / 2e-4
            assert parts == pytest.approx(expected + slope, rel=1e-4, abs=1e-4)
    monkeypatch.setattr(shape, "BLOCK", 3)
    monkeypatch.setattr(shape, "TERMS", 10)
    again = measured(images, texts, owner, references)
    for one, other in zip(found, again, strict=True):
        assert other.value == pytest.approx(one.value, rel=1e-6)
        assert other.by_image == pytest.approx(one.by_image, rel=1e-4, abs=1e-5)


def test_the_noise_of_a_gap_is_that_of_equal_means():
    """The mean square of the gap of 12 images, over 4,000 draws without a true gap."""
    rng = np.random.default_rng(0)
    squares, noises = [], []
    owner = np.repeat(np.arange(12), 2)
    for _ in range(4000):
        images, texts = unit(rng.normal(size=(12, 3))), unit(rng.normal(size=(24, 3)))
        gap = shape.modality_gap(images, texts, owner)
        squares.append(gap.estimate.value**2)
        noises.append(gap.noise)
    assert np.mean(squares) == pytest.approx(1 / 12 + 1 / 24, rel=0.04)
    assert np.mean(noises) == pytest.approx(np.mean(squares), rel=0.04)


def test_effective_ranks_by_hand():
    """Two directions of equal variance are 2; shares of 3/4 and 1/4 are
    exp(H) = 4 / 3^(3/4); on a line it is 1; of copies 0.
    """
    cross = np.float32([[1, 0], [-1, 0], [0, 1], [0, -1]])
    wide = np.float32([[1, 0], [-1, 0]] * 3 + [[0, 1], [0, -1]])

    def rank(rows):
        return shape.effective_rank(rows, np.arange(len(rows)), len(rows)).value

    assert rank(cross) == pytest.approx(2)
    assert rank(wide) == pytest.approx(4 / 3**0.75)
    assert rank(cross[:2]) == pytest.approx(1)
    assert rank(unit(np.full((5, 3), 0.3))) == 0


@pytest.mark.parametrize(("rows", "width"), [(12, 8), (100, 4), (20, 32), (300, 64)])
def test_random_vectors_have_the_numbers_of_chance(rows, width):
    rng = np.random.default_rng(rows)
    ranks, sums = [], 0.0
    for _ in range(20):
        some = unit(rng.normal(size=(rows, width)))
        own = np.arange(rows)
        ranks.append(shape.effective_rank(some, own, rows).value)
        found = shape.uniformity(some, own, rows, rows).estimate.value
        sums += np.exp(found) / 20
    assert np.mean(ranks) == pytest.approx(shape.random_rank(rows, width), rel=0.03)
    expected = shape.random_uniformity(width)
    assert np.log(sums) == pytest.approx(expected, abs=0.05)


def test_random_uniformity_by_hand():
    """On the line an inner product is 1 or -1."""
    assert shape.random_uniformity(1) == pytest.approx(np.log(np.cosh(4)) - 4)


@pytest.mark.parametrize("captions", mostly([1, 5], [1]))
def test_intervals_hold_the_numbers_of_many_images(captions):
    """In 200 draws of 120 images; the truth is that of 3,000 images, for ranks, which
    grow with the images, the mean of 120.
    """
    truth = np.array([one.value for one in measured(*drawn(99, 3000, captions))])
    ends = [(0, 2), (0, 4), (-8, 0), (-8, 0), (0, 5), (0, 5)]
    values, intervals = [], []
    for seed in range(200):
        found = measured(*drawn(seed, 120, captions))
        by_image = np.stack([one.by_image for one in found], axis=1)
        values.append([one.value for one in found])
        intervals.append(means_over_images(by_image, ends, draws=200))
    truth[4:] = np.mean(values, axis=0)[4:]
    low, high = np.moveaxis(np.array(intervals), 2, 0)
    held = ((low <= truth) & (truth <= high)).mean(axis=0)
    assert (held >= 0.87).all() and held.mean() < 0.99, held
