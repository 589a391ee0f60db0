"""The convolutional towers and their layers; tests/parity has them against PyTorch."""

from __future__ import annotations

import functools
import itertools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from model_tools import LENGTH, VOCAB, assert_close, jit, make_batch
from shape_checks import unchecked

from clipjax import registry
from clipjax.models import two_tower
from clipjax.models.common import convolution
from clipjax.models.common.convolution import BatchNorm, Conv, average_pool, max_pool
from clipjax.models.image import convnext, modified_resnet, resnet
from clipjax.models.text import transformer
from clipjax.types import UserError

MAKE = {
    "resnet": resnet.make,
    "modified_resnet": modified_resnet.make,
    "convnext": convnext.make,
}
DEPTHS = (1, 1, 1, 1)
TINY = {
    "resnet": {"variant": "18", "width": 4, "depths": DEPTHS, "zero_init_last": False},
    "modified_resnet": {"width": 2, "depths": DEPTHS, "heads": 4, "output_dim": 6},
    "convnext": {"width": 3, "depths": DEPTHS, "layer_scale": 1.0},
}
WIDTHS = {"resnet": (32, 32), "modified_resnet": (6, 64), "convnext": (24, 24)}

# Parameters of PyTorch's models without a classifier (torchvision 0.28, open_clip 3.3
# at the sizes it publishes, timm 1.0.31).
PUBLISHED = {
    ("resnet", "18", 224): 11_176_512,
    ("resnet", "34", 224): 21_284_672,
    ("resnet", "50", 224): 23_508_032,
    ("resnet", "101", 224): 42_500_160,
    ("resnet", "152", 224): 58_143_808,
    ("modified_resnet", "RN50", 224): 38_316_896,
    ("modified_resnet", "RN101", 224): 56_259_936,
    ("modified_resnet", "RN50x4", 288): 87_137_080,
    ("modified_resnet", "RN50x16", 384): 167_328_912,
    ("modified_resnet", "RN50x64", 448): 420_380_352,
    ("convnext", "tiny", 224): 27_820_128,
    ("convnext", "small", 224): 49_454_688,
    ("convnext", "base", 224): 87_566_464,
    ("convnext", "large", 224): 196_230_336,
    ("convnext", "xlarge", 224): 348_147_968,
    ("convnext", "xxlarge", 224): 843_398_016,
}
QUICK = [("resnet", "50"), ("modified_resnet", "RN50"), ("convnext", "tiny")]


def sizes(tree):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def shapes(tower, batch=1):
    """Of the tower's variables and of its outputs."""
    image = jnp.zeros((batch, tower.image_size, tower.image_size, 3))
    outputs, variables = jax.eval_shape(
        lambda: tower.init_with_output(jax.random.key(0), image, False)
    )
    return variables, outputs


def noise(variables, dtype="float32"):
    """Variables of which none is a special value, and whose outputs are near 1."""
    draw = np.random.default_rng(1)

    def fill(path, leaf):
        one = path[-1].key in ("scale", "var", "layer_scale")
        values = one + 0.5 * draw.uniform(-1, 1, leaf.shape)
        if leaf.ndim > 1:
            values *= 5 * math.prod(leaf.shape[:-1]) ** -0.5
        return np.asarray(values, dtype)

    return jax.tree_util.tree_map_with_path(fill, dict(variables))


def images(tower, b=4, seed=0):
    size = (b, tower.image_size, tower.image_size, 3)
    return jnp.asarray(np.random.default_rng(seed).standard_normal(size), "f4")


@functools.partial(jit, static_argnums=(0, 3))
def run(tower, variables, image, train, key=None):
    """(outputs, new batch_stats)."""
    rngs = {} if key is None else {"dropout": key}
    outputs, new = tower.apply(
        variables, image, train, rngs=rngs, mutable=["batch_stats"]
    )
    return outputs, new.get("batch_stats", {})


@pytest.mark.parametrize(
    ("kind", "variant", "size"),
    [
        pytest.param(*key, marks=[] if key[:2] in QUICK else pytest.mark.slow)
        for key in PUBLISHED
    ],
)
def test_published_sizes(kind, variant, size):
    variables, outputs = shapes(MAKE[kind](size, variant=variant))
    assert sizes(variables["params"]) == PUBLISHED[kind, variant, size]
    n, d = outputs["tokens"].shape[1:]
    assert n == (size // 32) ** 2
    # Into the joint embedding, where the others have the width of the last stage.
    embedding = {"RN101": 512, "RN50x4": 640, "RN50x16": 768}
    pooled = embedding.get(variant, 1024) if kind == "modified_resnet" else d
    assert outputs["pooled"].shape == (1, pooled)
    if kind == "resnet":
        assert d == (512 if variant in ("18", "34") else 2048)
    assert all(leaf.dtype == "float32" for leaf in jax.tree.leaves(variables))


@pytest.mark.parametrize("kind", TINY)
def test_shapes(kind):
    _, outputs = shapes(MAKE[kind](64, **TINY[kind]), batch=3)
    pooled, d = WIDTHS[kind]
    assert outputs["pooled"].shape == (3, pooled)
    assert outputs["tokens"].shape == (3, 4, d)


@pytest.mark.parametrize("train", [False, True])
def test_outputs_follow_the_order_of_images(train):
    tower = resnet.make(64, **TINY["resnet"])
    variables, image = noise(shapes(tower)[0]), images(tower)
    order = np.array([2, 0, 3, 1])
    straight, stats = run(tower, variables, image, train)
    turned, again = run(tower, variables, image[order], train)
    assert_close(again, stats, 1e-6)
    for name in ("pooled", "tokens"):
        assert_close(turned[name], straight[name][order], 1e-4)
        # They are not all alike.
        largest = np.abs(straight[name]).max()
        assert np.ptp(straight[name], axis=0).max() > 1e-2 * largest


def dense_convolution(x, kernel, stride, pad):
    """In NumPy, a window at a time."""
    x = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    size = kernel.shape[0]
    h, w = ((side - size) // stride + 1 for side in x.shape[1:3])
    y = np.empty((x.shape[0], h, w, kernel.shape[-1]))
    for i, j in itertools.product(range(h), range(w)):
        window = x[:, i * stride : i * stride + size, j * stride : j * stride + size]
        y[:, i, j] = np.tensordot(window, kernel, 3)
    return y


@pytest.mark.parametrize(
    ("size", "stride", "pad"), [(1, 1, 0), (1, 2, 0), (2, 2, 0), (4, 4, 0), (3, 2, 1)]
)
def test_convolution(size, stride, pad):
    draw = np.random.default_rng(size)
    layer = Conv(5, size, stride, use_bias=True)
    kernel, bias = draw.standard_normal((size, size, 3, 5)), draw.standard_normal(5)
    for h, w in ((8, 9), (7, 10)):  # odd sides and incomplete windows
        x = draw.standard_normal((2, h, w, 3))
        given = {"params": {"kernel": kernel.astype("f4"), "bias": bias.astype("f4")}}
        found = layer.apply(given, jnp.asarray(x, jnp.float32))
        expected = dense_convolution(x, kernel, stride, pad) + bias
        np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("size", [3, 7])
def test_depthwise_convolution_and_its_gradients(size, monkeypatch):
    """The shifts of a CPU against XLA's convolution, which other devices use."""
    draw = np.random.default_rng(0)
    layer, x = Conv(4, size, depthwise=True), draw.standard_normal((2, 5, 6, 4))
    kernel, toward = draw.standard_normal((size, size, 1, 4)), np.cos(x)

    def value(kernel, x):
        return (layer.apply({"params": {"kernel": kernel}}, x) * toward).sum()

    def both():
        return jit(jax.value_and_grad(lambda *given: value(*given), (0, 1)))(kernel, x)

    with jax.enable_x64(True):
        assert jax.default_backend() == "cpu"
        shifted = both()
        monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
        monkeypatch.setattr(convolution, "_shifted", None)
        jax.tree.map(functools.partial(np.testing.assert_allclose), shifted, both())


def test_pools():
    x = np.random.default_rng(0).standard_normal((2, 7, 6, 3)).astype("f4") - 9
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-np.inf)
    largest, means = max_pool(jnp.asarray(x)), average_pool(jnp.asarray(x), 2)
    assert largest.shape == (2, 4, 3, 3) and means.shape == (2, 3, 3, 3)
    for i, j in itertools.product(range(3), range(3)):
        window = padded[:, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3]
        np.testing.assert_array_equal(largest[:, i, j], window.max(axis=(1, 2)))
        window = x[:, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2]
        np.testing.assert_allclose(means[:, i, j], window.mean((1, 2)), rtol=1e-6)
    assert max_pool(jnp.asarray(x, jnp.bfloat16)).dtype == jnp.bfloat16


def normalised(layer, variables, x, train=True):
    return layer.apply(variables, jnp.asarray(x), train, mutable=["batch_stats"])


def test_batch_normalisation():
    layer = BatchNorm(momentum=0.8, epsilon=0.1)
    draw = np.random.default_rng(0)
    x = 3 + 2 * draw.standard_normal((3, 2, 5, 4)).astype("f4")
    fresh = layer.init(jax.random.key(0), jnp.asarray(x), True)
    # Initialising in training mode moves nothing.
    np.testing.assert_array_equal(fresh["batch_stats"]["mean"], np.zeros(4))
    np.testing.assert_array_equal(fresh["batch_stats"]["var"], np.ones(4))
    variables = noise(fresh)
    scale, bias = (variables["params"][name] for name in ("scale", "bias"))
    before = variables["batch_stats"]
    found, after = normalised(layer, variables, x)
    mean, var = x.mean(axis=(0, 1, 2)), x.var(axis=(0, 1, 2))
    expected = (x - mean) / np.sqrt(var + 0.1) * scale + bias
    np.testing.assert_allclose(found, expected, atol=1e-5)
    unbiased = x.reshape(-1, 4).var(axis=0, ddof=1)
    for name, new in (("mean", mean), ("var", unbiased)):
        moved = 0.8 * before[name] + 0.2 * new
        np.testing.assert_allclose(after["batch_stats"][name], moved, rtol=1e-5)
    # Evaluation takes the running statistics, and an image's result is its own.
    found, after = normalised(layer, variables, x[:1], train=False)
    expected = (x[:1] - before["mean"]) / np.sqrt(before["var"] + 0.1) * scale + bias
    np.testing.assert_allclose(found, expected, atol=1e-5)
    jax.tree.map(np.testing.assert_array_equal, after["batch_stats"], before)


def test_batch_normalisation_survives_a_large_mean():
    layer, x = BatchNorm(), np.random.default_rng(0).standard_normal((4, 4, 4, 2))
    variables = layer.init(jax.random.key(0), jnp.zeros((1, 1, 1, 2)), False)
    found, _ = normalised(layer, variables, (x + 1000).astype("f4"))
    expected = (x - x.mean(axis=(0, 1, 2))) / x.std(axis=(0, 1, 2))
    np.testing.assert_allclose(found, expected, atol=2e-3)


def test_batch_normalisation_keeps_precise_statistics():
    layer, x = BatchNorm(dtype=jnp.bfloat16), jnp.full((2, 3, 3, 1), 1.0, jnp.bfloat16)
    variables = layer.init(jax.random.key(0), x, False)
    found, after = normalised(layer, variables, x)
    assert found.dtype == jnp.bfloat16
    # 0.1 is nothing that bfloat16 has.
    mean = after["batch_stats"]["mean"]
    assert mean.dtype == "float32" and abs(mean[0] - 0.1) < 1e-7
    with jax.enable_x64(True):
        given = noise(variables, "float64")
        x = np.random.default_rng(0).standard_normal((2, 3, 3, 1))
        found, after = normalised(BatchNorm(), given, x)
        assert found.dtype == after["batch_stats"]["var"].dtype == "float64"
        again = (np.asarray(found) - given["params"]["bias"]) / given["params"]["scale"]
        expected = x.var() / (x.var() + 1e-5)
        np.testing.assert_allclose(again.var(), expected, rtol=1e-12)


def test_batch_statistics_are_of_the_global_batch():
    layer = BatchNorm()
    x = jnp.arange(16 * 2 * 2 * 3, dtype="f4").reshape(16, 2, 2, 3) ** 1.5
    variables = noise(layer.init(jax.random.key(0), x, False))
    apply = jit(functools.partial(normalised, layer))
    one, stats = apply(variables, x)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    split = NamedSharding(mesh, PartitionSpec("data"))
    everywhere = NamedSharding(mesh, PartitionSpec())
    many, split_stats = apply(
        jax.device_put(variables, everywhere), jax.device_put(x, split)
    )
    assert len(many.sharding.device_set) == 8
    np.testing.assert_allclose(many, one, atol=1e-5)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-5), split_stats, stats
    )


def test_one_value_has_no_variance():
    layer, x = BatchNorm(), jnp.ones((1, 1, 1, 4))
    variables = layer.init(jax.random.key(0), x, False)
    with pytest.raises(UserError, match="larger batch_size or image_size"):
        normalised(layer, variables, x)


def test_a_model_hands_on_its_statistics():
    text = transformer.make(VOCAB, LENGTH, width=12, depth=1, heads=3)
    image = resnet.make(16, **TINY["resnet"])
    model = two_tower.make(image, text, embed_dim=8)
    shape = jax.eval_shape(model.init, jax.random.key(0))
    variables, batch, key = noise(shape), make_batch(), jax.random.key(0)
    _, stats = jit(model.apply, static_argnums=2)(variables, batch, True, key)
    before, after = jax.tree.leaves(variables["batch_stats"]), jax.tree.leaves(stats)
    assert len(before) == len(after) > 0
    assert all(np.abs(x - y).max() > 1e-3 for x, y in zip(before, after, strict=True))


def objective(module, variables, image):
    """A function of the parameters, with the new statistics, and the parameters."""

    def value(params):
        outputs, moved = module.apply(
            {**variables, "params": params},
            image,
            True,
            rngs={"dropout": jax.random.key(0)},
            mutable=["batch_stats"],
        )
        return sum(jnp.sin(leaf).sum() for leaf in jax.tree.leaves(outputs)), moved

    return value, variables["params"]


@pytest.mark.parametrize("kind", TINY)
def test_float64_computes_in_float64(kind):
    tower = MAKE[kind](32, **TINY[kind])
    variables = noise(shapes(tower)[0], "float64")
    with jax.enable_x64(True):
        value, params = objective(tower, variables, images(tower).astype("f8"))
        traced = jax.make_jaxpr(jax.grad(value, has_aux=True))(params)
    found = set(re.findall(r"\b([a-z]+\d+)\[", str(traced)))
    assert "f64" in found and not found & {"f32", "bf16", "f16"}


def test_bfloat16_is_near_float32():
    for kind in TINY:
        tower = MAKE[kind](32, **TINY[kind]).clone(dtype=jnp.bfloat16)
        variables, outputs = shapes(tower)
        assert all(leaf.dtype == "float32" for leaf in jax.tree.leaves(variables))
        assert all(leaf.dtype == jnp.bfloat16 for leaf in jax.tree.leaves(outputs))
    tower = MAKE["resnet"](64, **TINY["resnet"])
    variables, image = noise(shapes(tower)[0]), images(tower)
    exact, _ = run(tower, variables, image, True)
    near, stats = run(tower.clone(dtype=jnp.bfloat16), variables, image, True)
    assert all(leaf.dtype == "float32" for leaf in jax.tree.leaves(stats))
    assert_close(near["pooled"].astype("float32"), exact["pooled"], 0.05)


@pytest.mark.parametrize("kind", ["resnet", "convnext"])
def test_remat_keeps_less(kind):
    options = TINY[kind] | ({"drop_path": 0.4} if kind == "convnext" else {})

    def kept(remat):
        tower = MAKE[kind](32, **options, remat=remat)
        value, params = objective(tower, noise(shapes(tower)[0]), images(tower))
        return sizes(
            jax.eval_shape(lambda p: jax.vjp(value, p, has_aux=True)[1], params)
        )

    assert kept(True) < 0.8 * kept(False)


def test_remat_gives_the_same():
    options = {
        "features": 3,
        "conv": Conv,
        "norm": BatchNorm,
        "zero_last": False,
    }
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 4, 4, 3)), "f4")
    found = []
    for remat in (False, True):
        stage = convolution.Stage(resnet.Basic, 2, 1, options, remat)
        fresh = jax.eval_shape(lambda s=stage: s.init(jax.random.key(0), x, False))
        value, params = objective(stage, noise(fresh), x)
        found.append(jit(jax.grad(value, has_aux=True))(params))
    assert_close(found[1], found[0], 1e-6)


def test_initial_values():
    layer, x = Conv(64, 3), jnp.zeros((1, 4, 4, 8))
    kernel = jit(layer.init)(jax.random.key(0), x)["params"]["kernel"]
    # He's, by fan-out.
    assert abs(kernel.std() / (2 / (9 * 64)) ** 0.5 - 1) < 0.05

    def scales(key, last):
        tower = resnet.make(16, width=2, depths=DEPTHS, zero_init_last=last)
        params = tower.init(key, jnp.zeros((1, 16, 16, 3)), False)["params"]
        block = params["stage_3"]["block_0"]  # the others need not be compiled
        return [block[f"norm_{index}"]["scale"].mean() for index in (1, 2, 3)]

    for last in (True, False):
        found = jit(scales, static_argnums=1)(jax.random.key(0), last)
        assert found == [1, 1, 0 if last else 1]


def test_drop_path_leaves_out_branches_of_single_images():
    block, x = convnext.Block(1.0, 0.25, 1e-6), jnp.ones((64, 2, 2, 3))
    fresh = jax.eval_shape(lambda: block.init(jax.random.key(0), x, False))
    variables = noise(fresh)
    apply = jit(block.apply, static_argnums=2)
    branch = apply(variables, x, False) - x
    drawn = apply(variables, x, True, rngs={"dropout": jax.random.key(1)}) - x
    kept = np.abs(drawn).max(axis=(1, 2, 3)) > 0
    assert 40 <= kept.sum() <= 56  # of 64 x 0.75
    np.testing.assert_allclose(drawn[kept], branch[kept] / 0.75, atol=1e-5)


def test_drop_path_rises_from_the_first_block(monkeypatch):
    rates = []
    dropout = convnext.nn.Dropout
    monkeypatch.setattr(
        convnext.nn,
        "Dropout",
        lambda rate, *rest, **options: (
            rates.append(rate) or dropout(rate, *rest, **options)
        ),
    )
    shapes(convnext.make(32, width=2, depths=(1, 2, 1, 1), drop_path=0.4))
    np.testing.assert_allclose(rates, [0, 0.1, 0.2, 0.3, 0.4])


def test_helpers_are_no_components():
    assert set(MAKE) < set(registry.names("image"))
    assert "convolution" not in registry.names("model")


@pytest.mark.parametrize("kind", TINY)
def test_equal_settings_give_equal_towers(kind):
    make = functools.partial(MAKE[kind], **TINY[kind])
    assert make(32) == make(32) and hash(make(32)) == hash(make(32))
    with unchecked():
        listed = MAKE[kind](32, **TINY[kind] | {"depths": list(DEPTHS)})
    assert make(32) == listed
    assert make(32) != make(64)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: resnet.make(64, variant="51"), "image.variant='51'"),
        (lambda: resnet.make(64, depths=(1, 2)), "image.depths=(1, 2)"),
        (lambda: resnet.make(64, depths=(1, 0, 1, 1)), "image.depths=(1, 0, 1, 1)"),
        (lambda: resnet.make(64, width=0), "image.width=0"),
        (lambda: resnet.make(64, bn_momentum=1.0), "image.bn_momentum=1.0"),
        (lambda: resnet.make(64, bn_epsilon=0.0), "image.bn_epsilon=0.0"),
        (lambda: modified_resnet.make(225), "such as 224"),
        (lambda: modified_resnet.make(16), "such as 32"),
        (lambda: modified_resnet.make(64, variant="RN50x8"), "Did you mean 'RN50"),
        (lambda: modified_resnet.make(64, width=3), "must be even, like 4"),
        (lambda: modified_resnet.make(64, width=2, heads=5), "must divide 64"),
        (lambda: modified_resnet.make(64, heads=0), "image.heads=0"),
        (lambda: modified_resnet.make(64, output_dim=0), "image.output_dim=0"),
        (lambda: convnext.make(31), "at least 32"),
        (lambda: convnext.make(64, variant="Base"), "Did you mean 'base'?"),
        (lambda: convnext.make(64, drop_path=1.0), "image.drop_path=1.0"),
    ],
)
def test_mistakes_are_named(make, said):
    with pytest.raises(UserError, match=re.escape(said)) as error:
        make()
    assert "\n" not in str(error.value)
