"""The memory network against PyTorch with the same weights."""

from __future__ import annotations

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clipjax import registry
from clipjax.models.common import layers
from clipjax.types import LossSpec

torch = pytest.importorskip("torch")
import torch_memory_network as theirs  # noqa: E402

pytestmark = pytest.mark.parity

VOCAB, LENGTH, SIZE, PATCH = 34, 9, 8, 4
WIDTH, HEADS, DEPTH, SLOTS, TOP_K = 16, 2, 2, 12, 6
BATCH = 5
TOLERANCES = {"float32": 1e-4, "float64": 1e-9}
# Where the text tower has its last LayerNorm: False on each token, True on their mean.
NORM_LAST = True


def make_model(**options):
    sizes = {"width": WIDTH, "depth": DEPTH, "heads": HEADS, "post_norm": True}
    image = registry.load("image", "vit")(
        SIZE, variant=f"B/{PATCH}", pre_norm=False, patch_bias=True, **sizes
    )
    text = registry.load("text", "transformer")(
        VOCAB, LENGTH, causal=False, pool="mean", norm_pooled=NORM_LAST, **sizes
    )
    return registry.load("model", "memory_network")(
        image,
        text,
        **{
            "latent_dim": WIDTH,
            "memory_size": SLOTS,
            "heads": HEADS,
            "top_k": TOP_K,
            "dropout": 0.0,
            "audio": True,
            "decoders": theirs.NAMES,
            "joint": True,
            "parity": True,
            **options,
        },
    )


@pytest.fixture(params=list(TOLERANCES))
def case(request):
    """(dtype, tolerance, variables, the torch network with the same weights)."""
    dtype = request.param
    with jax.enable_x64(dtype == "float64"):
        draw = np.random.default_rng(0)
        shapes = jax.eval_shape(make_model().init, jax.random.key(0))

        def noise(path, leaf):
            one = "scale" in str(path[-1]) or "var" in str(path[-1])
            values = draw.uniform(-0.5, 0.5, leaf.shape)
            return np.asarray(one + values, dtype)

        variables = jax.tree_util.tree_map_with_path(noise, shapes)
        network = theirs.Network(
            *(VOCAB, LENGTH, (SIZE // PATCH) ** 2, PATCH),
            *(WIDTH, HEADS, DEPTH, SLOTS, TOP_K, NORM_LAST),
        ).to(getattr(torch, dtype))
        theirs.load(network, variables["params"])
        for i, norm in enumerate(network.norms, start=1):
            theirs.load_statistics(norm, variables["batch_stats"]["audio"][f"norm_{i}"])
        yield dtype, TOLERANCES[dtype], variables, network.eval()


def make_batch(dtype, seed=0):
    """Ours and theirs; the second text has padding, which is seen."""
    draw = np.random.default_rng(seed)
    mask = np.arange(LENGTH)[None] < np.array([9, 4, 9, 1, 6])[:, None]
    ours = {
        "image": draw.integers(0, 256, (BATCH, SIZE, SIZE, 3), np.uint8),
        "text": np.where(mask, draw.integers(1, VOCAB, mask.shape), 0).astype("i4"),
        "text_mask": mask,
        "audio": draw.random((BATCH, 20, 18)).astype(dtype),
    }
    pixels = layers.normalise_image(jnp.asarray(ours["image"]), layers.MEAN, layers.STD)
    pixels = np.asarray(pixels, dtype).transpose(0, 3, 1, 2)
    given = {
        "text": torch.as_tensor(ours["text"].astype("i8")),
        "image": torch.as_tensor(pixels.copy()),
        "audio": torch.as_tensor(ours["audio"]),
    }
    return ours, given


def encode(model, variables, ours, names, state=None):
    call = jax.jit(lambda v, given, state: model.encode(v, given, state))
    return call(variables, pick(ours, names), state)


def pick(ours, names):
    """What of a batch belongs to some modalities."""
    return {key: value for key, value in ours.items() if key.split("_")[0] in names}


def assert_near(ours, expected, tolerance):
    if isinstance(expected, torch.Tensor):
        expected = expected.detach().numpy()
    assert ours.dtype == expected.dtype
    assert np.abs(expected).max() > 1e-3  # zeros would hide an error
    worst = np.abs(ours - expected).max() / np.abs(expected).max()
    assert worst < tolerance, f"off by {worst:.1e} of the largest value"


@pytest.mark.parametrize(
    "names", [("text",), ("image",), ("audio",), ("text", "image"), theirs.NAMES]
)
def test_latent_vectors_and_decoders(case, names):
    dtype, tolerance, variables, network = case
    ours, given = make_batch(dtype)
    found, state = encode(make_model(test_time="off"), variables, ours, names)
    assert state == {}
    expected = network({name: given[name] for name in names})
    name = names[0] if len(names) == 1 else "joint"
    assert_near(found[f"{name}_features"], expected, tolerance)
    unit = torch.nn.functional.normalize(expected)
    assert_near(found[f"{name}_embed"], unit, tolerance)
    for target in theirs.NAMES:
        decoded = network.decoders[target](expected)
        assert_near(found[f"decoded_{target}"], decoded, tolerance)


def test_three_calls_that_write_the_mean_of_their_batch(case):
    dtype, tolerance, variables, network = case
    model, state = make_model(test_time="batch", step_size=0.1), None
    network.learn()
    start = network.central.slots.detach().clone()
    for seed, names in enumerate([("image",), ("text",), theirs.NAMES]):
        ours, given = make_batch(dtype, seed)
        found, state = encode(model, variables, ours, names, state)
        expected = network({name: given[name] for name in names})
        name = names[0] if len(names) == 1 else "joint"
        assert_near(found[f"{name}_features"], expected, tolerance)
        assert_near(state["central_memory"]["memory"], network.central.slots, tolerance)
        for name in names:
            slots = network.memories[name].slots
            assert_near(state[f"{name}_memory"]["memory"], slots, tolerance)
    moved = (network.central.slots - start).abs().sum(1) > 1e-6
    assert TOP_K <= int(moved.sum()) < SLOTS


@contextlib.contextmanager
def training(network):
    network.train()
    try:
        yield
    finally:
        network.eval()


def test_loss_gradient_and_running_statistics(case):
    dtype, tolerance, variables, network = case
    model = make_model()
    scale = float(np.float32(1 / 0.07))
    loss = registry.load("loss", "tri_modal")(LossSpec(9, 9, WIDTH, BATCH, 1, 1))
    ours, given = make_batch(dtype)

    def value(params):
        outputs, stats = model.apply(
            {**variables, "params": params}, ours, True, jax.random.key(0)
        )
        return loss(outputs, ours, {}, 0)[0], stats

    differentiate = jax.jit(jax.value_and_grad(value, has_aux=True))
    (found, stats), gradient = differentiate(variables["params"])
    with training(network):
        # Statistics move with every look at audio, and ours looks but once.
        expected = network.loss(given, scale)
        expected.backward()
    assert found.dtype == dtype
    assert float(found) == pytest.approx(float(expected.detach()), rel=tolerance)

    flat, flat_theirs = [], []
    for path, parameter, rows, form in theirs.pairs_of(network):
        mine = form(np.asarray(theirs.at(gradient, path)))
        grad = parameter.grad
        other = np.zeros(mine.shape) if grad is None else grad[rows].numpy()
        written = {"gate", "proposal"} & set(path)
        unused = path[0] in ("text_decoder", "image_decoder")
        assert bool(np.abs(mine).max() == 0) == bool(written or unused), path
        flat.append(mine.ravel())
        flat_theirs.append(other.ravel())
    assert sum(part.size for part in flat) == sum(
        leaf.size for leaf in jax.tree.leaves(gradient)
    )
    mine, other = np.concatenate(flat), np.concatenate(flat_theirs)
    gap = np.linalg.norm(mine - other) / np.linalg.norm(other)
    assert gap < tolerance

    fresh = theirs.nn.BatchNorm2d(64).to(getattr(torch, dtype)).train()
    theirs.load_statistics(fresh, variables["batch_stats"]["audio"]["norm_1"])
    fresh(network.convs[0](given["audio"][:, None]))
    assert_near(stats["audio"]["norm_1"]["mean"], fresh.running_mean, tolerance)
    assert_near(stats["audio"]["norm_1"]["var"], fresh.running_var, tolerance)
