"""Towers and the two-tower model: sizes, masks, precision, randomness, devices."""

from __future__ import annotations

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from clipjax.models import layers, two_tower
from clipjax.models.image import vit
from clipjax.models.text import transformer
from clipjax.types import UserError

VOCAB, LENGTH, SIZE = 31, 9, 16

# Compiling takes most of the time here, and a third of it this way.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def make_model(image=None, text=None, **options):
    image = {"variant": "B/4", "width": 16, "depth": 1, "heads": 2} | (image or {})
    text = {"width": 12, "depth": 1, "heads": 3} | (text or {})
    return two_tower.make(
        vit.make(SIZE, **image),
        transformer.make(VOCAB, LENGTH, **text),
        embed_dim=8,
        **options,
    )


def make_batch(b=4, length=LENGTH, seed=0):
    draw = np.random.default_rng(seed)
    mask = np.arange(length)[None] < draw.integers(2, 6, (b, 1))
    return {
        "image": draw.integers(0, 256, (b, SIZE, SIZE, 3), np.uint8),
        "text": np.where(mask, draw.integers(1, VOCAB, (b, length)), 0).astype("i4"),
        "text_mask": mask,
    }


@functools.cache
def init(model, dtype="float32"):
    """Noise of fresh parameters' size; fresh biases of zero would hide errors."""
    draw = np.random.default_rng(1)

    def noise(path, leaf):
        one = "scale" in str(path[-1])
        values = draw.standard_normal(leaf.shape) * 0.3
        return np.asarray(one + values, dtype)

    shapes = jax.eval_shape(model.init, jax.random.key(0))
    return jax.tree_util.tree_map_with_path(noise, shapes)


@functools.partial(jit, static_argnums=(0, 3))
def run(model, variables, batch, train=False, key=None):
    """The outputs of both sides."""
    return model.apply(variables, batch, train, key)[0]


@functools.partial(jit, static_argnums=0)
def encode_text(model, variables, text, mask):
    return model.encode_text(variables, text, mask)


def clip_loss(model, variables, batch, train=False, key=None):
    outputs, _ = model.apply(variables, batch, train, key)
    logits = outputs["image_embed"] @ outputs["text_embed"].T * outputs["logit_scale"]
    return -jnp.mean(jnp.diagonal(jax.nn.log_softmax(logits)))


@functools.partial(jit, static_argnums=(0, 3))
def gradient(model, variables, batch, train=False, key=None):
    return jax.grad(lambda v: clip_loss(model, v, batch, train, key))(variables)


def assert_close(ours, theirs, tolerance):
    """Equal to `tolerance` of the global norm."""

    def flat(tree):
        return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])

    ours, theirs = flat(ours), flat(theirs)
    gap = np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)
    assert gap <= tolerance


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


@pytest.mark.parametrize("size", vit.SIZES)
def test_every_variant_has_heads_of_64_or_80(size):
    tower, text = (
        vit.make(32, variant=f"{size}/8"),
        transformer.make(9, 4, variant=size),
    )
    assert tower.patch == 8
    assert tower.width / tower.heads == (80 if size == "H" else 64)
    assert text.width / text.heads == 64


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
    direct = tower.apply({"params": variables["params"]["image"]}, expected, False)
    found = encode(variables, batch["image"])["image_tokens"]
    np.testing.assert_allclose(found, direct["tokens"], rtol=1e-3, atol=1e-4)
    with pytest.raises(TypeError, match="uint8"):
        encode(variables, expected.astype("f4"))


def test_patches_are_cut_row_by_row():
    image = np.arange(2 * 4 * 6 * 3).reshape(2, 4, 6, 3)
    cut = vit.patches(jnp.asarray(image), 2)
    assert cut.shape == (2, 6, 12)
    np.testing.assert_array_equal(cut[1, 4], image[1, 2:4, 2:4].reshape(-1))


def test_fixed_positions():
    table = vit.sincos(3, 16)
    assert table.shape == (9, 16) and np.abs(table).max() <= 1
    np.testing.assert_array_equal(table[0], [0] * 4 + [1] * 4 + [0] * 4 + [1] * 4)
    # Column 2 of row 1: its first waves have wavelength 2 pi.
    np.testing.assert_allclose(table[5, [0, 8]], np.sin([2, 1]), rtol=1e-6)
    model = make_model(image={"positions": "sincos"})
    assert "positions" not in init(model)["params"]["image"]


@pytest.mark.parametrize(
    ("image", "text"),
    [
        ({"pool": "mean", "pre_norm": False}, {"causal": False, "pool": "mean"}),
        ({"pool": "map"}, {"causal": False, "pool": "cls"}),
        ({"positions": "sincos"}, {"causal": True, "pool": "mean"}),
        ({"activation": "quick_gelu"}, {"causal": False, "pool": "eot"}),
        ({"activation": "gelu_tanh"}, {"causal": True, "pool": "eot"}),
    ],
)
def test_padding_does_not_change_the_text(image, text):
    model = make_model(image, text)
    variables, batch = init(model), make_batch(length=6)
    assert model.module.text.padding_invariant
    short = encode_text(model, variables, batch["text"], batch["text_mask"])
    pad = ((0, 0), (0, 3))
    long = encode_text(
        model,
        variables,
        np.pad(batch["text"], pad, constant_values=5),
        np.pad(batch["text_mask"], pad),
    )
    np.testing.assert_allclose(long["text_embed"], short["text_embed"], atol=1e-6)
    changed = batch["text"].copy()
    changed[:, 1] = 30 - changed[:, 1]
    other = encode_text(model, variables, changed, batch["text_mask"])
    assert np.abs(other["text_embed"] - short["text_embed"]).max() > 1e-3


def test_last_position_pooling_depends_on_padding():
    model = make_model(text={"pool": "last"})
    assert not model.module.text.padding_invariant
    variables, batch = init(model), make_batch()
    outputs = encode_text(model, variables, batch["text"], batch["text_mask"])
    changed = batch["text"].copy()
    changed[:, -1] = 7
    other = encode_text(model, variables, changed, batch["text_mask"])
    assert np.abs(other["text_embed"] - outputs["text_embed"]).max() > 1e-3


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


@pytest.mark.parametrize("pool", ["eot", "mean", "cls"])
def test_a_text_without_tokens_gives_finite_gradients(pool):
    model = make_model(text={"causal": False, "pool": pool})
    variables, batch = init(model), make_batch()
    batch["text_mask"][1] = False
    grads = gradient(model, variables, batch)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))
    assert any(np.any(leaf) for leaf in jax.tree.leaves(grads["params"]["text"]))


def test_attention_is_softmax_attention():
    draw = np.random.default_rng(0)
    query, key, value = draw.standard_normal((3, 2, 5, 3, 4)).astype("f4")
    mask = np.array([[1, 1, 1, 0, 0], [1, 0, 1, 0, 1]], bool)
    for causal, key_mask in ((False, None), (True, None), (False, mask), (True, mask)):
        expected = jax.nn.dot_product_attention(
            *(jnp.asarray(x) for x in (query, key, value)),
            is_causal=causal,
            mask=None if key_mask is None else jnp.asarray(key_mask)[:, None, None],
        )
        found = layers.attention(query, key, value, causal, key_mask)
        np.testing.assert_allclose(found, expected, atol=1e-5)
    # Logits this large overflow an exponential that is not shifted.
    assert np.isfinite(layers.attention(100 * query, 100 * key, value)).all()


def test_attention_weights_can_be_asked_for():
    model = make_model()
    variables, batch = init(model), make_batch()
    inputs = batch["image"], batch["text"], batch["text_mask"]
    apply = jit(
        functools.partial(model.module.apply, mutable=["intermediates"]),
        static_argnums=4,
    )
    _, found = apply(variables, *inputs, False)
    blocks = found["intermediates"]["image"]["transformer"]
    (weights,) = blocks["block_0"]["attention"]["attention_weights"]
    assert weights.shape == (4, 2, 17, 17)
    np.testing.assert_allclose(weights.sum(axis=-1), 1, rtol=1e-5)


def test_layer_norm_survives_a_large_mean():
    layer = layers.LayerNorm()
    x = np.random.default_rng(0).standard_normal((3, 64))
    variables = layer.init(jax.random.key(0), jnp.zeros((1, 64)))
    found = layer.apply(variables, jnp.asarray(x + 1000, jnp.float32))
    centred = x - x.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(found, centred / x.std(axis=1, keepdims=True), atol=1e-3)


def test_zero_features_give_finite_gradients():
    model = make_model()
    variables = jax.tree.map(np.zeros_like, init(model))
    grads = gradient(model, variables, make_batch())
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))


def test_float64_parameters_compute_in_float64():
    model, batch = make_model(), make_batch()
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


def test_remat_gives_the_same_gradients_and_keeps_less():
    key, batch = jax.random.key(3), make_batch()

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
    model.apply(variables, make_batch(), True, jax.random.key(0))
    # After the embeddings and thrice in the block, in either tower.
    assert len(drawn) == len(set(drawn)) == 8


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
