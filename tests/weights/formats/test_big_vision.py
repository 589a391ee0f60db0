"""big_vision's files against the same networks of Flax's own layers."""

from __future__ import annotations

import functools
from typing import Any

import big_vision_tools as tools
import jax
import numpy as np
import pytest
import tower_tools
from marks import mostly
from tower_tools import assert_comes_back, assert_near

from clipjax.types import UserError
from clipjax.weights import model_description, read_model, read_tower, rename_table
from clipjax.weights.formats import big_vision_siglip

VOCAB, LENGTH = 17, 6


def save(folder, arrays):
    path = folder / "model.npz"
    np.savez(path, **arrays)
    return str(path)


@functools.cache
def image_case(pool, **options):
    """A network: images uint8 [2 h w 3], its parameters, and what it gives for the
    images in [-1, 1].
    """
    module = tools.Image(pool, **options)
    size = 3 * module.patch if module.learned else 224
    draw = np.random.default_rng(0)
    image = draw.integers(0, 256, (2, size, size, 3), "u1")
    params = tools.noisy(module, normalised(image))
    found = jax.jit(module.apply)({"params": params}, normalised(image))
    return image, tools.named(params), jax.tree.map(np.asarray, found)


def normalised(image):
    return (image / 127.5 - 1).astype("f4")


@functools.cache
def text_case():
    module = tools.Text(VOCAB)
    text = np.random.default_rng(0).integers(0, VOCAB, (3, LENGTH), "i4")
    params = tools.noisy(module, text)
    found = jax.jit(module.apply)({"params": params}, text)
    return text, tools.named(params), jax.tree.map(np.asarray, found)


def prefixed(arrays, prefix):
    return {prefix + name: array for name, array in arrays.items()}


def check(path, arrays, side, inputs, outputs):
    found, params, stats = read_tower.read_tower(path, side)
    assert stats == {}
    seen = tower_tools.apply(read_tower.build(found), {"params": params}, *inputs)
    assert_near(seen["pooled"], outputs["pooled"], "pooled")
    assert_near(seen["tokens"], outputs["tokens"], "tokens")
    assert_comes_back(arrays, found, params, stats)
    return found


@pytest.mark.parametrize(
    ("pool", "prefix", "change"),
    mostly(
        [
            ("map", "params/img/", tools.stacked),
            ("gap", "params/", dict),
            ("tok", "opt/target/", dict),
            ("old", "", tools.numbered),
        ],
        [("map", "params/img/", tools.stacked)],
    ),
)
def test_image_towers(pool, prefix, change, tmp_path):
    image, arrays, outputs = image_case(pool, classes=0 if pool == "map" else 5)
    arrays = prefixed(change(arrays), prefix)
    others = {"params/t": np.zeros(1), "opt/state/step": np.ones(()), "extra/x": image}
    path = save(tmp_path, arrays | others)
    found = check(path, arrays, "image", (normalised(image),), outputs)
    assert found.mean == found.std == (0.5, 0.5, 0.5)
    if pool == "map":
        assert found.num_classes == 0
        return
    path = save(tmp_path, arrays)
    _, model, variables = read_tower.read_classifier(path)
    head = variables["params"]["head"]
    assert_near(outputs["pooled"] @ head["kernel"] + head["bias"], outputs["logits"])
    with pytest.raises(UserError, match="pre_logits/kernel"):
        more = {f"{prefix}pre_logits/kernel": np.ones((2, 2), "f4")}
        read_tower.read_classifier(save(tmp_path, arrays | more))


def test_fixed_positions(tmp_path):
    image, arrays, outputs = image_case("gap", patch=112, learned=False)
    path = save(tmp_path, arrays)
    found = check(path, arrays, "image", (normalised(image),), outputs)
    assert found.size == 224 and found.options["positions"] == "sincos"


@pytest.mark.thorough
def test_a_class_token_that_training_gave_a_position(tmp_path):
    """It has none in the file, so the way back adds it to the token."""
    image, arrays, outputs = image_case("tok", classes=5)
    found, params, _ = read_tower.read_tower(save(tmp_path, arrays), "image")
    moved = np.random.default_rng(1).standard_normal(tools.WIDTH).astype("f4") / 100
    positions = params["positions"].copy()
    positions[0] = moved
    trained = {**params, "positions": positions}
    tower = read_tower.build(found)
    expected = tower_tools.apply(tower, {"params": trained}, normalised(image))[
        "pooled"
    ]
    assert np.abs(expected - outputs["pooled"]).max() > 1e-2
    back = read_tower.to_tensors(found, trained)
    _, params, _ = read_tower.read_tower(save(tmp_path, back), "image")
    again = tower_tools.apply(tower, {"params": params}, normalised(image))["pooled"]
    assert_near(again, np.asarray(expected))


@pytest.mark.parametrize(
    ("prefix", "change"), [("params/txt/", tools.stacked), ("params/", dict)]
)
def test_text_towers(prefix, change, tmp_path):
    text, arrays, outputs = text_case()
    arrays = prefixed(change(arrays), prefix)
    mask = np.arange(LENGTH)[None] < np.array([[1], [3], [LENGTH]])
    found = check(save(tmp_path, arrays), arrays, "text", (text, mask), outputs)
    assert (found.vocab_size, found.size) == (VOCAB, LENGTH)


def whole(change: Any = dict):
    """A file of both towers."""
    arrays = prefixed(change(image_case("map")[1]), "params/img/")
    arrays |= prefixed(change(text_case()[1]), "params/txt/")
    return arrays | {
        "params/t": np.array([1.5], "f4"),
        "params/b": np.array([-3], "f4"),
    }


@pytest.mark.parametrize("change", [dict, tools.stacked])
def test_both_towers(change, tmp_path):
    arrays = whole(change)
    path = save(tmp_path, arrays)
    found, variables = read_model.read_model(path)
    model = model_description.build(found)
    rules = big_vision_siglip.table(model, found.layout)
    back = rename_table.to_theirs(rules, variables)
    assert sorted(back) == sorted(arrays)
    assert all(back[name].tobytes() == arrays[name].tobytes() for name in arrays)
    params = variables["params"]
    assert params["logit_scale"] == np.float32(1.5)  # the logarithm of what multiplies
    assert params["logit_bias"] == -3
    assert model.module.heads == ("none", "affine")
    for side in ("image", "text"):
        alone, tower, _ = read_tower.read_tower(path, side)
        jax.tree.map(np.testing.assert_array_equal, tower, params[side])
        assert read_tower.build(alone) == getattr(model.module, side)
    _, _, outputs = text_case()
    head = params["text_projection"]
    assert_near(outputs["pooled"] @ head["kernel"] + head["bias"], outputs["logits"])
    rest = {name: x for name, x in arrays.items() if name != "params/t"}
    with pytest.raises(UserError, match="lacks params/t"):
        read_model.read_model(save(tmp_path, rest))


def test_stacked_layers_are_the_same_numbers(tmp_path):
    _, plain = read_model.read_model(save(tmp_path, whole()))
    _, found = read_model.read_model(save(tmp_path, whole(tools.stacked)))
    jax.tree.map(np.testing.assert_array_equal, found, plain)


def test_bfloat16(tmp_path):
    short, held = tools.as_bfloat16(prefixed(text_case()[1], "params/txt/"))
    found, params, stats = read_tower.read_tower(save(tmp_path, held), "text")
    assert params["positions"].dtype == np.float32
    assert_comes_back(short, found, params, stats)


@pytest.mark.parametrize("change", [dict, tools.stacked])
def test_every_array_counts(change, tmp_path):
    arrays = prefixed(change(image_case("map")[1]), "params/img/")
    for key in (
        "params/img/Transformer/encoderblock{}/MultiHeadDotProductAttention_0/key/bias",
        "params/img/MAPHead_0/probe",
    ):
        name = key.format("_1" if change is dict else "")
        rest = {x: array for x, array in arrays.items() if x != name}
        path = save(tmp_path, rest)
        with pytest.raises(UserError, match=f"lacks {name}"):
            read_tower.read_tower(path, "image")
        path = save(tmp_path, rest | {name: arrays[name][..., :-1]})
        with pytest.raises(
            UserError, match=f"{name} has shape .* and should have|must have|must be"
        ):
            read_tower.read_tower(path, "image")
    path = save(tmp_path, arrays | {"params/img/more": np.ones(3, "f4")})
    with pytest.raises(UserError, match="holds params/img/more"):
        read_tower.read_tower(path, "image")


def test_grids_that_vary(tmp_path):
    arrays = prefixed(image_case("map")[1], "params/img/")
    kernel = arrays["params/img/embedding/kernel"].reshape(-1, tools.WIDTH)
    path = save(tmp_path, arrays | {"params/img/embedding/kernel": kernel})
    with pytest.raises(UserError, match="NaFlex"):
        read_tower.read_tower(path, "image")
    path = save(tmp_path, prefixed(text_case()[1], "params/txt/"))
    with pytest.raises(
        UserError, match="holds a tower for side='text', not for side='image'"
    ):
        read_tower.read_tower(path, "image")
