"""Geometry as an evaluator: numbers by hand, what is left out, rows, refusals."""

import math

import numpy as np
import pytest
from evals_tools import (
    Data,
    captioned,
    chances,
    pixels,
    table_encoder,
    values,
    variables,
)

from clipjax import testing
from clipjax.comparison.shared_rows import unlike
from clipjax.evals import geometry, retrieval
from clipjax.evals.common.inputs import Inputs
from clipjax.types import Example, UserError


def run(images, texts, owner, broken=(), **options):
    """The result of given embeddings; caption j belongs to image owner[j]."""
    captions = [f"caption {j}" for j in range(len(texts))]
    data = Data(captioned(range(len(images)), owner, captions, broken))
    inputs = Inputs(table_encoder(captions), data)
    return geometry.make(inputs, **options).run(variables(images, texts))


def drawn(seed, n, captions=3, width=4):
    rng = np.random.default_rng(seed)
    owner = np.repeat(np.arange(n), rng.integers(1, captions + 1, n))
    rows = rng.normal(size=(n + len(owner), width)) + 0.3
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows[:n], rows[n:], owner


def test_numbers_by_hand():
    """Means (1/2, 1/2) and (0, 1); squared distances 2 and 0; images on a line, and
    captions that are copies.
    """
    found = run(np.eye(2), np.array([[0.0, 1], [0, 1]]), [0, 1])
    assert values(found) == pytest.approx(
        {
            "modality_gap": math.sqrt(0.5),
            "alignment": 1.0,
            "image_uniformity": -4.0,
            "text_uniformity": 0.0,
            "image_effective_rank": 1.0,
            "text_effective_rank": 0.0,
        },
        abs=1e-6,
    )
    chance = chances(found)
    assert (chance["modality_gap"], chance["alignment"]) == (1.0, 2.0)
    assert chance["image_effective_rank"] == 1.0
    # On the circle exp(4 cos) has the mean I0(4) = 11.3019.
    assert chance["text_uniformity"] == pytest.approx(math.log(11.301922) - 4)
    assert found.primary == "modality_gap"
    assert found.size == "2 images x 2 captions"
    assert found.rows["key"] == ["image 0", "image 1"]
    assert found.rows["captions"] == [["caption 0"], ["caption 1"]]
    assert found.rows["similarity"].tolist() == [0, 1]
    assert found.rows["image_crowding"] == pytest.approx([math.exp(-4)] * 2)
    assert found.rows["text_crowding"].tolist() == [1, 1]
    better = {name: one.higher_is_better for name, one in found.metrics.items()}
    assert better == geometry.METRICS


@pytest.mark.parametrize("captions", [1, 5])
def test_rows_give_the_metrics(captions):
    """So that clipjax.compare pairs them."""
    images, texts, owner = drawn(0, 30, captions)
    found = run(images, texts, owner)
    for name, metric in found.metrics.items():
        assert unlike(name, metric, found.rows) == ""
        assert metric.low < metric.value < metric.high and metric.n == 30
    first = [(images[0] @ texts[j]) for j in np.flatnonzero(owner == 0)]
    assert found.rows["similarity"][0] == pytest.approx(np.mean(first), abs=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_is_left_out(bad):
    """An image, a caption of two, and an image's only caption."""
    images, texts, owner = drawn(1, 12)
    owner = np.sort(np.concatenate([owner, [5]]))  # two or more captions
    texts = np.concatenate([texts, texts[:1]])
    single = int(np.flatnonzero(np.bincount(owner) == 1)[0])
    gone = {2, single}
    images, texts = images.copy(), texts.copy()
    images[2, 1] = bad
    texts[np.flatnonzero(owner == single)] = bad
    lost = int(np.flatnonzero(owner == 5)[0])
    texts[lost, 0] = bad
    assert not gone & {5}
    found = run(images, texts, owner)
    stay = ~np.isin(np.arange(12), list(gone))
    kept = stay[owner] & (np.arange(len(owner)) != lost)
    clean = run(images[stay], texts[kept], (np.cumsum(stay) - 1)[owner[kept]])
    assert values(found) == pytest.approx(values(clean), rel=1e-6)
    assert (
        found.size == f"12 images x {len(owner)} captions, 3 embeddings not finite"
        " and left out"
    )
    assert np.flatnonzero(np.isnan(found.rows["alignment"])).tolist() == sorted(gone)
    assert found.metrics["alignment"].n == 10


def test_a_model_without_finite_embeddings_has_no_numbers():
    images, texts, owner = drawn(2, 4)
    found = run(images + np.nan, texts, owner)
    assert all(math.isnan(one.value) and one.n == 0 for one in found.metrics.values())
    assert len(found.rows["key"]) == 4
    assert set(found.metrics) == set(geometry.METRICS)


def test_a_collapsed_model_has_intervals():
    """Wilson's upper share of unlike images among 20 is 3.84146 / 23.84146."""
    rows = np.full((20, 3), 3**-0.5)
    found = run(rows, rows, np.arange(20))
    share = 3.84146 / 23.84146
    for name, most in (("modality_gap", 2), ("alignment", 4)):
        one = found.metrics[name]
        assert one.value == pytest.approx(0, abs=1e-6)
        assert (one.low, one.high) == pytest.approx((0, most * share), abs=1e-5)
    one = found.metrics["image_uniformity"]
    assert (one.low, one.value) == pytest.approx((-8 * share, 0), abs=1e-5)
    assert found.metrics["text_effective_rank"].high == pytest.approx(3 * share)


def test_opposite_sides_have_the_largest_gap():
    rows = np.full((5, 3), 3**-0.5)
    found = run(rows, -rows, np.arange(5))
    assert found.metrics["modality_gap"].value == pytest.approx(2)
    assert found.metrics["alignment"].value == pytest.approx(4)


def test_a_gap_that_chance_explains_reaches_down_to_zero():
    """Captions and images of one distribution: the low end has the noise taken off."""
    images, texts, owner = drawn(3, 40, 1, 8)
    found = run(images, texts, owner).metrics["modality_gap"]
    assert found.value > 0.1 and found.low < 0.6 * found.value
    # So large a gap hardly changes.
    texts = texts - 3
    texts /= np.linalg.norm(texts, axis=1, keepdims=True)
    found = run(images, texts, owner).metrics["modality_gap"]
    assert 0.9 * found.value < found.low < found.value


def test_broken_images_are_counted_and_samples_are_spread():
    images, texts, owner = drawn(4, 10)
    found = run(images, texts, owner, broken=(0, 9))
    assert found.broken == 2 and found.size.startswith("8 images")
    some = run(images, texts, owner, max_samples=5, references=3)
    assert some.size.startswith("5 images")
    assert some.rows["key"] == [f"image {i}" for i in (0, 2, 4, 6, 8)]
    assert some.protocol.endswith("; at most 5 images, evenly spread")
    assert "against at most 3," in some.protocol


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"references": 1}, "references=1: give 2 or more"),
        ({"max_samples": 1}, "max_samples=1 leaves one image"),
        ({"max_samples": -2}, "max_samples=-2 is below 0"),
    ],
)
def test_options_out_of_range(options, words):
    images, texts, owner = drawn(5, 4)
    with pytest.raises(UserError, match=f"^evals=geometry: {words}"):
        run(images, texts, owner, **options)


def test_it_needs_captions():
    with pytest.raises(UserError, match="^evals=geometry needs two or more images"):
        geometry.make(Inputs(table_encoder([]), Data([Example(pixels(0))])))


def test_it_shares_what_retrieval_encodes():
    texts = [f"caption {j}" for j in range(6)]
    data = Data([Example(pixels(i), texts[2 * i : 2 * i + 2]) for i in range(3)])
    encoder = table_encoder(texts)
    inputs = Inputs(encoder, data)
    rng = np.random.default_rng(6)
    table = variables(rng.normal(size=(3, 4)), rng.normal(size=(6, 4)))
    retrieval.make(inputs).run(table)
    encoder.texts = None  # what is encoded is there
    seen = []
    geometry.make(inputs).run(table, lambda *done: seen.append(done))
    assert sorted(data.reads) == [0, 1, 2]
    assert seen[-1] == (9, 9)


def test_contract():
    testing.check_evaluator(geometry.make)
