"""Every loss against golden numbers, worked out apart in NumPy float64.

Three pairs in the plane, S = [[.8, .28, 1], [.6, .96, 0], [.96, .936, .6]].
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clipjax import registry
from clipjax.engine.gradients import at_least_float32
from clipjax.types import LossSpec

IMAGE = np.array([(1, 0), (0, 1), (0.6, 0.8)])
TEXT = np.array([(0.8, 0.6), (0.28, 0.96), (1, 0)])
BLOCKS = [0, 2]


def spec(**changes):
    sizes = {
        "num_images": 3,
        "num_texts": 3,
        "embed_dim": 2,
        "global_batch": 3,
        "steps_per_epoch": 10,
        "total_steps": 100,
    }
    return LossSpec(**{**sizes, **changes})


def make(name, **options):
    return registry.load("loss", name)(spec(), **options)


def outputs(temperature=0.5, dtype=np.float64, factor=1.0, **more):
    """factor: of S, by shortening the images."""
    return {
        "image_embed": jnp.asarray(IMAGE * factor, dtype),
        "text_embed": jnp.asarray(TEXT, dtype),
        "image_features": jnp.asarray(IMAGE, dtype),
        "text_features": jnp.asarray(TEXT, dtype),
        "logit_scale": jnp.asarray(1 / temperature, dtype),
        **more,
    }


BATCH = {
    "image_id": jnp.arange(3, dtype=jnp.int32),
    "text_id": jnp.arange(3, dtype=jnp.int32),
}


@functools.lru_cache
def jitted(loss):
    return jax.jit(loss)


def run(loss, *given, state=None):
    """Values, states and metrics of steps with the given outputs."""
    state = loss.init() if state is None else state
    found = []
    for step, out in enumerate(given):
        value, state, metrics = jitted(loss)(out, BATCH, state, step)
        found.append((float(value), state, metrics))
    return found


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


@pytest.fixture(params=BLOCKS, ids=["whole", "blocks"])
def block(request):
    return request.param


STATELESS = [
    ("clip", {}, 0.5, 1.0526379876),
    ("clip", {"image_weight": 1.0, "text_weight": 0.0}, 0.5, 1.0494171205),
    ("clip", {"image_weight": 0.0, "text_weight": 1.0}, 0.5, 1.0558588547),
    ("clip", {}, 0.07, 2.8738777336),
    ("clip", {}, 0.01, 18.6956120698),
    ("cyclip", {}, 0.5, 1.3743873210),
    ("cyclip", {"contrastive": 0.0, "cross_modal": 0.0}, 0.5, 0.25 * 0.6336),
    ("cyclip", {"contrastive": 0.0, "in_modal": 0.0}, 0.5, 0.25 * 0.6533973333),
    ("dcl", {}, 0.5, 0.5632201555),
    ("hn_nce", {}, 0.5, 2.2037667057 / 2),
    ("hn_nce", {"beta": 0.0}, 0.5, 1.0526379876),
    ("hn_nce", {"fixed_weights": True}, 0.5, 2.2037667057 / 2),
    (
        "hn_nce",
        {"alpha": 0.0, "beta": 0.15},
        0.5,
        (0.5522573668 + 0.6715879418) / 2,
    ),
    ("hcl", {}, 0.5, (1.1536022027 + 1.2651119078) / 2),
]


@pytest.mark.parametrize(("name", "options", "temperature", "golden"), STATELESS)
def test_stateless(name, options, temperature, golden, block):
    loss = make(name, block=block, **options)
    ((value, state, _),) = run(loss, outputs(temperature))
    assert value == pytest.approx(golden, abs=2e-9)
    assert state == {}
    ((value, _, _),) = run(loss, outputs(temperature, np.float32))
    assert value == pytest.approx(golden, rel=2e-6)


@pytest.mark.parametrize(("name", "options", "temperature", "golden"), STATELESS)
def test_from_bfloat16_embeddings(name, options, temperature, golden):
    """What a loss gets of a model that gives bfloat16. It errs by less than 2^-8 times
    the inverse temperature here; 2^-6 times is the most (docs/losses.md)."""
    short = {
        key: x.astype(jnp.bfloat16) if key.endswith("_embed") else x.astype(jnp.float32)
        for key, x in outputs(temperature).items()
    }
    loss = make(name, **options)
    ((value, _, _),) = run(loss, at_least_float32(short))
    assert value == pytest.approx(golden, abs=2**-8 / temperature)
    rounded = {key: x.astype(jnp.float32) for key, x in short.items()}
    ((exact, _, _),) = run(loss, rounded)
    assert value == pytest.approx(exact, rel=1e-7)


def test_the_most_that_bfloat16_can_cost():
    """All entries of these vectors are rounded up, by nearly 2^-8 of their size; each
    image is told to find its opposite. The bounds of docs/losses.md are all but met."""
    x = np.full(1016, 1016**-0.5)
    exact = {
        "image_embed": jnp.asarray([x, -x]),
        "text_embed": jnp.asarray([-x, x]),
        "logit_scale": jnp.asarray(100.0),
    }
    short = {
        key: value.astype(jnp.bfloat16) if key.endswith("_embed") else value
        for key, value in exact.items()
    }
    cosine = float(jnp.square(short["image_embed"][0].astype(jnp.float64)).sum())
    assert 0.95 * 2**-7 < cosine - 1 < 2**-7
    loss = make("clip")
    values = [run(loss, found)[0][0] for found in (exact, at_least_float32(short))]
    assert 0.95 * 2**-6 < (values[1] - values[0]) / 100 < 2**-6


@pytest.mark.parametrize(
    ("scale", "bias", "golden"), [(10, -10, 2.9022312562), (1, 0, 2.5235455035)]
)
def test_siglip(scale, bias, golden, block):
    given = outputs(1 / scale, logit_bias=jnp.asarray(float(bias)))
    ((value, _, _),) = run(make("siglip", block=block), given)
    assert value == pytest.approx(golden, abs=2e-9)


def test_vicreg():
    ((value, _, metrics),) = run(make("vicreg"), outputs())
    assert value == pytest.approx(18.6089902932, abs=1e-9)
    assert float(metrics["invariance"]) == pytest.approx(0.2133333333)
    assert float(metrics["variance"]) == pytest.approx(0.5276147200)
    assert float(metrics["covariance"]) == pytest.approx(0.0852889600)


def u(state, side):
    return np.exp(np.asarray(state[f"{side}_log_u"]))[:3]


def test_sogclr_two_steps(block):
    loss = make("sogclr", temperature=0.5, gamma=0.8, eps=1e-8, block=block)
    first, second = run(loss, outputs(), outputs(factor=0.5))
    assert first[0] == pytest.approx(0.0237512768, abs=1e-9)
    np.testing.assert_allclose(
        u(first[1], "image"), [0.92263969, 0.31667961, 2.00629146], rtol=1e-6
    )
    np.testing.assert_allclose(
        u(first[1], "text"), [1.02372391, 0.60489728, 1.26336757], rtol=1e-6
    )
    assert float(first[2]["objective"]) == pytest.approx(-0.1299270251, abs=1e-7)
    assert second[0] == pytest.approx(-0.0765055219, abs=1e-7)
    np.testing.assert_allclose(
        u(second[1], "image"), [0.91089726, 0.49556361, 1.53432567], rtol=1e-6
    )
    np.testing.assert_allclose(
        u(second[1], "text"), [1.00164143, 0.71414054, 1.06892805], rtol=1e-6
    )
    assert float(second[2]["objective"]) == pytest.approx(-0.1059454747, abs=1e-7)


def test_sogclr_gradient(block):
    loss = make("sogclr", temperature=0.5, gamma=0.8, eps=1e-8, block=block)
    ds = [
        [-0.66666666, 0.1345659, 0.5630839],
        [0.36530591, -0.66666665, 0.11689271],
        [0.39486823, 0.42528331, -0.66666666],
    ]

    def value(image):
        return loss({**outputs(), "image_embed": image}, BATCH, loss.init(), 0)[0]

    found = jax.jit(jax.grad(value))(jnp.asarray(IMAGE, jnp.float64))
    np.testing.assert_allclose(found, np.array(ds) @ TEXT, atol=3e-8)


def test_sogclr_as_its_authors_count_it(block):
    loss = make(
        "sogclr",
        temperature=0.5,
        gamma=0.8,
        eps=1e-10,
        cold_start="gamma",
        include_own=True,
        block=block,
    )
    ((value, state, _),) = run(loss, outputs())
    assert value == pytest.approx(0.1107409313, abs=1e-8)
    np.testing.assert_allclose(
        u(state, "image"), [1.13811175, 0.65334369, 2.00503317], rtol=1e-6
    )


def square(similarities, temperature):
    """Outputs of two pairs with this matrix S, and their batch."""
    given = {
        "image_embed": jnp.asarray(similarities),
        "text_embed": jnp.eye(2),
        "logit_scale": jnp.asarray(1 / temperature),
    }
    return given, {key: value[:2] for key, value in BATCH.items()}


def test_sogclr_squared_hinge(block):
    """By hand, S = [[.8, .2], [.5, .6]]: the square of max(0, S_ij - S_ii + 1) over the
    temperature stands in the exponentials; at first visits each weight is 1."""
    given, batch = square([[0.8, 0.2], [0.5, 0.6]], 0.5)
    hinge = {"surrogate": "squared_hinge", "margin": 1.0, "temperature": 0.5}
    loss = make("sogclr", block=block, eps=1e-14, **hinge)

    def value(image):
        out = {**given, "image_embed": image}
        found, state, metrics = loss(out, batch, loss.init(), 0)
        return found, (state, metrics)

    (found, (state, metrics)), slope = jax.jit(jax.value_and_grad(value, has_aux=True))(
        given["image_embed"]
    )
    # Costs: images (.2 - .8 + 1)^2, (.5 - .6 + 1)^2; texts (.5 - .8 + 1)^2,
    # (.2 - .6 + 1)^2.
    np.testing.assert_allclose(state["image_log_u"][:2], [0.32, 1.62], rtol=1e-6)
    np.testing.assert_allclose(state["text_log_u"][:2], [0.98, 0.72], rtol=1e-6)
    assert float(found) == pytest.approx((0.16 + 0.81 + 0.49 + 0.36) / 2)
    assert float(metrics["objective"]) == pytest.approx((0.16 + 0.81 + 0.49 + 0.36) / 2)
    # d S_ij is 2 max(0, ..) / 2 of each anchor that has j as its negative.
    ds = [[-0.4 - 0.7, 0.4 + 0.6], [0.9 + 0.7, -0.9 - 0.6]]
    np.testing.assert_allclose(slope, ds, atol=1e-12)


def test_sogclr_squared_hinge_with_the_own_pair(block):
    """Its term is e^(1 / .5), over the number of negatives, one."""
    given, batch = square([[0.8, 0.2], [0.5, 0.6]], 0.5)
    hinge = {"surrogate": "squared_hinge", "margin": 1.0, "temperature": 0.5}
    loss = make("sogclr", block=block, include_own=True, **hinge)
    state = jax.jit(loss)(given, batch, loss.init(), 0)[1]
    expected = np.log(np.exp([0.32, 1.62]) + np.exp(2))
    np.testing.assert_allclose(state["image_log_u"][:2], expected, rtol=1e-6)


def test_isogclr_as_its_authors_count_it(block):
    """zhqiu/contrastive-learning-iSogCLR: s = u e^-b with b a running maximum, from
    s = b = 0, the own pair's term in the sum; two steps, in NumPy."""
    t0, gamma, rho, eta, beta = 0.5, 0.8, 0.1, 0.03, 0.9
    loss = make(
        "isogclr",
        temperature_init=t0,
        rho=rho,
        gamma=gamma,
        temperature_lr=eta,
        beta=beta,
        eps=1e-14,
        cold_start="gamma",
        include_own=True,
        block=block,
    )
    new = lambda value: np.full((2, 3), value)  # noqa: E731
    s, b, v, t = new(0.0), new(0.0), new(0.0), new(t0)
    given = outputs(), outputs(factor=-0.5)
    for (value, state, _), factor in zip(run(loss, *given), (1, -0.5), strict=True):
        expected = 0.0
        for side, m in enumerate((IMAGE @ TEXT.T * factor, TEXT @ IMAGE.T * factor)):
            d = m - np.diag(m)[:, None]
            h = d / t[side][:, None]
            old = b[side].copy()
            b[side] = np.maximum(old, h.max(1))
            e = np.exp(h - b[side][:, None])
            s[side] = (1 - gamma) * s[side] * np.exp(old - b[side])
            s[side] += gamma * e.sum(1) / 2
            w = e / s[side][:, None]
            expected += (w * d).sum(1).mean() / 2
            slope = np.log(s[side]) + b[side] + rho - (w * h).sum(1) / 2
            v[side] = (1 - beta) * v[side] + beta * slope.clip(-5, 5)
            t[side] = (t[side] - eta * v[side]).clip(0.005, 1)
        assert value == pytest.approx(expected, rel=1e-6)
        for side, name in enumerate(("image", "text")):
            np.testing.assert_allclose(
                u(state, name), s[side] * np.exp(b[side]), rtol=1e-6
            )
            np.testing.assert_allclose(
                state[f"{name}_temperature"][:3], t[side], rtol=1e-6
            )


def test_isogclr_temperatures(block):
    loss = make(
        "isogclr",
        temperature_init=0.5,
        rho=0.1,
        temperature_lr=0.03,
        beta=0.9,
        block=block,
    )
    ((value, state, _),) = run(loss, outputs())
    # At equal temperatures the model's loss is SogCLR's.
    assert value == pytest.approx(0.0237512768, abs=1e-8)
    np.testing.assert_allclose(
        state["image_temperature"][:3], [0.50282666, 0.50140655, 0.49730777], atol=1e-7
    )
    slopes = np.array([0.03916981, -0.07635272, -0.22781333])
    np.testing.assert_allclose(state["text_momentum"][:3], 0.9 * slopes, atol=1e-8)


def test_fastclip_v2_first_temperatures():
    # Without moments in the first epoch, a step goes by the learning rate.
    loss = make("fastclip", variant="v2")
    ((_, state, _),) = run(loss, outputs())
    moved = np.asarray(state["image_temperature"][:3])
    np.testing.assert_allclose(np.abs(moved - 0.03), 0.0133, atol=1e-6)


@pytest.mark.parametrize(
    ("variant", "usual"),
    [
        ("v1", {"temperature": 0.07}),
        ("v2", {"temperature": 0.03, "rho": 7.0}),
        ("v3", {"rho": 6.5}),
    ],
)
def test_fastclip_has_its_authors_values(variant, usual):
    plain = make("fastclip", variant=variant)
    assert make("fastclip", variant=variant, **usual) == plain
    for name, value in usual.items():
        assert make("fastclip", variant=variant, **{name: value / 2}) != plain


def by_temperature(loss, t):
    """The loss and d loss / d t at the first step, t the model's temperature."""

    def value(t):
        out = {**outputs(), "logit_scale": 1 / t}
        return loss(out, BATCH, loss.init(), 0)[0]

    return jax.jit(jax.value_and_grad(value))(t)


def test_fastclip_v3(block):
    value, slope = by_temperature(make("fastclip", eps=1e-14, block=block), 0.5)
    assert float(value) == pytest.approx(3.1850364875, abs=1e-8)
    assert float(slope) == pytest.approx(6.3463217026, abs=1e-7)
    loss = make("fastclip", scaling="official", block=block)
    assert float(by_temperature(loss, 0.5)[1]) == pytest.approx(6.3226, abs=5e-5)


@pytest.mark.parametrize("scaling", ["consistent", "official"])
def test_fastclip_v0_moves_the_temperature_alike_in_both_scalings(scaling, block):
    """By hand, S = [[.8, .2], [.5, .6]] at scale 2: d / d log scale is the mean over
    images of 2 (-.6), 2 (-.1), and over texts of 2 (-.3), 2 (-.4)."""
    given, batch = square([[0.8, 0.2], [0.5, 0.6]], 0.5)
    loss = make("fastclip", variant="v0", scaling=scaling, block=block)

    def value(log_scale):
        out = {**given, "logit_scale": jnp.exp(log_scale)}
        return loss(out, batch, loss.init(), 0)[0]

    slope = jax.jit(jax.grad(value))(jnp.log(2.0))
    assert float(slope) == pytest.approx(-1.4, abs=1e-9)


def test_fastclip_v0_begins_at_two(block):
    ((value, _, _),) = run(make("fastclip", variant="v0", block=block), outputs())
    assert value == pytest.approx(2.0, abs=1e-7)


def gradient(loss, given):
    def value(image):
        return loss({**given, "image_embed": image}, BATCH, loss.init(), 0)[0]

    return np.asarray(jax.jit(jax.grad(value))(given["image_embed"]))


@pytest.mark.thorough
def test_fastclip_against_sogclr():
    """The scalings of the official code, measured there: 1 / 2t of SogCLR's in v1, half
    of it in v3."""
    t = 0.07
    given = outputs(t)
    sogclr = gradient(make("sogclr", temperature=t, eps=1e-14), given)
    for variant, scaling, factor in (
        ("v1", "official", 1 / (2 * t)),
        ("v1", "consistent", 0.5),
        ("v3", "official", 0.5),
        ("v3", "consistent", 0.5),
        ("v0", "consistent", 1 / t),
        ("v0", "official", 1 / (2 * t)),
    ):
        fixed = {"temperature": t} if variant == "v1" else {}
        loss = make("fastclip", variant=variant, scaling=scaling, **fixed)
        np.testing.assert_allclose(
            gradient(loss, given), factor * sogclr, rtol=1e-9, err_msg=variant + scaling
        )


def test_onlineclr_as_the_course_has_it(block):
    loss = make(
        "onlineclr",
        negative_temperature=0.1,
        positive_temperature=1.0,
        gamma=0.5,
        cold_start="gamma",
        block=block,
    )
    first, again = run(loss, outputs(), outputs())
    assert first[0] == pytest.approx(0.4084616855, abs=1e-7)
    assert float(first[1]["positive_log_u"]) == pytest.approx(0.3228321219, abs=1e-6)
    assert float(first[1]["negative_log_u"]) == pytest.approx(10.7960286686, abs=1e-5)
    assert again[0] == pytest.approx(0.2723077903, abs=1e-6)
    _, half = run(loss, outputs(), outputs(factor=0.5))
    assert half[0] == pytest.approx(-0.5635922810, abs=1e-6)
    assert np.exp(float(half[1]["positive_log_u"])) == pytest.approx(2.7204384016)
    shifted = np.exp(float(half[1]["negative_log_u"]) - 0.5 / 0.1)
    assert shifted == pytest.approx(167.2094927935, rel=1e-5)


def test_onlineclr_starts_with_weights_that_sum_to_one():
    loss = make("onlineclr", gamma=0.5)
    first, again = run(loss, outputs(), outputs())
    assert first[0] == pytest.approx(again[0], abs=1e-6)


def test_memory(block):
    loss = registry.load("loss", "xbm")(spec(), size=3, start_step=0, block=block)
    state = loss.init()
    state["text_queue"] = jnp.array([(0.6, 0.8), (0, 0), (0, 0)])[:, None]
    state["image_queue"] = jnp.array([(0.8, 0.6), (0, 0), (0, 0)])[:, None]
    state["queue_id"] = jnp.array([7, -1, -1], jnp.int32)[:, None]
    ((value, after, metrics),) = run(loss, outputs(), state=state)
    assert value == pytest.approx(1.3829939964, abs=1e-7)
    np.testing.assert_array_equal(after["queue_id"][:, 0], [0, 1, 2])
    np.testing.assert_allclose(after["text_queue"][:, 0], TEXT, rtol=1e-6)
    assert float(metrics["uninformed_loss"]) == pytest.approx(np.log(4))
    # An entry of an anchor's own image is no negative for it.
    state["queue_id"] = jnp.array([2, -1, -1], jnp.int32)[:, None]
    ((fewer, _, _),) = run(loss, outputs(), state=state)
    assert fewer < value


STATEFUL = [
    ("sogclr", {"temperature": 0.5}, 0.5),
    ("isogclr", {"temperature_init": 0.5, "temperature_lr": 1e-3}, 0.5),
    ("fastclip", {"variant": "v0"}, 0.5),
    ("fastclip", {}, 0.5),
    ("onlineclr", {"negative_temperature": 0.5}, 0.5),
    ("xbm", {"size": 3, "start_step": 0}, 0.5),
]


@pytest.mark.parametrize(
    ("name", "options", "temperature"),
    [
        pytest.param(*case, marks=[pytest.mark.slow] * (case[0] != "sogclr"))
        for case in STATEFUL
    ],
)
def test_five_steps_in_float32_and_from_bfloat16(name, options, temperature):
    """Against float64: to rounding; from bfloat16 embeddings u, an average of
    exponentials of differences of two cosines, errs by less than a factor of
    e^(2^-7 / temperature) here; by e^(2^-6 / temperature) at most."""
    loss = make(name, **options)
    found = {}
    for dtype in (jnp.float64, jnp.float32, jnp.bfloat16):
        given = (
            {
                key: x.astype(dtype) if key.endswith("_embed") else x
                for key, x in outputs(temperature, factor=factor).items()
            }
            for factor in (1, 0.5, 0.8, -0.2, 1)
        )
        if dtype != jnp.float64:
            given = (jax.tree.map(shortened, at_least_float32(out)) for out in given)
        found[dtype] = run(loss, *given)
    for exact, single, short in zip(*found.values(), strict=True):
        assert single[0] == pytest.approx(exact[0], rel=2e-5, abs=2e-6)
        for key, table in exact[1].items():
            np.testing.assert_allclose(single[1][key], table, rtol=2e-5, atol=2e-6)
            if key.endswith("log_u"):
                np.testing.assert_allclose(
                    short[1][key], table, rtol=0, atol=2**-7 / temperature
                )


def shortened(x):
    return x.astype(jnp.float32)
