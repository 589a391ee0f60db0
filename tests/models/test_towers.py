"""The image and text towers and their layers: masks, positions, pooling."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from marks import mostly
from model_tools import (
    LENGTH,
    VOCAB,
    encode_text,
    gradient,
    init,
    jit,
    make_batch,
    make_model,
    run,
)

from clipjax import registry, testing
from clipjax.models.common import layers
from clipjax.models.image import vit
from clipjax.models.text import transformer
from clipjax.testing import contract, tower_contract
from clipjax.types import UserError


@pytest.mark.parametrize("size", vit.SIZES)
def test_every_variant_has_heads_of_64_or_80(size):
    tower, text = (
        vit.make(32, variant=f"{size}/8"),
        transformer.make(9, 4, variant=size),
    )
    assert tower.patch == 8
    assert tower.width / tower.heads == (80 if size == "H" else 64)
    assert text.width / text.heads == 64


def test_initial_values():
    tower = transformer.make(VOCAB, LENGTH, width=96, heads=3, depth=3)
    text, mask = jnp.zeros((1, 1), jnp.int32), jnp.ones((1, 1), bool)
    start = jit(tower.init, static_argnums=3)
    text = start(jax.random.key(0), text, mask, False)["params"]
    block = text["transformer"]["block_2"]
    expected = [
        (text["token_embedding"], 0.02),
        (text["positions"], 0.01),
        (block["attention"]["qkv"]["kernel"], 96**-0.5),
        (block["attention"]["out"]["kernel"], 96**-0.5 * 6**-0.5),
        (block["mlp"]["fc1"]["kernel"], 192**-0.5),
        (block["mlp"]["fc2"]["kernel"], 96**-0.5 * 6**-0.5),
    ]
    for values, std in expected:
        assert abs(values.std() / std - 1) < 0.1
    assert not block["mlp"]["fc1"]["bias"].any()


def test_patches_are_cut_row_by_row():
    image = np.arange(2 * 4 * 6 * 3).reshape(2, 4, 6, 3)
    cut = layers.patches(jnp.asarray(image), 2)
    assert cut.shape == (2, 6, 12)
    np.testing.assert_array_equal(cut[1, 4], image[1, 2:4, 2:4].reshape(-1))


def test_pixels_that_fill_no_patch_are_left_out():
    sizes = {"variant": "B/4", "width": 16, "depth": 1, "heads": 2}
    whole = vit.make(16, **sizes)
    image = np.random.default_rng(0).standard_normal((2, 18, 19, 3), np.float32)
    inner = image[:, :16, :16]
    variables = jit(whole.init, static_argnums=2)(jax.random.key(0), inner, False)
    expected = jit(whole.apply, static_argnums=2)(variables, inner, False)
    tower = vit.make(18, crop_to_patches=True, **sizes)
    found = jit(tower.apply, static_argnums=2)(variables, image[:, :, :18], False)
    np.testing.assert_allclose(found["pooled"], expected["pooled"], atol=1e-6)
    with pytest.raises(UserError, match="image_size=18: must be a multiple"):
        vit.make(18, **sizes)


def test_fixed_positions():
    table = vit.sincos(3, 16)
    assert table.shape == (9, 16) and np.abs(table).max() <= 1
    np.testing.assert_array_equal(table[0], [0] * 4 + [1] * 4 + [0] * 4 + [1] * 4)
    # Column 2 of row 1: its first waves have wavelength 2 pi.
    np.testing.assert_allclose(table[5, [0, 8]], np.sin([2, 1]), rtol=1e-6)
    model = make_model(image={"positions": "sincos"})
    assert "positions" not in init(model)["params"]["image"]


SMALL = {"width": 16, "depth": 1, "heads": 2}
NARROW = {"depths": (1, 1, 1, 1)}
# Every tower of the registry, small; the first three run by default.
TOWERS = [
    ("image", "vit", {"variant": "B/4", "dropout": 0.3, "patch_dropout": 0.5, **SMALL}),
    ("image", "resnet", {"variant": "18", "width": 4, **NARROW}),
    ("text", "transformer", {"dropout": 0.3, **SMALL}),
    ("image", "modified_resnet", {"width": 2, "heads": 4, "output_dim": 6, **NARROW}),
    ("image", "convnext", {"width": 4, "drop_path": 0.3, **NARROW}),
    ("image", "eva", {"variant": "B/8", "dropout": 0.3, "patch_dropout": 0.5, **SMALL}),
    ("image", "eva", {"variant": "E/8", **SMALL}),
    ("text", "transformer", {"pool": "appended", **SMALL}),
    ("text", "bert", {"first_position": 2, "pool": "mean", **SMALL}),
    ("text", "bert", {"pool": "pooler", **SMALL}),
    ("text", "distilbert", SMALL),
]
CONTRACTS = [
    pytest.param(*case, marks=pytest.mark.slow if number > 2 else [])
    for number, case in enumerate(TOWERS)
]


def test_every_tower_is_here():
    for family in ("image", "text"):
        here = {name for kind, name, _ in TOWERS if kind == family}
        assert here == set(registry.names(family))


@pytest.mark.parametrize(("family", "name", "options"), CONTRACTS)
def test_contract(family, name, options):
    testing.check_tower(family, name, **options)


@pytest.mark.parametrize(
    "options",
    [
        {"causal": False, "pool": "mean"},
        {"causal": False, "pool": "cls"},
        {"pool": "mean"},
        {"causal": False, "pool": "eot"},
    ],
)
def test_padding_does_not_change_the_text(options):
    one = contract.component("text", "transformer", {**SMALL, **options})
    subject = tower_contract.TowerUnderTest(one)
    assert subject.tower.padding_invariant
    tower_contract.padding_is_as_declared(subject)


def test_last_position_pooling_depends_on_padding():
    model = make_model(text={"pool": "last"})
    assert not model.module.text.padding_invariant
    variables, batch = init(model), make_batch()
    outputs = encode_text(model, variables, batch["text"], batch["text_mask"])
    changed = batch["text"].copy()
    changed[:, -1] = 7
    other = encode_text(model, variables, changed, batch["text_mask"])
    assert np.abs(other["text_embed"] - outputs["text_embed"]).max() > 1e-3


def test_an_appended_token_sees_one_place_beyond_the_text():
    model = make_model(text={"pool": "appended"})
    assert not model.module.text.padding_invariant
    variables, batch = init(model), make_batch()
    text, mask = batch["text"], np.arange(LENGTH) < np.array([[3], [5], [8], [9]])
    assert variables["params"]["text"]["positions"].shape == (LENGTH + 1, 12)
    before = encode_text(model, variables, text, mask)
    assert before["text_tokens"].shape == (4, LENGTH, 12)
    for place in range(LENGTH):
        changed = text.copy()
        changed[:, place] = (changed[:, place] + 7) % VOCAB
        after = encode_text(model, variables, changed, mask)
        gap = np.abs(after["text_embed"] - before["text_embed"]).max(axis=1)
        seen = place <= mask.sum(axis=1)
        assert (gap[seen] > 1e-4).all() and (gap[~seen] < 1e-6).all()
    every = encode_text(model, variables, text, np.ones_like(mask))
    open_model = make_model(text={"pool": "appended", "masked": False})
    found = encode_text(open_model, variables, text, mask)
    np.testing.assert_allclose(found["text_embed"], every["text_embed"], atol=1e-6)


def test_end_of_text_is_the_last_valid_token():
    model = make_model()
    variables, batch = init(model), make_batch()
    outputs = encode_text(model, variables, batch["text"], batch["text_mask"])
    last = batch["text_mask"].sum(axis=1) - 1
    at_end = np.asarray(outputs["text_tokens"])[np.arange(4), last]
    kernel = variables["params"]["text_projection"]["kernel"]
    np.testing.assert_allclose(outputs["text_features"], at_end @ kernel, atol=1e-5)


def test_causal_attention_sees_no_later_token():
    model = make_model()
    variables, batch = init(model), make_batch()
    changed = batch["text"].copy()
    changed[:, 4] = 30 - changed[:, 4]
    mask = np.ones_like(batch["text_mask"])
    first = encode_text(model, variables, batch["text"], mask)["text_tokens"]
    second = encode_text(model, variables, changed, mask)["text_tokens"]
    np.testing.assert_allclose(first[:, :4], second[:, :4], atol=1e-6)
    assert np.abs(first[:, 5:] - second[:, 5:]).max() > 1e-3


@pytest.mark.parametrize("pool", mostly(["eot", "mean", "cls", "appended"], ["eot"]))
def test_a_text_without_tokens_gives_finite_gradients(pool):
    model = make_model(text={"causal": False, "pool": pool})
    variables, batch = init(model), make_batch()
    batch["text_mask"][1] = False
    grads = gradient(model, variables, batch)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))
    assert any(np.any(leaf) for leaf in jax.tree.leaves(grads["params"]["text"]))


def test_attention_is_softmax_attention():
    draw = np.random.default_rng(0)
    query, key, value = jnp.asarray(draw.standard_normal((3, 2, 5, 3, 4)), "f4")
    mask = jnp.array([[1, 1, 1, 0, 0], [1, 0, 1, 0, 1]], bool)
    for causal, key_mask in ((False, None), (True, None), (False, mask), (True, mask)):
        expected = jax.nn.dot_product_attention(
            query,
            key,
            value,
            is_causal=causal,
            mask=None if key_mask is None else key_mask[:, None, None],
        )
        found = layers.attention(query, key, value, causal, key_mask)
        np.testing.assert_allclose(found, expected, atol=1e-5)
    # Logits this large overflow an exponential that is not shifted.
    assert np.isfinite(layers.attention(100 * query, 100 * key, value)).all()


def test_layer_norm_survives_a_large_mean():
    layer = layers.LayerNorm()
    x = np.random.default_rng(0).standard_normal((3, 64))
    variables = layer.init(jax.random.key(0), jnp.zeros((1, 64)))
    found = layer.apply(variables, jnp.asarray(x + 1000, jnp.float32))
    centred = x - x.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(found, centred / x.std(axis=1, keepdims=True), atol=1e-3)


def test_patch_dropout_keeps_the_class_token():
    model = make_model(image={"patch_dropout": 0.75})
    variables, batch = init(model), make_batch()
    full = run(model, variables, batch)
    few = run(model, variables, batch, True, jax.random.key(0))
    assert full["image_tokens"].shape == (4, 16, 16)
    assert few["image_tokens"].shape == (4, 4, 16)
    # Without a single block, pooling sees the class token alone: it must be there.
    shallow = dict(variables["params"])
    blocks = jax.tree.map(jnp.zeros_like, shallow["image"]["transformer"])
    shallow["image"] = shallow["image"] | {"transformer": blocks}
    shallow = {"params": shallow}
    calm = run(model, shallow, batch)
    drawn = run(model, shallow, batch, True, jax.random.key(0))
    np.testing.assert_allclose(drawn["image_embed"], calm["image_embed"], atol=1e-6)


def test_kept_patches_are_distinct_and_differ_by_row():
    x = jnp.broadcast_to(jnp.arange(20.0)[None, :, None], (6, 20, 2))
    kept = np.asarray(vit.keep_some(x, 7, jax.random.key(0)))[:, :, 0]
    assert all(len(set(row)) == 7 for row in kept)
    assert len({tuple(sorted(row)) for row in kept}) > 1
