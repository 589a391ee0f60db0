"""Losses against golden numbers recomputed in NumPy float64."""

import jax
import jax.numpy as jnp
import model_tools
import numpy as np
import pytest
from shape_checks import unchecked

import tiny
from clipjax import registry
from clipjax.losses.common.combined import CombinedLoss
from clipjax.types import LossSpec, UserError

IMAGE = np.array([(1, 0), (0, 1), (0.6, 0.8)])
TEXT = np.array([(0.8, 0.6), (0.28, 0.96), (1, 0)])


def outputs(temperature, dtype=np.float64, **more):
    return {
        "image_embed": jnp.asarray(IMAGE, dtype),
        "text_embed": jnp.asarray(TEXT, dtype),
        "logit_scale": jnp.asarray(1 / temperature, dtype),
        **more,
    }


@pytest.mark.parametrize(
    ("temperature", "golden"),
    [(0.5, 1.0526379876), (0.07, 2.8738777336), (0.01, 18.6956120698)],
)
def test_clip_golden(temperature, golden):
    with jax.enable_x64(True):
        value, state, metrics = tiny.loss()(outputs(temperature), {}, {}, 0)
        assert value.dtype == jnp.float64
        assert float(value) == pytest.approx(golden, abs=1e-9)
        assert state == {}
        assert float(metrics["image_to_text_accuracy"]) == pytest.approx(1 / 3)
        assert float(metrics["text_to_image_accuracy"]) == pytest.approx(1 / 3)
    value, _, _ = tiny.loss()(outputs(temperature, np.float32), {}, {}, 0)
    assert float(value) == pytest.approx(golden, rel=1e-6)


def test_clip_gradient_is_the_closed_form():
    # dL/dS = (P_row + P_col - 2 I) / (2 B tau), S = image text^T.
    with jax.enable_x64(True):
        tau = 0.5
        given = outputs(tau)

        def value(image):
            return tiny.loss()({**given, "image_embed": image}, {}, {}, 0)[0]

        gradient = jax.grad(value)(given["image_embed"])
        s = IMAGE @ TEXT.T / tau
        rows = np.exp(s) / np.exp(s).sum(1, keepdims=True)
        columns = np.exp(s) / np.exp(s).sum(0, keepdims=True)
        expected = (rows + columns - 2 * np.eye(3)) / (6 * tau) @ TEXT
        np.testing.assert_allclose(gradient, expected, atol=1e-12)


def test_clip_of_identical_embeddings_is_ln_b():
    ones = jnp.ones((3, 2))
    same = {"image_embed": ones, "text_embed": ones, "logit_scale": jnp.float32(100)}
    value, _, metrics = tiny.loss()(same, {}, {}, 0)
    assert float(value) == pytest.approx(np.log(3), rel=1e-5)
    # A collapsed model guesses.
    assert float(metrics["image_to_text_accuracy"]) == pytest.approx(1 / 3)


def test_a_bias_leaves_the_softmax_loss_as_it_is():
    plain, _, _ = tiny.loss()(outputs(0.5, np.float32), {}, {}, 0)
    biased, _, _ = tiny.loss()(
        outputs(0.5, np.float32, logit_bias=jnp.float32(-3.0)), {}, {}, 0
    )
    assert float(biased) == pytest.approx(float(plain), rel=1e-5)


def test_label_smoothing_by_hand():
    s = IMAGE @ TEXT.T / 0.5
    target = np.full((3, 3), 0.2 / 3) + 0.8 * np.eye(3)

    def cross_entropy(logits):
        log = logits - np.log(np.exp(logits).sum(1, keepdims=True))
        return -(target * log).sum(1).mean()

    expected = (cross_entropy(s) + cross_entropy(s.T)) / 2
    value, _, _ = tiny.loss(label_smoothing=0.2)(outputs(0.5, np.float32), {}, {}, 0)
    assert float(value) == pytest.approx(expected, rel=1e-5)


def test_a_sum_of_losses():
    clip, cyclip = tiny.loss(), tiny.loss(name="cyclip")
    both = CombinedLoss((("clip", 1.0, clip), ("cyclip", 0.5, cyclip)))
    given = outputs(0.5, np.float32)
    value, state, metrics = both(given, {}, both.init(), 0)
    parts = [float(loss(given, {}, {}, 0)[0]) for loss in (clip, cyclip)]
    assert float(value) == pytest.approx(parts[0] + 0.5 * parts[1], rel=1e-6)
    assert state == {"clip": {}, "cyclip": {}}
    assert float(metrics["cyclip_loss"]) == pytest.approx(parts[1], rel=1e-6)


def classify(logits, label, weights=None, **options):
    batch = {"label": jnp.asarray(label, jnp.int32)}
    if weights is not None:
        batch["label_weights"] = jnp.asarray(weights)
    loss = tiny.loss(name="cross_entropy", **options)
    value, _, metrics = loss({"logits": jnp.asarray(logits)}, batch, {}, 0)
    return float(value), float(metrics["accuracy"])


def test_cross_entropy_by_hand():
    logits = np.array([[2.0, 1.0, 0.0], [0.0, 3.0, 1.0], [5.0, 5.0, 5.0]])
    log = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    # The third has no label, and does not count.
    value, accuracy = classify(logits, [0, 2, -1])
    assert value == pytest.approx(-(log[0, 0] + log[1, 2]) / 2, rel=1e-6)
    assert accuracy == 0.5
    value, _ = classify(logits, [0, 2, -1], label_smoothing=0.3)
    smooth = 0.7 * np.eye(3)[[0, 2]] + 0.1
    assert value == pytest.approx(-(smooth * log[:2]).sum(1).mean(), rel=1e-6)
    soft = [[0.5, 0.5, 0.0], [0.0, 0.2, 0.8], [0.0, 0.0, 0.0]]
    value, _ = classify(logits, [0, 2, -1], weights=soft)
    assert value == pytest.approx(-(np.array(soft) * log).sum() / 2, rel=1e-6)
    value, _ = classify(logits, [0, 2, -1], kind="sigmoid")
    p = 1 / (1 + np.exp(-logits[:2]))
    y = np.eye(3)[[0, 2]]
    expected = -(y * np.log(p) + (1 - y) * np.log(1 - p)).sum(1).mean()
    assert value == pytest.approx(expected, rel=1e-6)


def test_siglip_needs_a_model_with_a_bias():
    with pytest.raises(UserError, match="logit_bias_init"):
        tiny.loss(name="siglip")(outputs(0.5, np.float32), {}, {}, 0)


@pytest.mark.thorough
def test_an_expander_is_what_vicreg_looks_at():
    model = tiny.model(expander=(32, 24))
    batch = jax.tree.map(jnp.asarray, tiny.batch(8))
    variables = model_tools.init(model)
    found = model_tools.run(model, variables, batch, True, jax.random.key(1))
    assert found["image_expanded"].shape == (8, 24)
    loss = tiny.loss(name="vicreg")
    swapped = {**found, "image_expanded": found["text_expanded"]}
    assert float(loss(swapped, batch, {}, 0)[2]["invariance"]) == 0
    outputs = jax.eval_shape(model.encode_image, variables, batch["image"])
    assert "image_expanded" not in outputs


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("sogclr", {"surrogate": "squared_hinge", "margin": -5.0}, "loss.margin=-5.0"),
        ("sogclr", {"eps": np.inf}, "loss.eps=inf"),
        (
            "cyclip",
            {"in_modal": 0.0, "cross_modal": 0.0, "contrastive": 0.0},
            "one of them",
        ),
        ("vicreg", {"invariance": np.nan}, "loss.invariance=nan"),
        ("clip", {"image_weight": 0.0, "text_weight": 0.0}, "one of them above 0"),
        ("hcl", {"beta": np.nan}, "loss.beta=nan"),
        ("dcl", {"sigma": np.nan}, "loss.sigma=nan"),
        ("xbm", {"size": 32, "start_step": 40}, "below the run's 40 steps"),
        ("clip", {"block": 1.5}, "loss.block=1.5"),
        ("fastclip", {"temperature": 0.05}, "loss.temperature=0.05.*the model's"),
        ("fastclip", {"variant": "v1", "rho": 5.0}, "loss.rho=5.0.*variant=v1"),
        (
            "fastclip",
            {"variant": "v2", "schedules": (("temperature", "linear", 0.1, 1.0),)},
            "'temperature' has no part in variant v2",
        ),
        (
            "fastclip",
            {"variant": "v0", "schedules": (("rho", "linear", 5.0, 1.0),)},
            "'rho' has no part in variant v0",
        ),
    ],
)
def test_options_that_would_train_nothing(name, options, message):
    with pytest.raises(UserError, match=message), unchecked():
        tiny.loss(name=name, **options)


def test_vicreg_holds_no_matrix_of_large_batches():
    size = 8192
    rows = jax.ShapeDtypeStruct((size, 8), jnp.float32)
    given = dict.fromkeys(
        ("image_embed", "text_embed", "image_features", "text_features"), rows
    )
    loss = tiny.loss(batch=size, name="vicreg")
    compiled = jax.jit(
        lambda found: loss({**found, "logit_scale": 1.0}, {}, {}, 0)[2]
    ).lower(given)
    found = compiled.compile().memory_analysis().temp_size_in_bytes
    assert found < 2 * size**2  # half of the matrix in float32


def test_a_memory_begins_late():
    """Embeddings of early steps are not remembered: by default in half of 40 steps."""
    given = outputs(0.5, np.float32)
    spec = LossSpec(3, 3, 2, 3, 1, 40)
    loss = registry.load("loss", "xbm")(spec, size=6)
    state = loss.init()
    remember = jax.jit(lambda *given: loss(*given)[1])
    for step, filled in ((0, 0), (19, 0), (20, 3), (21, 6)):
        state = remember(given, {"image_id": jnp.arange(3)}, state, step)
        assert int((state["queue_id"] >= 0).sum()) == filled
