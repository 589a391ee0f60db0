"""Models as other formats can hold them give the embeddings that they gave before."""

from __future__ import annotations

import jax
import model_tools
import numpy as np
import pytest
from marks import mostly

from clipjax import config
from clipjax.data.tokenizers import words
from clipjax.types import UserError
from clipjax.weights import model_description, read_model, write_model
from clipjax.weights.beside.tokenizer_files import Ends
from clipjax.weights.formats import equivalents

TEXTS = ["a red dog", "the cat sat on a mat and it is big", "x", "two birds in the sun"]
BOTH_WAYS = {"causal": False}
CASES = {
    # As configs/flickr8k_vit.py:size=cpu.
    "means": (
        {"pool": "mean", "positions": "sincos", "depth": 2},
        {"pool": "mean", "depth": 2} | BOTH_WAYS,
        {},
    ),
    "causal_mean": ({"pool": "mean", "pre_norm": False}, {"pool": "mean"}, {}),
    "head": ({"positions": "sincos"}, {"pool": "mean"}, {"text_head": "affine"}),
    "mask": ({}, {"pool": "eot"} | BOTH_WAYS, {"text_head": "affine"}),
}


def embeddings(model, variables, ids, mask):
    image = model_tools.make_batch(len(ids))["image"]
    batch = {"image": image, "text": ids, "text_mask": mask}
    found = model_tools.run(model, variables, batch)
    return [np.asarray(found[f"{side}_embed"]) for side in ("image", "text")]


@pytest.mark.parametrize("name", mostly(CASES, ["means"]))
def test_written_for_open_clip_and_read_again(tmp_path, name):
    image, text, options = CASES[name]
    tokenizer = words.make(lambda: TEXTS, None, context_length=10)
    chosen = config.base(None, tokenizer="words", preprocess="clip")
    size = {"vocab": tokenizer.vocab_size, "length": 10}
    model = model_tools.make_model(image, text, **size, **options)
    variables = model_tools.init(model)
    out = tmp_path / "out"
    notes = write_model.write(out, "open_clip", chosen, model, variables, tokenizer)
    assert len(notes) == (image.get("pool") == "mean") + 1
    found, read = read_model.read_model(str(out))
    again = model_description.to_config(found, str(out)).data.tokenizer
    theirs = config.create("tokenizer", again, None, None)
    ids, mask = tokenizer(TEXTS)
    assert mask.all(axis=1).any() and (~mask).any()  # a full text and padding
    before = embeddings(model, variables, ids, mask)
    after = embeddings(model_description.build(found), read, *theirs(TEXTS))
    for one, other in zip(before, after, strict=True):
        assert np.ptp(one, axis=0).max() > 0.1  # they differ from each other
        np.testing.assert_allclose(one, other, atol=2e-5)


@pytest.mark.thorough
def test_fixed_positions_become_a_table():
    model = model_tools.make_model({"positions": "sincos"})
    variables = model_tools.init(model)
    made, new = equivalents.learned_positions(model, variables)
    assert made.module.image.positions == "learned"
    table = new["params"]["image"]["positions"]
    assert not table[0].any() and table[1:].any(axis=1).all()  # no class token's
    shapes = jax.eval_shape(made.init, jax.random.key(0))["params"]["image"]
    assert table.shape == shapes["positions"].shape
    batch = model_tools.make_batch()
    ours = embeddings(model, variables, batch["text"], batch["text_mask"])
    theirs = embeddings(made, new, batch["text"], batch["text_mask"])
    np.testing.assert_array_equal(ours[0], theirs[0])


@pytest.mark.thorough
def test_the_number_taken_off_hides_tokens(monkeypatch):
    """Without it the class token and the padding are seen, and embeddings change."""
    image, text, _ = CASES["means"]
    model = model_tools.make_model(image, text)
    variables = model_tools.init(model)
    learned = equivalents.learned_positions(model, variables)
    monkeypatch.setattr(equivalents, "HIDE", 0.0)
    made, new = equivalents.for_open_clip(*learned, Ends(1, 2, 0))
    batch = model_tools.make_batch()
    ours = embeddings(model, variables, batch["text"], batch["text_mask"])
    theirs = embeddings(made, new, batch["text"], batch["text_mask"])
    for one, other in zip(ours, theirs, strict=True):
        assert np.abs(one - other).max() > 1e-3


def test_what_is_left_as_it_is():
    plain = model_tools.make_model()
    ends = Ends(1, 2, 0)
    assert equivalents.for_open_clip(plain, None, ends)[0] == plain
    for image, text in [
        ({"pool": "mean", "post_norm": True, "pre_norm": False}, {"post_norm": True}),
        ({"pool": "mean", "patch_bias": True}, {"pool": "mean", "norm_pooled": True}),
        ({}, {"causal": False, "pool": "last"}),
        ({}, {"causal": False, "pool": "mean", "masked": False}),
    ]:
        model = model_tools.make_model(image, text)
        assert equivalents.for_open_clip(model, None, ends)[0] == model
    mean = model_tools.make_model(text={"pool": "mean"})
    with pytest.raises(UserError, match="pads with token 2, which also begins or ends"):
        equivalents.for_open_clip(mean, None, Ends(1, 2, 2))
