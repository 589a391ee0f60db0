"""The votes of nearest neighbours equal a brute force over all orders of ties."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipjax.evals.common import neighbours
from clipjax.evals.common.neighbours import class_votes


def brute(queries, gallery, labels, classes, k, temperature):
    """The mean of the votes over every order of the training images."""
    votes = np.zeros((len(queries), classes))
    cosines = queries @ gallery.T
    orders = list(itertools.permutations(range(len(gallery))))
    for row, similar in zip(votes, cosines, strict=True):
        for order in orders:
            nearest = sorted(order, key=lambda i, similar=similar: -similar[i])[:k]
            for i in nearest:
                row[labels[i]] += np.exp(similar[i] / temperature) / len(orders)
    return votes / votes.sum(axis=1, keepdims=True)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**20), m=st.integers(1, 6), k=st.integers(1, 7))
def test_votes_equal_brute_force(seed, m, k):
    """Features on few directions, so that many tie and many are copies."""
    rng = np.random.default_rng(seed)
    angles = rng.integers(0, 4, m) * np.pi / 2
    gallery = np.stack([np.cos(angles), np.sin(angles)], 1).round()
    queries = np.array([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8], [0.0, 0.0]])
    labels = rng.integers(0, 3, m)
    lengths = rng.integers(1, 5, (4, 1))
    found = class_votes(
        (queries * lengths).astype(np.float32),
        gallery.astype(np.float32),
        labels,
        3,
        [k],
        0.5,
    )[0]
    expected = brute(queries, gallery, labels, 3, k, 0.5)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_copies_share_the_last_place_by_hand():
    """Two places of which the first is taken: three copies have a third of one each."""
    gallery = np.array([[1, 0], [0.6, 0.8], [0.6, 0.8], [0.6, 0.8]], np.float32)
    labels = np.array([0, 1, 1, 2])
    weight = np.exp((0.6 - 1) / 0.07)
    expected = np.array([1, weight * 2 / 3, weight / 3]) / (1 + weight)
    for order in ([0, 1, 2, 3], [3, 2, 1, 0], [1, 3, 0, 2]):
        found = class_votes(
            np.array([[2, 0]], np.float32), gallery[order], labels[order], 3, [2], 0.07
        )
        np.testing.assert_allclose(found[0][0], expected, rtol=1e-5)


def test_large_copies_tie_exactly():
    """Wide features, whose products BLAS may round by their place in the matrix."""
    rng = np.random.default_rng(0)
    row = rng.standard_normal((1, 771)).astype(np.float32)
    gallery = np.concatenate([row] * 29)
    labels = np.arange(29)
    queries = rng.standard_normal((5, 771)).astype(np.float32)
    found = class_votes(queries, gallery, labels, 29, [7], 0.07)[0]
    np.testing.assert_allclose(found, 1 / 29, rtol=1e-6)


def test_blocks_and_several_ks_change_nothing(monkeypatch):
    rng = np.random.default_rng(1)
    queries, gallery = (
        rng.integers(-2, 3, (n, 5)).astype(np.float32) for n in (31, 40)
    )
    labels = rng.integers(0, 4, 40)
    together = class_votes(queries, gallery, labels, 4, [3, 11, 40], 0.1)
    monkeypatch.setattr(neighbours, "MAX_SIMILARITIES", 130)
    for k, expected in zip([3, 11, 40], together, strict=True):
        found = class_votes(queries, gallery, labels, 4, [k], 0.1)[0]
        np.testing.assert_allclose(found, expected, rtol=1e-5)
    all_of_them = class_votes(queries, gallery, labels, 4, [99], 0.1)[0]
    np.testing.assert_allclose(all_of_them, together[2], rtol=1e-5)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_queries_that_are_not_finite_have_no_votes(bad):
    queries = np.array([[1, 0], [bad, 0]], np.float32)
    gallery = np.eye(2, dtype=np.float32)
    found = class_votes(queries, gallery, np.array([0, 1]), 2, [1], 0.07)[0]
    assert found[0].tolist() == [1, 0] and np.isnan(found[1]).all()
