"""Ranks in large galleries: what is counted in parts equals what a plain sort gives."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipjax.evals.common import ranking


@pytest.mark.parametrize("folded", [4, 256])
@given(seed=st.integers(0, 10**6), rows=st.integers(1, 5), width=st.integers(2, 40))
@settings(max_examples=60)
def test_the_nearest_are_those_of_a_stable_sort(folded, seed, rows, width):
    draw = np.random.default_rng(seed)
    # Few values, so that many tie, at the k-th place too; some are unusable.
    scores = draw.integers(0, draw.integers(1, 9), (rows, width)).astype(np.float32)
    scores[draw.random(scores.shape) < draw.choice([0, 0.3, 0.97])] = -np.inf
    order = np.argsort(-scores, axis=1, kind="stable")[:, :5]
    values = np.take_along_axis(scores, order, axis=1)
    expected = np.full((rows, 5), -1)
    expected[:, : order.shape[1]] = np.where(np.isfinite(values), order, -1)
    best = np.where(np.isfinite(values[:, 0]), values[:, 0], np.nan)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranking, "_FOLDED", folded)
        found = ranking.rank_scores(scores, np.zeros(rows, int), nearest=5)
        usable = np.isfinite(scores).all(axis=1)
        np.testing.assert_array_equal(found.nearest[usable], expected[usable])
        places, top = np.full((rows, 5), -1), np.full(rows, np.nan, np.float32)
        ranking._keep_best(scores, places, top)
    np.testing.assert_array_equal(places, expected)
    np.testing.assert_array_equal(top, best)


@pytest.mark.parametrize("cached", [1, 100, 2**18])
def test_parts_change_nothing(cached, monkeypatch):
    """Each thread takes some queries of a block; whole numbers tie exactly."""
    draw = np.random.default_rng(3)
    queries = draw.integers(-2, 3, (37, 4)).astype(np.float32)
    gallery = draw.integers(-2, 3, (50, 4)).astype(np.float32)
    queries[5], gallery[7] = np.nan, np.inf
    right = draw.integers(0, 50, (37, 2))
    right[right == 7] = 8
    right[3, 1] = -1
    monkeypatch.setattr(ranking, "_CACHED", cached)
    found = ranking.rank(queries, gallery, right, block=16, nearest=5)
    for number, (query, own) in enumerate(zip(queries, right, strict=True)):
        scores = np.delete(gallery, 7, axis=0) @ query
        scores = np.insert(scores, 7, -np.inf)
        if number == 5:
            assert found.greater[number] == 50 and (found.nearest[number] == -1).all()
            continue
        best = max(scores[own[own >= 0]])
        tied = int((scores == best).sum())
        mine = sum(scores[place] == best for place in own if place >= 0)
        assert found.greater[number] == (scores > best).sum()
        assert (found.ties[number], found.own[number]) == (tied - mine, mine)
        order = np.argsort(-scores, kind="stable")[:5]
        assert found.nearest[number].tolist() == order.tolist()
        assert found.score[number] == scores.max()


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64])
def test_copies_are_found_by_their_bytes(dtype):
    draw = np.random.default_rng(0)
    gallery = draw.integers(0, 2, (3000, 5)).astype(dtype)  # 32 kinds
    gallery[7, 0] = -0.0 if gallery[7, 0] == 0 else np.nan
    firsts: dict = {}
    expected = [firsts.setdefault(row.tobytes(), i) for i, row in enumerate(gallery)]
    assert ranking.first_places(gallery).tolist() == expected
    assert ranking.first_places(gallery[::2]).tolist() == [
        sorted({i // 2 for i in range(0, 3000, 2) if expected[i] == expected[at]})[0]
        for at in range(0, 3000, 2)
    ]


def test_a_shared_hash_makes_no_copies(monkeypatch):
    monkeypatch.setattr(ranking, "_hashes", lambda rows: np.zeros(len(rows), np.uint64))
    gallery = np.array([[1.0, 2], [3, 4], [1, 2], [5, 6]], np.float32)
    assert ranking.first_places(gallery).tolist() == [0, 1, 0, 3]
