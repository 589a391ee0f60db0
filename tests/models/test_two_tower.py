"""The two-tower model: outputs, precision, randomness, devices, mistakes."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from model_tools import (
    LENGTH,
    assert_close,
    clip_loss,
    encode_text,
    gradient,
    init,
    jit,
    make_batch,
    make_model,
    run,
)

from clipjax import registry, testing
from clipjax.models import two_tower
from clipjax.models.image import vit
from clipjax.models.text import transformer
from clipjax.types import UserError


@pytest.mark.parametrize(
    ("variant", "embed_dim", "count"),
    [
        ("B/16", 512, 149_620_737),
        ("B/32", 512, 151_277_313),
        ("L/14", 768, 427_616_513),
        ("H/14", 1024, 986_109_441),
    ],
)
def test_published_parameter_counts(variant, embed_dim, count):
    text = transformer.make(49_408, 77, variant=variant[0])
    model = two_tower.make(vit.make(224, variant=variant), text, embed_dim=embed_dim)
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == count
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype("float32")}


def test_parameter_paths():
    params = init(make_model())["params"]
    assert sorted(params) == [
        "image",
        "image_projection",
        "logit_scale",
        "text",
        "text_projection",
    ]
    block = params["image"]["transformer"]["block_0"]
    assert block["attention"]["qkv"]["kernel"].shape == (16, 48)
    assert block["mlp"]["fc1"]["kernel"].shape == (16, 64)


def test_outputs():
    model = make_model(logit_scale_init=20.0, logit_bias_init=-10.0)
    scale = jit(lambda: model.init(jax.random.key(0))["params"]["logit_scale"])()
    assert scale == pytest.approx(np.log(20.0))
    fresh = {"logit_scale": scale, "logit_bias": np.float32(-10)}
    variables = {"params": init(model)["params"] | fresh}
    outputs, state = jit(model.apply, static_argnums=2)(
        variables, make_batch(), True, jax.random.key(0)
    )
    assert state == {}
    assert outputs["logit_scale"] == pytest.approx(20.0)
    assert outputs["logit_bias"] == -10.0
    for side in ("image", "text"):
        embed, features = outputs[f"{side}_embed"], outputs[f"{side}_features"]
        assert embed.shape == (4, 8) and embed.dtype == jnp.float32
        np.testing.assert_allclose(np.linalg.norm(embed, axis=1), 1, rtol=1e-6)
        norms = np.linalg.norm(features, axis=1, keepdims=True)
        np.testing.assert_allclose(features / norms, embed, rtol=1e-5, atol=1e-6)
    assert outputs["image_tokens"].shape == (4, 16, 16)
    assert outputs["text_tokens"].shape == (4, LENGTH, 12)


def test_either_side_alone():
    model = make_model()
    variables, batch = init(model), make_batch()
    both = run(model, variables, batch)
    image = jit(model.encode_image)(variables, batch["image"])
    text = encode_text(model, variables, batch["text"], batch["text_mask"])
    np.testing.assert_allclose(image["image_embed"], both["image_embed"], atol=1e-6)
    np.testing.assert_allclose(text["text_embed"], both["text_embed"], atol=1e-6)
    assert "text_embed" not in image and "image_embed" not in text


def test_a_fixed_scale_is_no_parameter():
    model = make_model(learnable_scale=False, logit_scale_init=7.0)
    variables = init(model)
    assert "logit_scale" not in variables["params"]
    assert run(model, variables, make_batch())["logit_scale"] == 7.0


def test_images_are_normalised_with_mean_and_std():
    options = {"mean": (0.1, 0.2, 0.3), "std": (0.5, 0.25, 1.0)}
    model = make_model(**options)
    encode = jit(model.encode_image)
    variables, batch = init(model), make_batch()
    tower = model.module.image
    expected = (batch["image"] / 255 - options["mean"]) / options["std"]
    expected = jnp.asarray(expected)
    direct = tower.apply({"params": variables["params"]["image"]}, expected, False)
    found = encode(variables, batch["image"])["image_tokens"]
    np.testing.assert_allclose(found, direct["tokens"], rtol=1e-3, atol=1e-4)
    floats = encode(variables, (batch["image"] / 255).astype("f4"))["image_tokens"]
    np.testing.assert_allclose(floats, found, rtol=1e-4, atol=1e-5)
    with pytest.raises(TypeError, match="uint8"):
        encode(variables, batch["image"].astype("i4"))


def test_zero_features_give_finite_gradients():
    model = make_model()
    variables = jax.tree.map(np.zeros_like, init(model))
    grads = gradient(model, variables, make_batch())
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))


COCA = ({"pool": "query", "pool_width": 10, "pool_heads": 5}, {"pool": "appended"})


@pytest.mark.parametrize(
    ("image", "text"),
    [({}, {}), pytest.param(*COCA, marks=pytest.mark.thorough)],
    ids=["clip", "coca"],
)
def test_float64_parameters_compute_in_float64(image, text):
    model, batch = make_model(image, text), make_batch()
    with jax.enable_x64(True):
        variables = init(model, "float64")
        outputs = jax.device_get(run(model, variables, batch))
        exact = jax.device_get(gradient(model, variables, batch))
    for side in ("image", "text"):
        assert outputs[f"{side}_embed"].dtype == outputs[f"{side}_tokens"].dtype
        assert outputs[f"{side}_embed"].dtype == "float64"
        # A part computed in float32 would leave means of about 1e-8.
        norm = variables["params"][side]["post_norm"]
        normal = (outputs[f"{side}_tokens"] - norm["bias"]) / norm["scale"]
        assert np.abs(normal.mean(axis=-1)).max() < 1e-12
        norms = np.linalg.norm(outputs[f"{side}_embed"], axis=1)
        np.testing.assert_allclose(norms, 1, rtol=1e-14)
    assert all(np.any(leaf) for leaf in jax.tree.leaves(exact))
    assert_close(gradient(model, init(model), batch), exact, 1e-4)


def test_bfloat16_is_near_float32():
    exact_model, model = make_model(), make_model(precision="bfloat16")
    variables, batch = init(model), make_batch()
    exact, near = run(exact_model, variables, batch), run(model, variables, batch)
    assert near["image_tokens"].dtype == near["text_tokens"].dtype == jnp.bfloat16
    for side in ("image_embed", "text_embed"):
        assert near[side].dtype == jnp.float32
        assert 0 < np.abs(near[side] - exact[side]).max() < 0.03
    grads = gradient(model, variables, batch)
    assert_close(grads, gradient(exact_model, variables, batch), 0.05)


@pytest.mark.thorough
def test_remat_gives_the_same_gradients_and_keeps_less():
    key, batch = jax.random.key(3), jax.tree.map(jnp.asarray, make_batch())

    def model(remat):
        return make_model({"remat": remat}, {"remat": remat, "dropout": 0.3})

    def kept(remat):
        def backward(variables):
            return jax.vjp(
                lambda v: clip_loss(model(remat), v, batch, True, key), variables
            )[1]

        leaves = jax.tree.leaves(jax.eval_shape(backward, init(model(remat))))
        return sum(leaf.size for leaf in leaves)

    assert kept(True) < kept(False) / 2
    plain = gradient(model(False), init(model(False)), batch, True, key)
    assert_close(
        gradient(model(True), init(model(True)), batch, True, key), plain, 1e-6
    )


def test_dropout_follows_the_key():
    model = make_model({"dropout": 0.5}, {"dropout": 0.5})
    variables, batch = init(model), make_batch()

    def encode(seed, train=True):
        return run(model, variables, batch, train, jax.random.key(seed))

    first, again, other = encode(0), encode(0), encode(1)
    for side in ("image_embed", "text_embed"):
        np.testing.assert_array_equal(first[side], again[side])
        assert np.abs(first[side] - other[side]).max() > 1e-2
    calm = encode(0, train=False)
    np.testing.assert_array_equal(
        calm["image_embed"], encode(1, train=False)["image_embed"]
    )


@pytest.mark.thorough
def test_the_towers_draw_different_masks(monkeypatch):
    drawn = []
    bernoulli = jax.random.bernoulli

    def spy(key, p=0.5, shape=None, **options):
        drawn.append(jax.random.key_data(key).tobytes())
        return bernoulli(key, p, shape, **options)

    model = make_model({"dropout": 0.5}, {"dropout": 0.5})
    variables = init(model)
    monkeypatch.setattr(jax.random, "bernoulli", spy)
    monkeypatch.setattr("flax.linen.stochastic.random.bernoulli", spy)
    batch = jax.tree.map(jnp.asarray, make_batch())
    model.apply(variables, batch, True, jax.random.key(0))
    # After the embeddings and thrice in the block, in either tower.
    assert len(drawn) == len(set(drawn)) == 8


@pytest.mark.thorough
def test_dropout_does_not_depend_on_the_devices():
    model = make_model({"dropout": 0.3, "patch_dropout": 0.5}, {"dropout": 0.3})
    variables, batch, key = init(model), make_batch(b=16), jax.random.key(5)
    one = run(model, variables, batch, True, key)
    for devices in (2, 8):
        mesh = jax.make_mesh(
            (devices,),
            ("data",),
            axis_types=(AxisType.Auto,),
            devices=jax.devices()[:devices],
        )
        everywhere = NamedSharding(mesh, PartitionSpec())
        many = run(
            model,
            jax.device_put(variables, everywhere),
            jax.device_put(batch, NamedSharding(mesh, PartitionSpec("data"))),
            True,
            jax.device_put(key, everywhere),
        )
        for side in ("image_embed", "text_embed"):
            assert len(many[side].sharding.device_set) == devices
            np.testing.assert_allclose(many[side], one[side], atol=1e-5)


def test_equal_settings_give_equal_models():
    assert make_model() == make_model()
    assert hash(make_model()) == hash(make_model())
    assert make_model() != make_model(image={"depth": 2})


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: vit.make(224, variant="X/16"), "image.variant='X/16'"),
        (lambda: vit.make(224, variant="b/16"), "Did you mean 'B/16'?"),
        (lambda: vit.make(224, variant="B16"), "image.variant='B16'"),
        (lambda: vit.make(224, variant="B/0"), "image.variant='B/0'"),
        (lambda: vit.make(225), "such as 224"),
        (lambda: vit.make(8), "such as 16"),
        (lambda: vit.make(224, pool="gap"), "image.pool='gap'"),
        (lambda: vit.make(224, pool_heads=8), "no effect on model.image.pool='cls'"),
        (lambda: vit.make(224, pool="query", pool_width=20), "image.pool_heads=12"),
        (lambda: vit.make(224, pool="query", pool_heads=0), "image.pool_heads=0"),
        (lambda: vit.make(224, positions="sin"), "Did you mean 'sincos'?"),
        (lambda: vit.make(224, width=100), "image.heads=12"),
        (lambda: vit.make(224, width=6, heads=3, positions="sincos"), "of 4"),
        (lambda: vit.make(224, depth=0), "image.depth=0"),
        (lambda: vit.make(224, dropout=1.0), "image.dropout=1.0"),
        (lambda: vit.make(224, patch_dropout=-0.1), "image.patch_dropout=-0.1"),
        (lambda: transformer.make(9, 4, variant="XL"), "text.variant='XL'"),
        (lambda: transformer.make(9, 4, pool="first"), "text.pool='first'"),
        (lambda: transformer.make(9, 4, pool="cls"), "text.causal=False"),
        (lambda: transformer.make(9, 4, activation="gelo"), "Did you mean 'gelu'?"),
        (lambda: make_model(precision="float16"), "model.precision='float16'"),
        (lambda: make_model(logit_scale_init=0.0), "model.logit_scale_init=0.0"),
        (lambda: make_model(std=(1.0, 0.0, 1.0)), "model.std="),
    ],
)
def test_mistakes_are_named(make, said):
    with pytest.raises(UserError, match=re.escape(said)) as error:
        make()
    assert "\n" not in str(error.value)


def test_a_text_longer_than_the_context_is_named():
    model = make_model()
    batch = make_batch(length=LENGTH + 1)
    with pytest.raises(UserError, match="at most 9"):
        encode_text(model, init(model), batch["text"], batch["text_mask"])


def test_every_model_is_here():
    """But for "released", which stands for the settings of another model."""
    here = {case.values[0] for case in MODELS} | {"released"}
    assert here == set(registry.names("model"))


MEMORY = {"latent_dim": 32, "memory_size": 8, "top_k": 4, "heads": 4}
MODELS = [
    pytest.param("two_tower", {"embed_dim": 8}, marks=pytest.mark.thorough),
    pytest.param("classifier", {"num_classes": 5}, marks=pytest.mark.slow),
    pytest.param("memory_network", MEMORY, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("name", "options"), MODELS)
def test_contract(name, options):
    testing.check_model(name, **options)
