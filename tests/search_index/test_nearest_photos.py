"""Exact search against a brute force in float64."""

import numpy as np
import pytest

from clipjax.search_index import nearest_photos
from clipjax.search_index.nearest_photos import Limit, nearest


def unit(rows):
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def drawn(seed, count, width=24):
    draw = np.random.default_rng(seed).normal(size=(count, width))
    return unit(draw).astype(np.float32)


def brute(vectors, query, count, holes=(), limits=()):
    """Slots and cosines: one sum per row, sorted, those that tie by their slots."""
    scored = []
    for slot, row in enumerate(vectors.astype(np.float64)):
        inside = all(
            limit.low <= (row * limit.vector).sum() < limit.high for limit in limits
        )
        if slot not in holes and inside:
            scored.append((-(row * query).sum(), slot))
    scored = sorted(scored)[:count]
    return [slot for _, slot in scored], [-score for score, _ in scored]


def same(found, expected):
    assert found.slots.tolist() == expected[0]
    assert found.cosines.tolist() == expected[1]


@pytest.mark.parametrize("block", [1, 24 * 7, 2**21])
@pytest.mark.parametrize("count", [1, 5, 300, 1000])
def test_it_is_the_brute_force(count, block, monkeypatch):
    monkeypatch.setattr(nearest_photos, "_BLOCK", block)
    monkeypatch.setattr(nearest_photos, "_AGAIN", 24 * 5)
    vectors, query = drawn(0, 300), unit(np.arange(1.0, 25.0))
    same(nearest(vectors, query, count), brute(vectors, query, count))
    holes = [0, 7, 8, 299]
    same(
        nearest(vectors, query, count, holes=holes), brute(vectors, query, count, holes)
    )


def test_equal_vectors_tie_wherever_they_lie():
    """A product's last bits depend on a row's place; the order may not."""
    few, query = drawn(1, 5, 513), unit(np.random.default_rng(2).normal(size=513))
    vectors = few[np.random.default_rng(3).integers(0, 5, 999)]
    for count in (3, 150, 998):
        same(nearest(vectors, query, count), brute(vectors, query, count))


def test_vectors_that_float32_cannot_tell_apart():
    base, query = drawn(4, 1, 64), drawn(4, 1, 64)[0].astype(np.float64)
    vectors = np.repeat(base, 200, axis=0)
    bits = vectors.view(np.uint32)
    bits[np.arange(200), np.arange(200) % 64] += np.arange(200, dtype=np.uint32) % 5
    same(nearest(vectors, query, 20), brute(vectors, query, 20))


def test_limits_are_exact():
    vectors, query = drawn(5, 400), drawn(6, 1)[0].astype(np.float64)
    other = drawn(7, 1)[0].astype(np.float64)
    edge = float((vectors[9].astype(np.float64) * query).sum())
    for limits in (
        [Limit(query, low=edge)],
        [Limit(query, high=edge)],
        [Limit(query, low=edge), Limit(other, high=0.0)],
        [Limit(query, low=0.1), Limit(other, low=-0.1), Limit(-query, low=0.0)],
    ):
        found = nearest(vectors, query, 400, limits=limits)
        same(found, brute(vectors, query, 400, limits=limits))
    assert 9 in nearest(vectors, query, 400, limits=[Limit(query, low=edge)]).slots
    assert 9 not in nearest(vectors, query, 400, limits=[Limit(query, high=edge)]).slots


def test_none_and_all_holes():
    query = drawn(0, 1)[0]
    assert not len(nearest(np.zeros((0, 24), np.float32), query, 5).slots)
    assert not len(nearest(drawn(1, 4), query, 5, holes=[0, 1, 2, 3]).slots)


def test_mapped_vectors(tmp_path):
    vectors, query = drawn(8, 100), drawn(9, 1)[0].astype(np.float64)
    vectors.tofile(tmp_path / "v")
    mapped = np.memmap(tmp_path / "v", np.float32, "r", shape=(100, 24))
    same(nearest(mapped, query, 7), brute(vectors, query, 7))
