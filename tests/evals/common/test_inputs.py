"""Evaluators of one source read and encode its images once."""

import numpy as np
import pytest
from evals_tools import BROKEN, Data, PooledTable, pixels, table_encoder

import run_tools
from clipjax.engine import assemble, datasets
from clipjax.evals import retrieval, zeroshot
from clipjax.evals.common.inputs import Inputs
from clipjax.types import Example, UserError

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


def encoder(**options):
    """And how many rows of images and of texts it has encoded."""
    made = table_encoder(CAPTIONS + PROMPTS, **options)
    counts = {"images": 0, "texts": 0}
    for name in ("images", "texts", "pooled_texts"):
        original = getattr(made, name)

        def counting(*args, name=name, encode=original, **options):
            rows = args[2] if name == "images" else args[1]
            counts[name.removeprefix("pooled_")] += len(rows)
            return encode(*args, **options)

        setattr(made, name, counting)
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


def test_pooled_features_come_from_the_same_pass():
    data, (made, counts) = source(), encoder(model=PooledTable())
    inputs, mine = Inputs(made, data), variables()
    evaluator = retrieval.make(inputs)
    inputs.need_pooled("image", "text")  # by the `make` of another evaluator
    evaluator.run(mine)
    assert counts == {"images": 6, "texts": 5}
    seen = inputs.images(mine, range(7))
    assert counts["images"] == 7 and np.bincount(data.reads).tolist() == [1] * 7
    whole = [0, 1, 3, 4, 5, 6]
    np.testing.assert_array_equal(seen.pooled[whole], -mine["params"]["image"][whole])
    assert not seen.pooled[2].any()
    less = seen.without(lambda place: "odd" if place == 5 else "")
    assert not less.pooled[[2, 5]].any() and seen.pooled[5].any()
    texts = [CAPTIONS[i] for i in (0, 1, 3, 4, 6)]
    pooled = inputs.pooled_texts(mine, texts)
    np.testing.assert_array_equal(pooled, -inputs.texts(mine, texts))
    assert counts["texts"] == 5
    assert inputs.images(mine, []).pooled.shape == (0, 0)
    # Asked for later, what was encoded without is encoded again, never mixed.
    late = Inputs(made, data)
    assert late.images(mine, [0]).pooled is None
    with pytest.raises(UserError, match='need_pooled."text". first'):
        late.pooled_texts(mine, texts)
    late.need_pooled("image")
    assert late.images(mine, [0, 1]).pooled.shape == (2, 4)
    with pytest.raises(UserError, match="no pooled features of its text side"):
        Inputs(encoder()[0], data).need_pooled("text")


def test_evaluators_of_equal_data_share_a_source():
    config = run_tools.tiny("evals=retrieval@scenes+zeroshot@scenes", evals=True)
    config.evals.zeroshot.data.split = config.evals.retrieval.data.split
    own = datasets.own_sources(config, None)
    assert own["retrieval"] is own["zeroshot"]
    shared = source()
    with config.unlocked():
        config.data.eval = config.evals.zeroshot.data.copy_and_resolve_references()
    assert set(datasets.own_sources(config, shared).values()) == {shared}
    config.evals.zeroshot.data.split = "val"
    config.evals.retrieval.data.split = "heldout"
    own = datasets.own_sources(config, None)
    assert own["retrieval"] is not own["zeroshot"]
