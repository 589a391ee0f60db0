"""LoRA: fresh additions change nothing, train alone, and merge into plain kernels."""

import jax
import jax.numpy as jnp
import model_tools
import numpy as np
import pytest
from checkpoint_helpers import bits
from shape_checks import unchecked

import clipjax
import run_tools
import tiny
from clipjax import param_paths, registry
from clipjax.engine import assemble
from clipjax.models.common import lora
from clipjax.models.common.frozen import freeze
from clipjax.types import UserError

ON = r"/(qkv|fc1)/kernel$"


def variables_and_model():
    base = tiny.model()
    model = lora.add(base, rank=2, alpha=6.0, on=ON)
    return base, model, jax.jit(model.init)(jax.random.key(0))


@pytest.mark.thorough
def test_fresh_additions_change_nothing():
    base, model, fresh = variables_and_model()
    plain = jax.jit(base.init)(jax.random.key(0))
    batch = tiny.batch(4)
    ours, theirs = (
        model_tools.run(model, fresh, batch),
        model_tools.run(base, plain, batch),
    )
    for name in ("image_embed", "text_embed"):
        np.testing.assert_array_equal(ours[name], theirs[name])


@pytest.mark.thorough
def test_merged_by_hand():
    base, model, fresh = variables_and_model()
    place = ("image", "transformer", "block_0", "mlp", "fc1", "kernel")
    addition, kernel = fresh["params"]["lora"], fresh["params"]
    for name in place:
        addition, kernel = addition[name], kernel[name]
    assert addition["down"].shape == (32, 2) and addition["up"].shape == (2, 128)
    addition["up"] = jnp.ones((2, 128))
    merged = model.merge(fresh)
    shapes = jax.eval_shape(base.init, jax.random.key(0))
    assert jax.tree.structure(merged) == jax.tree.structure(shapes)
    found = merged["params"]
    for name in place:
        found = found[name]
    down = np.asarray(addition["down"], np.float64)
    expected = np.asarray(kernel) + 3.0 * down.sum(axis=1)[:, None]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    image = tiny.batch(2)["image"]
    ours, theirs = (
        jax.jit(one.encode_image)(variables, image)["image_embed"]
        for one, variables in ((model, fresh), (base, merged))
    )
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)


@pytest.mark.thorough
def test_only_additions_and_heads_train(tmp_path):
    with run_tools.one_device():
        config = run_tools.tiny("optim=sgd", lora__rank=2)
        said = run_tools.train(config, tmp_path / "run")
        first, _ = assemble.load_state(tmp_path / "run", "6")
        last, _ = assemble.load_state(tmp_path / "run", "latest")
        loaded = clipjax.load(tmp_path / "run")
        source = registry.load("data", "scenes")("heldout", eval_size=4, resolution=16)
        embed = loaded.encode_image([source[0].image])
    assert said.outcome.step == 8
    assert np.linalg.norm(embed) == pytest.approx(1)
    for name, before in first["params"].items():
        after = last["params"][name]
        same = [
            bits(a) == bits(b)
            for a, b in zip(
                jax.tree.leaves(before), jax.tree.leaves(after), strict=True
            )
        ]
        assert all(same) if name in ("image", "text") else not any(same)


def test_what_cannot_be_added():
    with pytest.raises(UserError, match="matches no kernel"):
        lora.add(tiny.model(), rank=2, alpha=1.0, on="nothing")
    with pytest.raises(UserError, match="must be above 0"):
        lora.add(tiny.model(), rank=2, alpha=0.0, on=ON)
    with pytest.raises(UserError, match="lora.rank=2.5: must be an integer"):
        with unchecked():
            lora.add(tiny.model(), rank=2.5, alpha=1.0, on=ON)
    with pytest.raises(UserError, match="no regular expression"):
        lora.add(tiny.model(), rank=2, alpha=1.0, on="(")


@pytest.mark.thorough
def test_dropout_goes_on_around_kernels_with_additions():
    model = lora.add(tiny.model(dropout=0.5), rank=2, alpha=6.0, on="image/.*/fc1")
    variables = model_tools.init(model)
    names = frozenset(
        name
        for name in param_paths.flatten(variables["params"])
        if name.startswith(("image/", "text/"))
    )
    trained, batch = freeze(model, names), tiny.batch(4)
    one, other = (
        model_tools.run(trained, variables, batch, True, jax.random.key(seed))
        for seed in (0, 1)
    )
    assert np.abs(one["image_embed"] - other["image_embed"]).max() > 0.01
    np.testing.assert_array_equal(one["text_embed"], other["text_embed"])
