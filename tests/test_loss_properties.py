"""What holds for every loss: any order, any number of devices, any size of block."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import NamedSharding, PartitionSpec

import tiny
from clipjax.engine import sharding
from clipjax.types import UserError

# The losses that have both a formula symmetric in the towers and no per-tower state.
SYMMETRIC = [
    *("clip", "cyclip", "dcl", "hcl", "hn_nce", "onlineclr", "siglip", "vicreg"),
    *("sogclr", "isogclr", "fastclip"),
]
BLOCKED = [case for case in tiny.LOSSES if case != "vicreg"]


def example(size, seed, dtype=jnp.float32, alike=0.0, images=None):
    """Outputs and a batch; alike: how near all embeddings are to one vector."""
    draw = np.random.default_rng(seed)
    found = {"logit_scale": jnp.asarray(8.0, dtype), "logit_bias": jnp.asarray(-2.0)}
    common = draw.normal(size=16)
    for side in ("image", "text"):
        x = draw.normal(size=(size, 16)) * (1 - alike) + common * alike
        found[f"{side}_features"] = jnp.asarray(x, dtype)
        x /= np.linalg.norm(x, axis=1, keepdims=True)
        found[f"{side}_embed"] = jnp.asarray(x, dtype)
    ids = (
        draw.permutation(64)[:size]
        if images is None
        else draw.integers(0, images, size)
    )
    texts = draw.permutation(64)[:size] if images is None else ids
    batch = {
        "image_id": jnp.asarray(ids, jnp.int32),
        "text_id": jnp.asarray(texts, jnp.int32),
    }
    return found, batch


def visited(loss, size=16, dtype=jnp.float32):
    """A state after one step, so that averages are not fresh."""
    out, batch = example(size, 99, dtype)
    return jax.jit(loss)(out, batch, loss.init(), 0)[1]


def value_and_gradient(loss, out, batch, state):
    def value(image, text, features, scale):
        new = {"image_embed": image, "text_embed": text}
        new |= {"image_features": features, "logit_scale": scale}
        found, after, _ = loss({**out, **new}, batch, state, 1)
        return found, after

    keys = ("image_embed", "text_embed", "image_features", "logit_scale")
    find = jax.jit(jax.value_and_grad(value, (0, 1, 2, 3), has_aux=True))
    (found, after), gradient = find(*(out[key] for key in keys))
    return found, gradient, after


def assert_same(one, other, rtol):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        a, b = np.asarray(a), np.asarray(b)
        some = np.isfinite(a)
        np.testing.assert_array_equal(some, np.isfinite(b))
        scale = max(np.abs(a[some]).max(initial=0), 1e-3)
        np.testing.assert_allclose(a[some], b[some], atol=rtol * scale, rtol=rtol)


@pytest.mark.parametrize("case", BLOCKED)
@pytest.mark.parametrize("same_image", ["negative", "mask"])
def test_blocks_and_devices_change_nothing(case, same_image):
    mesh = jax.make_mesh((2, 2), ("data", "fsdp"), devices=jax.devices()[:4])
    mesh = jax.sharding.Mesh(mesh.devices, mesh.axis_names)  # axes of type Auto
    with jax.enable_x64(True):
        out, batch = example(16, 0, jnp.float64, images=12)
        whole = tiny.any_loss(case, same_image=same_image)
        state = visited(whole, dtype=jnp.float64)
        expected = value_and_gradient(whole, out, batch, state)
        for block, over in ((4, None), (5, None), (3, mesh), (0, mesh)):
            loss = tiny.any_loss(case, mesh=over, same_image=same_image, block=block)
            given_ = out, batch
            if over is not None:
                split = NamedSharding(over, PartitionSpec(("data", "fsdp")))
                given_ = jax.tree.map(
                    lambda x, s=split: jax.device_put(x, s) if x.ndim else x, given_
                )
            found = value_and_gradient(loss, *given_, state)
            assert_same(expected, found, 1e-6 if "log_u" in str(state) else 1e-10)


@pytest.mark.parametrize("case", tiny.LOSSES)
@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 1000))
def test_order_does_not_matter(case, seed):
    loss = tiny.any_loss(case, batch=8)
    state = visited(loss)
    out, batch = example(8, seed)
    order = np.random.default_rng(seed).permutation(8)
    shuffled = jax.tree.map(lambda x: x[order] if x.ndim else x, (out, batch))
    one = value_and_gradient(loss, out, batch, state)
    other = value_and_gradient(loss, *shuffled, state)
    assert_same(one[0], other[0], 2e-5)
    assert_same([g[order] if g.ndim else g for g in one[1]], list(other[1]), 2e-4)
    if case != "xbm":  # whose queue keeps the order
        assert_same(one[2], other[2], 2e-5)


@pytest.mark.parametrize("case", SYMMETRIC)
def test_towers_may_change_places(case):
    with jax.enable_x64(True):
        loss = tiny.any_loss(case)
        out, batch = example(16, 3, jnp.float64)
        swapped = dict(out)
        for kind in ("embed", "features"):
            swapped[f"image_{kind}"] = out[f"text_{kind}"]
            swapped[f"text_{kind}"] = out[f"image_{kind}"]
        one = loss(out, batch, loss.init(), 0)[0]
        other = loss(swapped, batch, loss.init(), 0)[0]
        assert float(one) == pytest.approx(float(other), rel=1e-9)


# The gradients of the others are of a surrogate, whose weights are held fixed.
TRUE_GRADIENT = ["clip", "cyclip", "hcl", "hn_nce", "siglip", "vicreg", "xbm"]


@pytest.mark.parametrize("case", TRUE_GRADIENT)
@pytest.mark.parametrize("block", [0, 5])
def test_gradient_by_differences(case, block):
    with jax.enable_x64(True):
        options = {} if case == "vicreg" else {"block": block}
        loss = tiny.any_loss(case, **options)
        out, batch = example(16, 4, jnp.float64)
        state = visited(loss, dtype=jnp.float64)
        draw = np.random.default_rng(0)
        floats = {key: x for key, x in out.items() if key != "logit_bias"}
        along = {
            key: jnp.asarray(draw.normal(size=x.shape)) for key, x in floats.items()
        }

        @jax.jit
        def value(h):
            moved = {key: floats[key] + h * along[key] for key in floats}
            return loss({**out, **moved}, batch, state, 1)[0]

        slope = float(jax.grad(value)(0.0))
        differences = (float(value(1e-5)) - float(value(-1e-5))) / 2e-5
        assert slope == pytest.approx(differences, rel=1e-6, abs=1e-8)


@pytest.mark.parametrize("case", tiny.LOSSES)
@pytest.mark.parametrize("temperature", [0.01, 0.005])
@pytest.mark.parametrize("alike", [0.0, 1.0])
def test_extremes_stay_finite(case, temperature, alike):
    """Sharp temperatures, identical embeddings, examples never seen before."""
    named = {
        "sogclr": {"temperature": temperature},
        "isogclr": {"temperature_init": temperature},
        "fastclip": {"temperature": max(temperature, 0.01)},
        "onlineclr": {"negative_temperature": temperature},
    }
    loss = tiny.any_loss(case, **named.get(case.split()[0], {}))
    out, batch = example(16, 5, alike=alike)
    out["logit_scale"] = jnp.asarray(1 / temperature, jnp.float32)
    state = loss.init()
    for _ in range(3):
        value, gradient, state = value_and_gradient(loss, out, batch, state)
        assert np.isfinite(value)
        assert all(np.isfinite(g).all() for g in gradient)


@pytest.mark.parametrize(
    "case", sorted(set(tiny.LOSSES) - {"clip", "cyclip", "siglip"})
)
def test_a_batch_of_one(case):
    if case == "xbm":
        case = "dcl"
    loss = tiny.any_loss(case, batch=1)
    with pytest.raises(UserError, match="batch_size=1"):
        loss(*example(1, 0), loss.init(), 0)


@pytest.mark.parametrize("case", ["sogclr", "isogclr", "fastclip"])
def test_repeated_ids_have_one_result(case):
    """Rows of one id bring their mean; the order of writing cannot matter."""
    loss = tiny.any_loss(case)
    out, batch = example(16, 6, images=4)
    _, _, after = value_and_gradient(loss, out, batch, loss.init())
    whole = tiny.any_loss(case)
    order = np.arange(16)[::-1]
    turned = jax.tree.map(lambda x: x[order] if x.ndim else x, (out, batch))
    _, _, again = value_and_gradient(whole, *turned, whole.init())
    assert_same(after, again, 1e-5)
    table = np.asarray(after["image_log_u"])
    seen = np.unique(batch["image_id"])
    assert np.isfinite(table[seen]).all() and np.isneginf(np.delete(table, seen)).all()


def test_mean_over_repeated_ids_by_hand():
    loss = tiny.any_loss("sogclr", batch=3, temperature=1.0)
    out, _ = example(3, 7)
    batch = {key: jnp.array([5, 5, 2], jnp.int32) for key in ("image_id", "text_id")}
    _, _, after = value_and_gradient(loss, out, batch, loss.init())
    s = np.asarray(out["image_embed"] @ out["text_embed"].T, np.float64)
    g = [
        np.mean([np.exp(s[i, j] - s[i, i]) for j in range(3) if j != i])
        for i in range(3)
    ]
    log_u = np.asarray(after["image_log_u"])
    assert log_u[5] == pytest.approx(np.log((g[0] + g[1]) / 2), abs=1e-5)
    assert log_u[2] == pytest.approx(np.log(g[2]), abs=1e-5)


@pytest.mark.parametrize("case", ["sogclr", "isogclr", "onlineclr", "fastclip"])
def test_ten_thousand_steps(case):
    """At temperature 0.01, from random to aligned embeddings and back: no overflow, and
    every example still pulls at the end."""
    named = {"sogclr": "temperature", "isogclr": "temperature_init"}
    named |= {"onlineclr": "negative_temperature"}
    loss = tiny.any_loss(case, **({named[case]: 0.01} if case in named else {}))
    out, batch = example(16, 8)
    text = out["text_embed"]
    out["logit_scale"] = jnp.asarray(100.0)

    def step(state, i):
        share = jnp.cos(i / 500) ** 2
        image = share * text + (1 - share) * jnp.roll(text, 1, axis=0)
        image /= jnp.linalg.norm(image, axis=1, keepdims=True)
        value, state, _ = loss({**out, "image_embed": image}, batch, state, i)
        return state, value

    state, values = jax.jit(lambda s: jax.lax.scan(step, s, jnp.arange(10_000)))(
        loss.init()
    )
    assert np.isfinite(values).all()
    ids = np.asarray(batch["image_id"])
    for name, table in state.items():
        assert np.isfinite(np.asarray(table)[ids] if table.ndim else table).all(), name
    hard = jnp.roll(text, 1, axis=0)  # every own pair worse than another
    _, gradient, _ = value_and_gradient(
        loss, {**out, "image_embed": hard}, batch, state
    )
    assert (np.linalg.norm(gradient[0], axis=1) > 1e-8).all()


@pytest.mark.parametrize("case", ["clip", "siglip"])
def test_several_captions_of_one_image(case):
    """By hand, over two captions of image 0 and one of image 1."""
    out, _ = example(3, 9)
    ids = np.array([0, 0, 1])
    batch = {"image_id": jnp.asarray(ids, jnp.int32)}
    scale, bias = 8.0, -2.0 if case == "siglip" else 0.0
    s = scale * np.asarray(out["image_embed"] @ out["text_embed"].T, np.float64) + bias
    same = ids[:, None] == ids[None]

    def softmax(keep, target):
        def one(s, keep, target):
            log = s - np.log((np.exp(s) * keep).sum(1, keepdims=True))
            return -(target * np.where(keep, log, 0)).sum(1).mean()

        return (one(s, keep, target) + one(s.T, keep.T, target.T)) / 2

    def sigmoid(keep, target):
        z = np.where(target > 0, 1, -1)
        return (keep * np.log1p(np.exp(-z * s))).sum() / 3

    find = softmax if case == "clip" else sigmoid
    eye, full = np.eye(3), np.ones((3, 3), bool)
    even = same / same.sum(1, keepdims=True)
    for mode, keep, target in (
        ("negative", full, eye),
        ("mask", ~same | (eye > 0), eye),
        ("positive", full, even),
    ):
        for block in (0, 2):
            loss = tiny.any_loss(case, 3, same_image=mode, block=block)
            if case == "clip":
                loss = tiny.loss(3, same_image=mode, block=block)
            value = loss(out, batch, loss.init(), 0)[0]
            assert float(value) == pytest.approx(find(keep, target), rel=1e-5), mode


def test_schedules():
    loss = tiny.any_loss(
        "sogclr", schedules=(("gamma", "cosine", 0.2, 0.5),), gamma=1.0
    )
    at = [float(loss.values.at(step)["gamma"]) for step in (0, 10, 20, 40)]
    # 40 steps: half-way down after a quarter of them.
    assert at == pytest.approx([1.0, 0.6, 0.2, 0.2])
    loss = tiny.any_loss("sogclr", schedules=(("temperature", "linear", 0.01, 1.0),))
    assert float(loss.values.at(20)["temperature"]) == pytest.approx(0.04)
    for wrong in (
        (("rho", "cosine", 1.0, 0.5),),
        (("gamma", "square", 0.5, 0.5),),
        (("gamma", "cosine", 2.0, 0.5),),
        (("gamma", "cosine", 0.5, 0.0),),
    ):
        with pytest.raises(UserError, match="loss"):
            tiny.any_loss("sogclr", schedules=wrong)


def test_tables_are_split_over_devices():
    loss = tiny.loss(name="sogclr")
    del loss
    mesh = jax.sharding.Mesh(np.array(jax.devices()).reshape(4, 2), ("data", "fsdp"))
    tree = {"loss_state": {"image_log_u": jax.ShapeDtypeStruct((2**17,), jnp.float32)}}
    found = sharding.tree_shardings(mesh, tree)["loss_state"]["image_log_u"]
    assert found.shard_shape((2**17,)) == (2**14,)
