"""Evaluators of one source read and encode its images once."""

import numpy as np
import pytest
from evals_tools import BROKEN, Data, pixels, table_encoder

import run_tools
from clipjax.engine import assemble
from clipjax.evals import retrieval, zeroshot
from clipjax.evals.common.inputs import Inputs
from clipjax.types import Example

CAPTIONS = [f"caption {i}" for i in range(7)]
PROMPTS = ["a disc", "a star"]


def source():
    """Seven examples; one cannot be read, one has a wrong label, one no caption."""
    return Data(
        [
            Example(
                BROKEN if i == 2 else pixels(i),
                [] if i == 5 else [CAPTIONS[i]],
                {"shape": 9 if i == 3 else i % 2},
                f"image {i}",
            )
            for i in range(7)
        ],
        {"shape": ["disc", "star"]},
        {"shape": ("a {}",)},
    )


def encoder():
    """And how many rows of images and of texts it has encoded."""
    made, counts = table_encoder(CAPTIONS + PROMPTS), {"images": 0, "texts": 0}
    for side, encode in (("images", made.images), ("texts", made.texts)):

        def counting(*args, side=side, encode=encode, **options):
            counts[side] += len(args[2] if side == "images" else args[1])
            return encode(*args, **options)

        setattr(made, side, counting)
    return made, counts


def variables(seed=0):
    draw = np.random.default_rng(seed).standard_normal((17, 4)).astype(np.float32)
    return {"params": {"image": draw[:7], "text": draw[7:]}}


def test_a_run_encodes_each_image_once_for_all_evaluators():
    config = run_tools.tiny("evals=retrieval+zeroshot", evals=True)
    data, (made, counts) = source(), encoder()
    together = assemble.evaluators(config, made, data, {})
    found = together.run(variables())
    assert np.bincount(data.reads).tolist() == [1] * 7
    assert counts == {"images": 7, "texts": 5 + 2}
    # The same numbers as alone, where six and seven are encoded.
    alone = {
        "retrieval": retrieval.make(Inputs(encoder()[0], source())),
        "zeroshot": zeroshot.make(Inputs(encoder()[0], source())),
    }
    assert found == {name: one.run(variables()) for name, one in alone.items()}
    assert found["retrieval"].broken == 1 and found["zeroshot"].broken == 2
    # An evaluation later nothing of this one is left.
    assert together.run(variables(1)) != found
    assert np.bincount(data.reads).tolist() == [2] * 7


def test_evaluators_of_other_data_have_inputs_of_their_own():
    config = run_tools.tiny("evals=retrieval+zeroshot", evals=True)
    shared, own, (made, _) = source(), source(), encoder()
    assemble.evaluators(config, made, shared, {"zeroshot": own}).run(variables())
    assert np.bincount(shared.reads).tolist() == [1, 1, 1, 1, 1, 0, 1]
    assert np.bincount(own.reads).tolist() == [1] * 7


def test_what_inputs_give():
    inputs = Inputs(table_encoder(CAPTIONS), source())
    mine, seen = variables(), []
    found = inputs.images(mine, [6, 2, 3], progress=lambda *done: seen.append(done))
    np.testing.assert_array_equal(found.embed[[0, 2]], mine["params"]["image"][[6, 3]])
    assert found.valid.tolist() == [True, False, True] and not found.embed[1].any()
    assert found.captions == [["caption 6"], [], ["caption 3"]]
    assert found.labels == [{"shape": 0}, {}, {"shape": 9}]
    assert found.keys == ["image 6", "", "image 3"] and seen[-1] == (3, 3)
    assert found.broken == {1: ("image 2", "cannot be decoded")}
    less = found.without(lambda place: "no such shape" if place == 2 else "")
    assert list(less.broken) == [1, 2] and less.broken[2][0] == "image 3"
    assert found.valid[2] and not less.valid[2] and not less.embed[2].any()
    # A part of it again, with one more: only that one is read.
    inputs.images(mine, [3, 4, 6], progress=lambda *done: seen.append(done))
    assert sorted(inputs.source.reads) == [2, 3, 4, 6]
    texts = inputs.texts(mine, CAPTIONS[:2])
    assert inputs.texts(mine, CAPTIONS[:2]) is texts
    with pytest.raises(ValueError, match="read-only"):
        texts[0] = 0
    assert inputs.texts(variables(), CAPTIONS[:2]) is not texts
