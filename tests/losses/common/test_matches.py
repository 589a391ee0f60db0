"""Options same_image and same_caption: which pairs count, over explicit sets."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

import tiny
from clipjax.losses.common import matches, pairs
from clipjax.types import UserError

# Rows 0, 1 are of one image; rows 1, 2 and 5 have one caption; rows 3, 4 have both.
IMAGES = np.array([0, 0, 1, 2, 2, 3])
TEXTS = np.array([[7, 8, 0], [5, 6, 0], [5, 6, 0], [9, 0, 0], [9, 0, 0], [5, 6, 0]])
CAPTIONS = np.array([0, 1, 1, 2, 2, 1])
N, SCALE, BIAS = len(IMAGES), 8.0, -2.0
MODES = [
    (image, caption)
    for image in matches.MODES
    for caption in matches.MODES
    if caption != "negative"
]


def given(seed=0):
    draw = np.random.default_rng(seed)
    x, t = draw.normal(size=(2, N, 16))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    t /= np.linalg.norm(t, axis=1, keepdims=True)
    out = {"image_embed": jnp.asarray(x), "text_embed": jnp.asarray(t)}
    out |= {"logit_scale": jnp.asarray(SCALE), "logit_bias": jnp.asarray(BIAS)}
    return out, x @ t.T


def batch(**more):
    found = {
        "image_id": jnp.asarray(IMAGES, jnp.int32),
        "text_id": jnp.arange(N, dtype=jnp.int32),
        "text": jnp.asarray(TEXTS, jnp.int32),
        "text_mask": jnp.asarray(TEXTS > 0),
    }
    return found | more


def sets(same_image, same_caption):
    """bool [N N] each: matches, and the negatives."""
    relations = [
        (same_image, IMAGES[:, None] == IMAGES[None]),
        (same_caption, CAPTIONS[:, None] == CAPTIONS[None]),
    ]
    own = np.eye(N, dtype=bool)
    apart, match = np.zeros((2, N, N), bool)
    for mode, alike in relations:
        apart |= alike & (mode == "mask")
        match |= alike & (mode == "positive")
    match = own | (match & ~apart)
    return match, ~match & (own | ~apart)


def log_sum(x):
    return np.log(np.exp(x).sum()) if len(x) else -np.inf


def both_ways(cost):
    def mean(s, match, negative):
        rows = [cost(s[i], match[i], negative[i], i) for i in range(N)]
        columns = [cost(s.T[i], match.T[i], negative.T[i], i) for i in range(N)]
        return (np.mean(rows) + np.mean(columns)) / 2

    return mean


@both_ways
def softmax(s, match, negative, i):
    return log_sum(SCALE * s[match | negative]) - SCALE * s[match].mean()


@both_ways
def decoupled(s, match, negative, i):
    if not negative.any():
        return 0.0
    return log_sum(SCALE * s[negative]) - SCALE * s[match].mean()


@both_ways
def hard(s, match, negative, i):
    n, own = SCALE * s[negative], SCALE * s[i]
    below = np.exp(own)
    if negative.any():
        below += len(n) * np.exp(1.25 * n).sum() / np.exp(0.25 * n).sum()
    return (np.log(below) - own) if negative.any() else 0.0


@both_ways
def corrected(s, match, negative, i):
    n, own = SCALE * s[negative], SCALE * s[i]
    if not len(n):
        return 0.0
    among = np.exp(2 * n).sum() / np.exp(n).mean() - 0.1 * len(n) * np.exp(own)
    return np.log1p(max(among / 0.9, len(n) * np.exp(-SCALE)) / np.exp(own))


def sigmoid(s, match, negative):
    logits = SCALE * s + BIAS
    cost = np.log1p(np.exp(np.where(match, -logits, logits)))
    return cost[match | negative].sum() / N


def surrogate(temperature, cost=lambda d: d):
    """SogCLR's at first visits: the mean over negatives of e / u times the cost."""

    def value(s, match, negative):
        total = 0.0
        for side, (m, keep) in enumerate(((s, negative), (s.T, negative.T))):
            costs = [cost(m[i, keep[i]] - m[i, i]) for i in range(N)]
            g = np.array(
                [np.exp(c / temperature).mean() if len(c) else 0 for c in costs]
            )
            ids = IMAGES if side == 0 else np.arange(N)
            for i, c in enumerate(costs):
                if len(c):
                    u = g[ids == ids[i]].mean()
                    total += (np.exp(c / temperature) / u * c).mean() / N
        return total

    return value


def two_sums(s, match, negative):
    """OnlineCLR's at the first step: soft means over negatives and over matches."""
    n, p = s[negative], s[match]
    weights = np.exp(n / 0.07), np.exp(-p / 0.7)
    return (weights[0] * n).sum() / weights[0].sum() - (weights[1] * p).sum() / weights[
        1
    ].sum()


# case -> the value from S, and which are the matches and the negatives.
BY_HAND = {
    "clip": softmax,
    "xbm": softmax,
    "tri_modal": softmax,
    "cyclip": softmax,
    "dcl": decoupled,
    "hn_nce": hard,
    "hcl": corrected,
    "siglip": sigmoid,
    "sogclr": surrogate(0.07),
    "sogclr hinge": surrogate(0.07, lambda d: np.maximum(d + 1, 0) ** 2),
    "isogclr": surrogate(0.07),
    "fastclip v2": surrogate(0.07),
    "onlineclr": two_sums,
}
OPTIONS = {
    "cyclip": {"in_modal": 0.0, "cross_modal": 0.0},
    "xbm": {"size": N},
    "sogclr hinge": {"surrogate": "squared_hinge"},
    "fastclip v2": {"variant": "v2", "temperature": 0.07},
}
WITHOUT_POSITIVE = {"hn_nce", "hcl", "sogclr", "sogclr hinge", "isogclr", "fastclip v2"}


def make(case, mesh=None, **options):
    return tiny.loss(N, case.split()[0], mesh, **OPTIONS.get(case, {}), **options)


def cases():
    """(case, same_image, same_caption, block): few by default, slow: all."""
    few = {
        *(("clip", "negative", mode, 0) for mode in ("mask", "positive")),
        *((case, "mask", "positive", 4) for case in ("siglip", "onlineclr", "dcl")),
        ("sogclr hinge", "mask", "mask", 4),
        ("sogclr", "negative", "mask", 0),
        ("tri_modal", "positive", "positive", 4),
    }
    for case in BY_HAND:
        for image, caption in MODES:
            if "positive" in (image, caption) and case in WITHOUT_POSITIVE:
                continue
            for block in (0, 4):
                one = case, image, caption, block
                marks = [] if one in few else [pytest.mark.slow]
                yield pytest.param(*one, marks=marks)


@pytest.mark.parametrize(("case", "image", "caption", "block"), cases())
def test_by_hand(case, image, caption, block):
    out, s = given()
    expected = BY_HAND[case](s, *sets(image, caption))
    assert expected != pytest.approx(BY_HAND[case](s, *sets(image, "negative")))
    with jax.enable_x64(True):
        out = jax.tree.map(lambda x: x.astype(jnp.float64), given()[0])
        loss = make(case, same_image=image, same_caption=caption, block=block)
        state = tiny.to_float64(loss.init())
        value = jax.jit(lambda *given: loss(*given)[0])(out, batch(), state, 0)
    assert float(value) == pytest.approx(expected, rel=1e-7)


@pytest.mark.thorough
@pytest.mark.parametrize(
    "case",
    ["clip", *(pytest.param(c, marks=pytest.mark.slow) for c in ("siglip", "sogclr"))],
)
def test_a_ring_of_devices_changes_nothing(case):
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:2]).reshape(2, 1), pairs.AXES)
    image = "mask"
    caption = "mask" if case == "sogclr" else "positive"
    with jax.enable_x64(True):
        out = jax.tree.map(lambda x: x.astype(jnp.float64), given()[0])
        found = []
        for over, block in ((None, 0), (mesh, 2)):
            loss = make(case, over, same_image=image, same_caption=caption, block=block)
            state = tiny.to_float64(loss.init())

            def value(both, batch, loss=loss, state=state):
                return loss({**out, **both}, batch, state, 0)[0]

            both = {key: out[key] for key in ("image_embed", "text_embed")}
            given_ = both, batch()
            if over is not None:
                split = NamedSharding(over, PartitionSpec(pairs.AXES))
                given_ = jax.device_put(given_, split)
            found.append(jax.jit(jax.value_and_grad(value))(*given_))
        for one, other in zip(*map(jax.tree.leaves, found), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-12)


def test_one_caption_on_different_images():
    """Three rows by hand: each image's even target over its matches."""
    with jax.enable_x64(True):
        s = np.array([[0.9, 0.1, 0.2], [0.3, 0.8, 0.0], [0.1, 0.4, 0.7]])
        out = {
            "image_embed": jnp.asarray(s),
            "text_embed": jnp.eye(3),
            "logit_scale": jnp.asarray(1.0),
        }
        one = {
            "text": jnp.asarray([[4, 5], [4, 5], [4, 6]], jnp.int32),
            "text_mask": jnp.ones((3, 2), bool),
        }
        loss = tiny.loss(3, same_caption="positive", text_weight=0.0, image_weight=1.0)
        value = jax.jit(lambda *given: loss(*given)[0])(out, one, {}, 0)
        lse = np.log(np.exp(s).sum(1))
        expected = lse.mean() - ((0.9 + 0.1) / 2 + (0.3 + 0.8) / 2 + 0.7) / 3
        assert float(value) == pytest.approx(expected, rel=1e-9)
        # `same_image` alone knows nothing of it.
        plain = tiny.loss(3, same_image="positive", text_weight=0.0, image_weight=1.0)
        one["image_id"] = jnp.arange(3)
        value = jax.jit(plain)(out, one, {}, 0)[0]
        assert float(value) == pytest.approx(lse.mean() - (0.9 + 0.8 + 0.7) / 3)


def test_captions_are_told_apart_by_every_token():
    draw = np.random.default_rng(0)
    text = draw.integers(0, 3, (64, 4)).astype(np.int32)  # many coincide
    length = draw.integers(1, 5, (64, 1))
    mask = np.arange(4)[None] < length  # padding is no token, though its id may be one
    found = jax.jit(matches.captions)({"text": text, "text_mask": mask})
    rows = [tuple(row[keep]) for row, keep in zip(text, mask, strict=True)]
    same = np.array([[one == other for other in rows] for one in rows])
    np.testing.assert_array_equal(found[:, None] == found[None], same)
    assert same.sum() > 64


def test_rows_without_text_have_no_caption_in_common():
    present = jnp.asarray([True, False, True, False, True, False])
    found = jax.jit(matches.captions)(batch(text_present=present))
    same = np.asarray(found[:, None] == found[None])
    expected = CAPTIONS[:, None] == CAPTIONS[None]
    expected &= np.asarray(present)[:, None] & np.asarray(present)[None]
    np.testing.assert_array_equal(same, expected | np.eye(N, dtype=bool))


def test_smoothing_spreads_over_the_pairs_that_count():
    out, s = given()
    match, negative = sets("mask", "mask")
    loss = tiny.loss(
        N, label_smoothing=0.2, same_image="mask", same_caption="mask", text_weight=0.0
    )
    keep = match | negative
    expected = np.mean(
        [
            log_sum(SCALE * s[i, keep[i]])
            - SCALE * (0.8 * s[i, i] + 0.2 * s[i, keep[i]].mean())
            for i in range(N)
        ]
    )
    value = jax.jit(loss)(out, batch(), {}, 0)[0]
    assert float(value) == pytest.approx(expected / 2, rel=1e-5)


def test_what_cannot_be():
    with pytest.raises(UserError, match="loss.same_caption='own': must be one of"):
        tiny.loss(same_caption="own")
    with pytest.raises(UserError, match="loss.same_caption='positive'"):
        tiny.loss(name="sogclr", same_caption="positive")
    loss = tiny.loss(N, same_caption="mask")
    with pytest.raises(UserError, match="takes no texts"):
        loss(given()[0], {"image_id": jnp.arange(N)}, {}, 0)


def test_pairs_kept_by_definition():
    rule = matches.Rule("mask", "positive")
    side = jax.jit(lambda x: rule.side(x, 1.0, batch()))(given()[0]["image_embed"])
    match, negative = sets("mask", "positive")
    for among, expected in (
        ("matches", match),
        ("negatives", negative),
        ("all", match | negative),
    ):
        found = jax.jit(lambda side, among=among: pairs.mask(side, side, among))(side)
        np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(jax.jit(matches.negatives)(side), negative.sum(1))
