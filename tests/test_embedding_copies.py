"""Images of like embeddings in two folders, against a brute force."""

import numpy as np
import pyarrow
import pytest

import clipjax
from clipjax import embedding_copies
from clipjax.embeddings import header, parts
from clipjax.types import UserError

MODEL = {"name": "m", "weights": "1", "settings": "2", "preprocess": "3"}
MODEL |= {"tokenizer": "4"}


def stored(folder, images, *, model=MODEL, output="image_embed", broken=(), split="x"):
    """A folder of embeddings [n e] in parts of 3, whose keys are SPLIT/NUMBER."""
    data = {"name": "scenes", "split": split, "options": {}}
    data["fingerprint"] = {"examples": len(images)}
    head = header.Header(
        model, data, output, len(images), 3, ("embed",), str(images.dtype), False
    )
    folder.mkdir()
    header.write_once(folder, head)
    for number in range(head.parts):
        rows = list(head.rows_of(number))
        table = {
            "index": rows,
            "key": [f"{split}/{i}" for i in rows],
            "captions": pyarrow.array(
                [[] for _ in rows], pyarrow.list_(pyarrow.string())
            ),
            "valid": [i not in broken for i in rows],
            "reason": ["torn" if i in broken else "" for i in rows],
        }
        place = folder / head.part_name(number)
        parts.write(place, {"images": images[rows]}, pyarrow.table(table))
    return folder


def directions(seed, count, dtype=np.float32):
    made = np.random.default_rng(seed).normal(size=(count, 6))
    return (made / np.linalg.norm(made, axis=1, keepdims=True)).astype(dtype)


def brute(ours, theirs, least, broken=()):
    """{(number, other's number): cosine} of the usable ones."""
    found = {}
    for i, one in enumerate(ours.astype(float)):
        for j, other in enumerate(theirs.astype(float)):
            cosine = one @ other / np.linalg.norm(one) / np.linalg.norm(other)
            if cosine >= least and j not in broken:
                found[f"test/{i}", f"train/{j}"] = cosine
    return found


@pytest.mark.parametrize("rows", [8192, 4])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_the_pairs_are_those_of_a_brute_force(dtype, rows, tmp_path, monkeypatch):
    monkeypatch.setattr(embedding_copies, "_ROWS", rows)
    ours, theirs = directions(0, 7, dtype), directions(1, 11, dtype)
    theirs[[2, 9]] = ours[3]  # copies, of which one is broken
    broken = (9,)
    first = stored(tmp_path / "a", ours, split="test")
    second = stored(tmp_path / "b", theirs, split="train", broken=broken)
    found = clipjax.find_similar(first, second, min_cosine=0.5)
    expected = brute(ours, theirs, 0.5, broken)
    assert {pair[:2] for pair in found} == expected.keys() and len(found) > 5
    for pair in found:
        assert pair.cosine == pytest.approx(expected[pair[:2]], abs=1e-5)
    order = [(pair.key, -pair.cosine) for pair in found]
    assert order == sorted(order)
    best = clipjax.find_similar(first, second, min_cosine=0.999)
    assert [pair[:2] for pair in best] == [("test/3", "train/2")]


def test_what_is_not_finite_is_in_no_pair(tmp_path):
    ours, theirs = directions(0, 4), directions(0, 5)[:4]
    ours[1], theirs[2], ours[3] = np.nan, np.inf, 0
    first = stored(tmp_path / "a", ours, split="test")
    second = stored(tmp_path / "b", theirs, split="train")
    found = clipjax.find_similar(first, second, min_cosine=0.99)
    assert [pair[:2] for pair in found] == [("test/0", "train/0")]


def test_folders_that_cannot_be_compared_are_refused(tmp_path, monkeypatch):
    ours = stored(tmp_path / "a", directions(0, 4), split="test")

    def refused(words, *folders, **options):
        with pytest.raises(UserError, match=words) as error:
            clipjax.find_similar(*folders, **{"min_cosine": 0.9, **options})
        assert "\n" not in str(error.value)

    other = stored(tmp_path / "b", directions(1, 4), model=MODEL | {"weights": "9"})
    refused("b is of a model with other weights", ours, other)
    same = stored(tmp_path / "c", directions(1, 4), split="test")
    refused("c are of the same data", ours, same)
    logits = stored(tmp_path / "d", directions(1, 4), output="logits")
    refused("d is of a classifier", ours, logits)
    refused("e holds no embeddings", ours, tmp_path / "e")
    train = stored(tmp_path / "f", directions(0, 4), split="train")
    for wrong in (0, 1, -0.5, float("nan")):
        refused("min_cosine=.*: use a number", ours, train, min_cosine=wrong)
    monkeypatch.setattr(embedding_copies, "MOST_PAIRS", 3)
    refused("more than 3 pairs have it", ours, train, min_cosine=0.9)
