"""What holds for every loss: any order, any number of devices, any size of block."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from marks import mostly

import tiny
from clipjax import registry, testing
from clipjax.engine import sharding
from clipjax.testing import contract, loss_contract
from clipjax.testing.loss_contract import example
from clipjax.types import UserError

# The losses whose formula does not tell images from texts.
SYMMETRIC = [
    *("clip", "cyclip", "dcl", "hcl", "hn_nce", "onlineclr", "siglip", "vicreg"),
    *("sogclr", "isogclr", "fastclip"),
]

# One of each kind: a softmax, pairs alone, tables by id, scalars, a queue.
KINDS = ("clip", "siglip", "sogclr", "fastclip v2", "onlineclr", "xbm")
# What the whole contract is checked for: every loss of the registry.
CASES = tiny.LOSSES | {"cross_entropy": ({}, {}), "tri_modal": ({}, {})}


def subject(case, **more):
    """A loss of CASES for single checks of its contract."""
    options = CASES[case][0] | more
    return loss_contract.LossUnderTest(
        contract.component("loss", case.split()[0], options)
    )


def visited(loss, size=16, dtype=jnp.float32):
    """A state after one step, so that averages are not fresh."""
    out, batch = example(size, 99, dtype)
    return value_and_gradient(loss, out, batch, loss.init())[2]


FREE = ("image_embed", "text_embed", "image_features", "logit_scale")


@functools.cache
def compiled(loss):
    def value(free, out, batch, state):
        given_ = {**out, **dict(zip(FREE, free, strict=True))}
        found, after, _ = loss(given_, batch, state, 1)
        return found, after

    return jax.jit(jax.value_and_grad(value, has_aux=True))


def value_and_gradient(loss, out, batch, state):
    free = tuple(out[key] for key in FREE)
    (found, after), gradient = compiled(loss)(free, out, batch, state)
    return found, gradient, after


def assert_same(one, other, rtol):
    contract.same(one, other, rtol, "not the same")


def test_every_loss_is_here():
    assert {case.split()[0] for case in CASES} == set(registry.names("loss"))


@pytest.mark.parametrize("case", mostly(CASES, ("cross_entropy",)))
def test_contract(case):
    testing.check_loss(case.split()[0], **CASES[case][0])


@pytest.mark.parametrize("case", mostly(("clip", "siglip", "sogclr", "hn_nce"), ()))
def test_masked_pairs_in_blocks_and_on_devices(case):
    loss_contract.splitting_changes_nothing(subject(case, same_image="mask"))


@pytest.mark.thorough
@pytest.mark.parametrize("case", SYMMETRIC)
def test_towers_may_change_places(case):
    with jax.enable_x64(True):
        loss = tiny.any_loss(case)
        out, batch = example(16, 3, jnp.float64)
        swapped = dict(out)
        for kind in ("embed", "features"):
            swapped[f"image_{kind}"] = out[f"text_{kind}"]
            swapped[f"text_{kind}"] = out[f"image_{kind}"]
        one = value_and_gradient(loss, out, batch, loss.init())[0]
        other = value_and_gradient(loss, swapped, batch, loss.init())[0]
        assert float(one) == pytest.approx(float(other), rel=1e-9)


# The gradients of the others are of a surrogate, whose weights are held fixed.
TRUE_GRADIENT = ["clip", "cyclip", "hcl", "hn_nce", "siglip", "vicreg", "xbm"]


@pytest.mark.parametrize("case", TRUE_GRADIENT)
def test_gradient_by_differences(case):
    with jax.enable_x64(True):
        loss = tiny.any_loss(case)
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


# A loss's own temperature in place of the model's.
SHARP = {
    "sogclr": "temperature",
    "sogclr hinge": "temperature",
    "isogclr": "temperature_init",
    "onlineclr": "negative_temperature",
    "fastclip v1": "temperature",
    "fastclip v2": "temperature",
}


@pytest.mark.parametrize("case", mostly(SHARP, ("sogclr", "onlineclr", "fastclip v2")))
def test_sharp_temperatures_of_its_own(case):
    least = 0.01 if case == "fastclip v2" else 0.005
    loss_contract.stays_finite(subject(case, **{SHARP[case]: least}))


DEFINED_FOR_ONE = {"siglip", "xbm"}


@pytest.mark.parametrize("case", sorted(DEFINED_FOR_ONE))
def test_a_batch_of_one_where_it_means_something(case):
    loss = tiny.any_loss(case, batch=1)
    out, batch = example(1, 0)
    value, _, metrics = jax.jit(loss)(out, batch, loss.init(), 0)
    assert np.isfinite(value)
    assert all(np.isfinite(metric) for metric in metrics.values())


@pytest.mark.parametrize("case", sorted(set(tiny.LOSSES) - DEFINED_FOR_ONE))
def test_a_batch_of_one_is_refused(case):
    loss = tiny.any_loss(case, batch=1)
    with pytest.raises(UserError, match="batch_size=1"):
        loss(*example(1, 0), loss.init(), 0)


def test_a_batch_of_one_is_refused_by_tri_modal():
    with pytest.raises(UserError, match="batch_size=1"):
        tiny.loss(1, "tri_modal")(*example(1, 0), {}, 0)


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


@pytest.mark.parametrize(
    "case", mostly(["sogclr", "isogclr", "onlineclr", "fastclip"], ["sogclr"])
)
def test_ten_thousand_steps(case):
    """At temperature 0.01, from wrong to right embeddings and back: no overflow, and
    after 200 steps of wrong ones every example pulls again, none is dead."""
    named = {"sogclr": "temperature", "isogclr": "temperature_init"}
    named |= {"onlineclr": "negative_temperature"}
    options = {named[case]: 0.01} if case in named else {}
    if case == "isogclr":  # visited at every step, not once an epoch
        options["temperature_lr"] = 1e-3
    loss = tiny.any_loss(case, **options)
    out, batch = example(16, 8)
    text = out["text_embed"]
    out["logit_scale"] = jnp.asarray(100.0)

    def step(state, i):
        share = jnp.where(i < 10_000, jnp.cos(i / 500) ** 2, 0.0)
        image = share * text + (1 - share) * jnp.roll(text, 1, axis=0)
        image /= jnp.linalg.norm(image, axis=1, keepdims=True)
        value, state, _ = loss({**out, "image_embed": image}, batch, state, i)
        return state, value

    state, values = jax.jit(lambda s: jax.lax.scan(step, s, jnp.arange(10_200)))(
        loss.init()
    )
    assert np.isfinite(values).all()
    for name, table in state.items():
        if table.ndim:
            table = table[batch["text_id" if name.startswith("text") else "image_id"]]
        assert np.isfinite(table).all(), name
    hard = jnp.roll(text, 1, axis=0)  # every own pair worse than another
    pull = np.zeros(16)
    for _ in range(4):  # iSogCLR's temperatures, and so its weights, can alternate
        _, gradient, state = value_and_gradient(
            loss, {**out, "image_embed": hard}, batch, state
        )
        pull += np.linalg.norm(gradient[0], axis=1)
    assert (pull > 1e-4).all()


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
            value = jax.jit(loss)(out, batch, loss.init(), 0)[0]
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


@pytest.mark.parametrize("case", ["sogclr", "isogclr", "fastclip v2"])
def test_tables_of_ten_million(case):
    """Four bytes an entry, as docs/losses.md says, split over all devices."""
    many = dataclasses.replace(tiny.spec(), num_images=10**7, num_texts=10**7)
    name, (options, _) = case.split()[0], tiny.LOSSES[case]
    loss = registry.load("loss", name)(many, **options)
    state = jax.eval_shape(loss.init)
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in state.values())
    expected = {"sogclr": 80e6, "isogclr": 240e6, "fastclip v2": 320e6}[case]
    assert size == pytest.approx(expected, rel=1e-3)
    mesh = jax.sharding.Mesh(np.array(jax.devices()).reshape(4, 2), ("data", "fsdp"))
    found = sharding.tree_shardings(mesh, {"loss_state": {"part": state}})
    for name, leaf in found["loss_state"]["part"].items():
        assert leaf.shard_shape(state[name].shape)[0] * 8 == state[name].shape[0]


@pytest.mark.parametrize("case", tiny.LOSSES)
def test_the_largest_batches_trace(case):
    """65,536 squared is beyond int32: no count of pairs may be one."""
    size = 2**16
    name, (options, _) = case.split()[0], tiny.LOSSES[case]
    options = {**options, "size": size} if case == "xbm" else options
    spec = dataclasses.replace(tiny.spec(size), num_images=size, num_texts=size)
    loss = registry.load("loss", name)(spec, **options)
    rows = jax.ShapeDtypeStruct((size, 16), jnp.float32)
    ids = jax.ShapeDtypeStruct((size,), jnp.int32)
    scalar = jax.ShapeDtypeStruct((), jnp.float32)
    out = {f"{s}_{k}": rows for s in ("image", "text") for k in ("embed", "features")}
    out |= {"logit_scale": scalar, "logit_bias": scalar}
    batch = {"image_id": ids, "text_id": ids}
    value, _, _ = jax.eval_shape(loss, out, batch, jax.eval_shape(loss.init), 1)
    assert value.shape == ()


@pytest.mark.thorough
@pytest.mark.parametrize("case", ["clip", "siglip", "sogclr"])
def test_one_example_on_each_device(case):
    mesh = jax.sharding.Mesh(np.array(jax.devices()).reshape(4, 2), ("data", "fsdp"))
    out, batch = example(8, 10)
    whole = tiny.any_loss(case, batch=8)
    expected = value_and_gradient(whole, out, batch, whole.init())
    split = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
    given_ = jax.tree.map(lambda x: jax.device_put(x, split) if x.ndim else x, out)
    loss = tiny.any_loss(case, batch=8, mesh=mesh, block=4)
    assert_same(expected, value_and_gradient(loss, given_, batch, loss.init()), 1e-5)


@pytest.mark.parametrize("case", mostly(tiny.LOSSES, KINDS))
def test_a_batch_of_one_image_masked_costs_nothing_but_is_finite(case):
    if case == "vicreg":
        pytest.skip("has no pairs to mask")
    loss_contract.stays_finite(subject(case, same_image="mask"))


def anchors(s, ids):
    """For each row of S: its own similarity and those of its negatives."""
    for i in range(len(s)):
        yield s[i, i], s[i, ids != ids[i]]


def _hcl(own, n):
    hard = np.exp(16 * n).sum() / np.exp(8 * n).mean()
    hard -= 0.1 * len(n) * np.exp(8 * own)
    return max(hard / 0.9, len(n) * np.exp(-8.0))


IDS = np.array([0, 0, 0, 1, 1, 2])

# From an anchor's own similarity and those of its negatives, at scale 8.
BY_HAND = {
    "dcl": lambda own, n: np.log(np.exp(8 * n).sum()) - 8 * own,
    "hn_nce": lambda own, n: (
        np.log(np.exp(8 * own) + len(n) * np.exp(10 * n).sum() / np.exp(2 * n).sum())
        - 8 * own
    ),
    "hcl": lambda own, n: np.log1p(_hcl(own, n) / np.exp(8 * own)),
}


@pytest.mark.parametrize("case", BY_HAND)
@pytest.mark.parametrize("block", [0, 5])
def test_masked_pairs_by_hand(case, block):
    """Losses of images of three, two and one captions."""
    with jax.enable_x64(True):
        out, batch = example(6, 13, jnp.float64)
        batch["image_id"] = jnp.asarray(IDS, jnp.int32)
        options = {"sigma": 0.0} if case == "dcl" else {}
        loss = tiny.loss(6, case, same_image="mask", block=block, **options)
        s = np.asarray(out["image_embed"] @ out["text_embed"].T)
        costs = [BY_HAND[case](*a) for m in (s, s.T) for a in anchors(m, IDS)]
        value = jax.jit(loss)(out, batch, loss.init(), 0)[0]
        assert float(value) == pytest.approx(np.mean(costs), rel=1e-8)


def _log_sum(x):
    return np.log(np.exp(x).sum())


def _softmax_positive(s, match):
    """CLIP's loss with an even target over all matches."""
    return np.mean([_log_sum(s[i]) - s[i, match[i]].mean() for i in range(len(s))])


def _decoupled_positive(s, match):
    return np.mean(
        [_log_sum(s[i, ~match[i]]) - s[i, match[i]].mean() for i in range(len(s))]
    )


# Of logits 8 S and which pairs match, one direction.
POSITIVE = {
    "dcl": _decoupled_positive,
    "xbm": _softmax_positive,
    "tri_modal": _softmax_positive,
}


@pytest.mark.parametrize("case", POSITIVE)
@pytest.mark.parametrize("block", [0, 5])
def test_several_matches_by_hand(case, block):
    with jax.enable_x64(True):
        out, batch = example(6, 15, jnp.float64)
        batch["image_id"] = jnp.asarray(IDS, jnp.int32)
        options = {"size": 12} if case == "xbm" else {}
        loss = tiny.loss(6, case, same_image="positive", block=block, **options)
        s = 8 * np.asarray(out["image_embed"] @ out["text_embed"].T)
        match = IDS[:, None] == IDS[None]
        expected = (POSITIVE[case](s, match) + POSITIVE[case](s.T, match)) / 2
        value = jax.jit(loss)(out, batch, loss.init(), 0)[0]
        assert float(value) == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("block", [0, 5])
def test_onlineclr_with_several_matches(block):
    """At the first step the objective's own gradient, and a state by hand."""
    with jax.enable_x64(True):
        out, batch = example(6, 15, jnp.float64)
        batch["image_id"] = jnp.asarray(IDS, jnp.int32)
        t_n, t_p = 0.07, 0.3
        loss = tiny.loss(
            6,
            "onlineclr",
            same_image="positive",
            positive_temperature=t_p,
            block=block,
        )
        match = IDS[:, None] == IDS[None]

        def by_hand(image):
            s = image @ out["text_embed"].T
            away, toward = s[~match], s[match]
            return t_n * jnp.log(2 * jnp.exp(away / t_n).sum()) + t_p * jnp.log(
                2 * jnp.exp(-toward / t_p).sum()
            )

        def value(image):
            given_ = {**out, "image_embed": image}
            found, state, metrics = loss(given_, batch, loss.init(), 0)
            return found, (state, metrics)

        slope, (state, metrics) = jax.jit(jax.grad(value, has_aux=True))(
            out["image_embed"]
        )
        np.testing.assert_allclose(slope, jax.grad(by_hand)(out["image_embed"]), 1e-7)
        expected = by_hand(out["image_embed"])
        # The state is in float32.
        assert float(metrics["objective"]) == pytest.approx(float(expected), rel=1e-6)
        s = np.asarray(out["image_embed"] @ out["text_embed"].T)
        positive = np.log(2 * np.exp(-s[match] / t_p).sum())
        assert float(state["positive_log_u"]) == pytest.approx(positive, rel=1e-6)


def test_tri_modal_matches_only_rows_that_are_there():
    """Row 1, of row 0's image, lacks its text; row 0 then has one match alone."""
    out, batch = example(4, 16)
    batch["image_id"] = jnp.asarray([0, 0, 1, 2], jnp.int32)
    batch["text_present"] = jnp.asarray([True, False, True, True])
    loss = tiny.loss(4, "tri_modal", same_image="positive")
    value = jax.jit(loss)(out, batch, {}, 0)[0]
    some = np.array([0, 2, 3])
    fewer = {key: x[some] if x.ndim else x for key, x in out.items()}
    expected = jax.jit(tiny.loss())(fewer, {}, {}, 0)[0]
    assert float(value) == pytest.approx(float(expected), 1e-5)


def test_a_large_queue_is_split_over_devices():
    mesh = jax.sharding.Mesh(np.array(jax.devices()).reshape(4, 2), ("data", "fsdp"))
    state = jax.eval_shape(tiny.any_loss("xbm", mesh=mesh, size=2**16).init)
    found = sharding.tree_shardings(mesh, {"loss_state": state})["loss_state"]
    assert found["text_queue"].shard_shape((16, 2**12, 16)) == (2, 2**12, 16)
    assert found["queue_id"].shard_shape((16, 2**12)) == (2, 2**12)


@pytest.mark.thorough
@pytest.mark.parametrize("hinge", [False, True])
@pytest.mark.parametrize("block", [0, 5])
def test_masked_surrogates_by_hand(hinge, block):
    """At first visits u is the mean of g over an image's rows; texts differ."""
    with jax.enable_x64(True):
        out, batch = example(6, 13, jnp.float64)
        batch["image_id"] = jnp.asarray(IDS, jnp.int32)
        surrogate = "squared_hinge" if hinge else "linear"
        loss = tiny.loss(
            6, "sogclr", same_image="mask", surrogate=surrogate, block=block
        )
        s = np.asarray(out["image_embed"] @ out["text_embed"].T)
        expected = 0.0
        for m, groups in ((s, IDS), (s.T, np.arange(6))):
            costs = [negatives - own for own, negatives in anchors(m, IDS)]
            if hinge:
                costs = [np.maximum(d + 1, 0) ** 2 for d in costs]
            g = np.array([np.exp(cost / 0.07).mean() for cost in costs])
            for i, cost in enumerate(costs):
                u = g[groups == groups[i]].mean()
                expected += (np.exp(cost / 0.07) / u * cost).mean() / 6
        value = jax.jit(loss)(out, batch, loss.init(), 0)[0]
        assert float(value) == pytest.approx(expected, rel=1e-7)


def test_fixed_weights_carry_no_gradient():
    with jax.enable_x64(True):
        out, batch = example(8, 14, jnp.float64)
        loss = tiny.any_loss("hn_nce", batch=8, fixed_weights=True)
        others = ~np.eye(8, dtype=bool)

        def by_hand(image):
            total = 0.0
            logits = 8.0 * image @ out["text_embed"].T
            for m in (logits, logits.T):
                w = jnp.where(others, jnp.exp(0.25 * m), 0)
                w = jax.lax.stop_gradient(7 * w / w.sum(1, keepdims=True))
                own = jnp.diagonal(m)
                below = jnp.exp(own) + jnp.where(others, w * jnp.exp(m), 0).sum(1)
                total += (jnp.log(below) - own).mean() / 2
            return total

        expected = jax.grad(by_hand)(out["image_embed"])
        found = value_and_gradient(loss, out, batch, {})[1][0]
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.thorough
@pytest.mark.parametrize("case", ["clip", "xbm", "tri_modal"])
def test_accuracy_is_of_all_pairs_whatever_the_mode(case):
    """Of one image alone, masked pairs would leave nothing to get wrong."""
    out, batch = example(16, 17, images=1)
    options = {"size": 16} if case == "xbm" else {}
    found = []
    for mode in ("negative", "mask", "positive"):
        loss = tiny.loss(16, case, same_image=mode, **options)
        metrics = jax.jit(loss)(out, batch, loss.init(), 0)[2]
        found.append(float(metrics["image_to_text_accuracy"]))
    s = np.asarray(out["image_embed"] @ out["text_embed"].T)
    expected = np.mean(s.argmax(axis=1) == np.arange(16))
    assert expected < 0.5 and found == pytest.approx([expected] * 3)


@pytest.mark.parametrize("width", [16, 512, 768])
def test_accuracy_of_towers_that_agree(width):
    """Rounding of the own product must not look like a better pair elsewhere."""
    x = np.random.default_rng(0).normal(size=(256, width))
    x = jnp.asarray(x / np.linalg.norm(x, axis=1, keepdims=True), jnp.float32)
    out = {"image_embed": x, "text_embed": x, "logit_scale": jnp.float32(10)}
    metrics = jax.jit(tiny.loss(256))(out, {}, {}, 0)[2]
    assert metrics["image_to_text_accuracy"] == 1.0
    assert metrics["text_to_image_accuracy"] == 1.0
