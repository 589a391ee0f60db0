"""Copies of an image: found by their bytes, and right answers beside the usual ones."""

import dataclasses

import numpy as np
import pytest
from evals_tools import (
    BROKEN,
    Data,
    captioned,
    chances,
    pixels,
    table_encoder,
    values,
    variables,
)

from clipjax.comparison import row_metrics
from clipjax.evals import retrieval
from clipjax.evals.common import galleries, image_digests
from clipjax.evals.common.galleries import Published
from clipjax.evals.common.inputs import Inputs
from clipjax.types import BadExample, Example


def brute(scores, right, k):
    """Recall at k without ties, by a plain sort."""
    best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.mean([own[at].any() for own, at in zip(right, best, strict=True)])


def expected(images, texts, owner, picture):
    """Brute-force recalls; picture: equal numbers are copies."""
    scores = images @ texts.T
    right = picture[:, None] == picture[owner]  # [images captions]
    # Copies tie with each other, and all of them are right or none is.
    first = np.unique(picture, return_index=True)[1]
    return {
        "image_to_text_recall@1": brute(scores, right, 1),
        "image_to_text_recall@5": brute(scores, right, 5),
        "text_to_image_recall@1": brute(
            scores[first].T, right[first].T, 1
        ),  # one of each is as good as all
    }


@pytest.mark.parametrize("seed", range(4))
def test_copies_are_right_beside_the_usual_numbers(seed):
    rng = np.random.default_rng(seed)
    picture = rng.integers(0, 8, 14)
    owner = np.repeat(np.arange(14), rng.integers(1, 4, 14))
    table, texts = rng.standard_normal((8, 6)), rng.standard_normal((len(owner), 6))
    # A caption is near its picture, so that copies take each other's place.
    texts = texts + 2 * table[picture[owner]]
    names = [f"caption {j}" for j in range(len(owner))]
    examples = [
        dataclasses.replace(one, image=pixels(number))
        for one, number in zip(captioned(range(14), owner, names), picture, strict=True)
    ]
    params = variables(table, texts)
    inputs = Inputs(table_encoder(names), Data(examples))
    options = {"protocols": ("standard", "pair_diagonal")}
    result = retrieval.make(inputs, same_image=True, **options).run(params)
    usual = retrieval.make(inputs, **options).run(params)
    # The digests are of the same pass; threads read in any order.
    assert sorted(inputs.source.reads) == [*range(14)]

    found = values(result)
    for name, value in expected(table[picture], texts, owner, picture).items():
        assert found[f"same_image/{name}"] == pytest.approx(value), name
    same = {k: x for k, x in result.metrics.items() if not k.startswith("same_image")}
    assert same == usual.metrics
    assert found["same_image/mean_recall@1"] > found["mean_recall@1"]
    assert not [name for name in found if "pair_diagonal/same_image" in name]
    counts = np.bincount(picture, minlength=8)
    guessed = chances(result)["same_image/text_to_image_recall@1"]
    assert guessed == pytest.approx(np.mean(counts[picture[owner]] / 14))
    # Rows hold the right answers, and give the numbers again.
    rows = result.rows
    kinds = zip(rows["protocol"], rows["direction"], strict=True)
    wanted = ("standard/same_image", "text_to_image")
    at = [place for place, kind in enumerate(kinds) if kind == wanted]
    assert [list(rows["right"][place]) for place in at] == [
        np.flatnonzero(picture == picture[image]).tolist() for image in owner
    ]
    again = row_metrics.of("same_image/mean_recall@1", rows)
    assert again.metric == pytest.approx(found["same_image/mean_recall@1"])


def test_folds_and_both_readings(monkeypatch):
    """A copy in another fold is no answer; both readings stand beside the usual one."""
    published = Published(4, folds=2, captions=1)
    monkeypatch.setitem(galleries.PUBLISHED, "coco_1k_5fold", published)
    # Images 0, 1 and, in the other fold, 3 are copies; 0 and 3 have one caption.
    numbers, words = [0, 0, 1, 0], ["a", "b", "c", "a"]
    examples = [
        Example(pixels(n), [word], key=f"image {i}")
        for i, (n, word) in enumerate(zip(numbers, words, strict=True))
    ]
    params = variables(np.eye(2), [[0.5, 0], [1, 0], [0, 1]])  # of a, b, c
    inputs = Inputs(table_encoder(["a", "b", "c"]), Data(examples))
    options = {"same_image": True, "same_caption": True, "ks": (1,)}
    evaluator = retrieval.make(
        inputs, protocols=("coco_1k_5fold", "standard"), **options
    )
    result = evaluator.run(params)
    found = values(result)
    start, name = "coco_1k_5fold/", "text_to_image_recall@1"
    assert found[start + name] == (1 / 2 + 1) / 2  # copies tie in the first fold
    assert found[f"{start}same_image/{name}"] == 1
    assert found[f"{start}same_caption/{name}"] == found[start + name]
    assert found[name] == (3 / 3 + 1) / 4
    assert found[f"same_image/{name}"] == 1
    # a's two images are among the three that tie: 2/3 twice; b's is one, c's alone.
    assert found[f"same_caption/{name}"] == pytest.approx((2 / 3 * 2 + 1 / 3 + 1) / 4)
    assert evaluator.metric_units().keys() == found.keys()


def test_digests_tell_files_and_arrays_apart():
    array = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    one = image_digests.digest(Example(array))
    assert one == image_digests.digest(Example(array.copy()[::1]))
    assert one == image_digests.digest(Example(np.asfortranarray(array)))
    others = [array.reshape(1, 4, 3), array + 1, array.tobytes(), b"", bytearray(b"x")]
    digests = {image_digests.digest(Example(other)) for other in others}
    assert len(digests | {one}) == 6


class Faulty(Data):
    def __getitem__(self, index):
        if index == 1:
            raise BadExample("is gone", "image 1")
        return super().__getitem__(index)


def test_reading_without_decoding():
    data = Faulty([Example(BROKEN), Example(b"x"), Example(pixels(3)), Example(BROKEN)])
    found = image_digests.read(data, [3, 1, 0, 2])
    assert isinstance(found[1], BadExample) and found[1].reason == "is gone"
    assert found[0] == found[2] != found[3]
