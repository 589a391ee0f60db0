"""Metric uninformed_loss: what a loss is if no pair is told from another, or none."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tiny
from clipjax.losses.common.combined import CombinedLoss
from clipjax.losses.common.diagnostics import UNINFORMED

B = 8
# Images 0, 1, 2 and captions 1, 5, 6 are alike.
BATCH = {
    "image_id": jnp.asarray([0, 0, 0, 3, 4, 5, 6, 7], jnp.int32),
    "text_id": jnp.arange(B, dtype=jnp.int32),
    "text": jnp.asarray([[k] for k in (0, 1, 2, 3, 4, 1, 1, 7)], jnp.int32),
    "text_mask": jnp.ones((B, 1), bool),
}


def alike(cosine=0.6, scale=8.0):
    """Outputs of which every pair has this cosine, though each side's vary."""
    side = (1 - cosine**2) ** 0.5
    draw = np.random.default_rng(0).normal(size=(2, B, 7))
    draw /= np.linalg.norm(draw, axis=2, keepdims=True)
    # Along the common axis the cosine; what varies is at right angles to the other's.
    image = np.concatenate([np.ones((B, 1)), np.zeros((B, 15))], axis=1)
    text = np.concatenate(
        [np.full((B, 1), cosine), side * draw[1], np.zeros((B, 8))], axis=1
    )
    return {
        "image_embed": jnp.asarray(image, jnp.float32),
        "text_embed": jnp.asarray(text, jnp.float32),
        "image_features": jnp.asarray(image, jnp.float32),
        "text_features": jnp.asarray(text, jnp.float32),
        "logit_scale": jnp.float32(scale),
        "logit_bias": jnp.float32(-2.0),
    }


def found(loss, out, batch=None):
    value, _, metrics = jax.jit(lambda out: loss(out, batch or BATCH, loss.init(), 0))(
        out
    )
    return float(value), {k: float(v) for k, v in metrics.items()}


CASES = [
    ("clip", {}),
    ("clip", {"image_weight": 1.0, "label_smoothing": 0.1, "same_image": "mask"}),
    ("clip", {"same_image": "mask", "same_caption": "positive"}),
    ("cyclip", {}),
    ("siglip", {}),
    ("siglip", {"same_image": "mask", "same_caption": "positive"}),
    ("dcl", {"sigma": 0.5}),
    ("dcl", {"same_image": "positive", "same_caption": "mask"}),
    ("hn_nce", {"alpha": 0.5, "same_caption": "mask"}),
    ("hcl", {}),
    ("xbm", {"size": B}),
    ("tri_modal", {"same_image": "mask"}),
    ("fastclip", {"variant": "v3"}),
]


@pytest.mark.parametrize(("name", "options"), CASES)
def test_it_is_the_loss_of_pairs_that_are_alike(name, options):
    value, metrics = found(tiny.loss(B, name, **options), alike())
    assert metrics[UNINFORMED] == pytest.approx(value, rel=2e-6) and value > 0


def test_by_hand():
    scale, l = 8.0, 8.0 * 0.6 - 2.0  # noqa: E741
    expected = {
        "clip": np.log(B),
        "dcl": np.log(B - 1),
        "hn_nce": np.log(1 + B - 1),
        "hcl": np.log(1 + B - 1),
        "siglip": B * np.log1p(np.exp(l)) - l,
        "fastclip": 6.5 / scale,
    }
    for name, value in expected.items():
        metrics = found(tiny.loss(B, name), alike())[1]
        assert metrics[UNINFORMED] == pytest.approx(value, rel=1e-6), name


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("sogclr", {}),
        ("isogclr", {}),
        ("onlineclr", {}),
        ("vicreg", {}),
        ("fastclip", {"variant": "v0"}),
        ("fastclip", {"variant": "v1"}),
        ("fastclip", {"variant": "v2"}),
        ("cyclip", {"contrastive": 0.0}),
    ],
)
def test_absent_where_the_value_says_nothing(name, options):
    loss = tiny.loss(B, name, **options)
    metrics = jax.eval_shape(lambda out: loss(out, BATCH, loss.init(), 0)[2], alike())
    assert UNINFORMED not in metrics


def test_a_queue_counts_except_entries_of_the_own_image():
    loss = tiny.loss(B, "xbm", size=2 * B, start_step=0)
    out, state = alike(), loss.init()
    step = jax.jit(loss)
    for number in range(2):
        value, state, metrics = step(out, BATCH, state, number)
    ids = np.asarray(BATCH["image_id"])
    past = [(ids != one).sum() for one in ids]
    assert float(metrics[UNINFORMED]) == pytest.approx(
        np.log(B + np.array(past)).mean(), rel=1e-6
    )
    assert float(value) == pytest.approx(float(metrics[UNINFORMED]), rel=2e-6)


def test_of_a_classifier():
    batch = {"label": jnp.asarray([0, 2, -1], jnp.int32)}
    out = {"logits": jnp.full((3, 5), 0.7).at[2].set(9.0)}
    for kind in ("softmax", "sigmoid"):
        value, metrics = found(tiny.loss(3, "cross_entropy", kind=kind), out, batch)
        assert metrics[UNINFORMED] == pytest.approx(value, rel=1e-6)
    assert found(tiny.loss(3, "cross_entropy"), out, batch)[1][
        UNINFORMED
    ] == pytest.approx(np.log(5))


def test_of_a_sum_it_is_the_weighted_sum_or_absent():
    clip, siglip, sogclr = (tiny.loss(B, name) for name in ("clip", "siglip", "sogclr"))
    both = CombinedLoss((("clip", 1.0, clip), ("siglip", 0.5, siglip)))
    value, metrics = found(both, alike())
    assert metrics[UNINFORMED] == pytest.approx(value, rel=2e-6)
    for parts in ((clip, sogclr), (sogclr, clip)):
        labels = ("one", "other")
        loss = CombinedLoss(tuple(zip(labels, (1.0, 1.0), parts, strict=True)))
        metrics = jax.eval_shape(
            lambda out, loss=loss: loss(out, BATCH, loss.init(), 0)[2], alike()
        )
        assert UNINFORMED not in metrics
