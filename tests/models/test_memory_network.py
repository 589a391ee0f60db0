"""The memory network: what is built, what a row depends on, what is written where."""

from __future__ import annotations

import functools
import math
import pathlib
import runpy
import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from evals_tools import values
from flax import linen as nn
from model_tools import jit

import run_tools
from clipjax import registry
from clipjax.config_check import validate
from clipjax.data.batching import pipeline
from clipjax.engine import assemble
from clipjax.models import memory_network
from clipjax.models.common import layers
from clipjax.models.multimodal import fusion, memory, ttt
from clipjax.types import GLOBAL_OUTPUTS, LossSpec, UserError

ROOT = pathlib.Path(__file__).parents[2]
VOCAB, LENGTH, SIZE, WIDTH = 31, 7, 8, 8
EVERY = ("text", "image", "audio")


class Tower(nn.Module):
    """The least that a tower can be; pixels or ids, a layer over each token."""

    image_size: int = SIZE
    context_length: int = LENGTH
    masked: bool = True
    dtype: Any = None

    @nn.compact
    def __call__(self, x, *rest):
        if x.ndim == 4:
            tokens = x.reshape(x.shape[0], -1, 48)
        else:
            tokens = jax.nn.one_hot(x, VOCAB)
        tokens = layers.Dense(WIDTH, None)(tokens)
        mask = jnp.ones(tokens.shape[:2], bool)
        if len(rest) == 2 and self.masked:
            mask = rest[0]
        return {"pooled": layers.masked_mean(tokens, mask), "tokens": tokens}


def make_model(**options):
    return memory_network.make(
        Tower(),
        Tower(),
        **{
            "latent_dim": WIDTH,
            "memory_size": 8,
            "heads": 2,
            "top_k": 4,
            "feedback_steps": 1,
            "dropout": 0.0,
            "modality_dropout": 0.0,
            **options,
        },
    )


def make_batch(b=4, seed=0, audio=True):
    draw = np.random.default_rng(seed)
    mask = np.arange(LENGTH)[None] < draw.integers(2, 6, (b, 1))
    batch = {
        "image": draw.integers(0, 256, (b, SIZE, SIZE, 3), np.uint8),
        "text": np.where(mask, draw.integers(1, VOCAB, (b, LENGTH)), 0).astype("i4"),
        "text_mask": mask,
        "image_id": np.arange(b, dtype=np.int32),
    }
    if audio:
        batch["audio"] = draw.random((b, 12, 10), np.float32)
    return jax.tree.map(jnp.asarray, batch)


@functools.cache
def init(model):
    return noisy(jax.eval_shape(model.init, jax.random.key(0)))


def noisy(shapes):
    """Noise, so that no parameter is without effect."""
    draw = np.random.default_rng(1)

    def noise(path, leaf):
        one = any(word in str(path[-1]) for word in ("scale", "var"))
        return np.asarray(one + draw.uniform(-0.5, 0.5, leaf.shape), np.float32)

    return jax.tree_util.tree_map_with_path(noise, shapes)


@functools.partial(jit, static_argnums=(0, 3))
def run(model, variables, batch, train=False, key=None):
    return model.apply(variables, batch, train, key)[0]


@functools.partial(jit, static_argnums=0)
def encode(model, variables, given, state=None):
    return model.encode(variables, given, state)


def count(tree):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def parameters(model):
    return jax.eval_shape(model.init, jax.random.key(0))["params"]


# What is built.


@pytest.fixture(scope="module")
def configs():
    path = ROOT / "configs" / "memory_network.py"
    get_config = runpy.run_path(str(path))["get_config"]
    return lambda size: get_config(f"size={size}")


def model_of(config, vocab):
    length = config.data.tokenizer.context_length
    words: Any = types.SimpleNamespace(vocab_size=vocab, context_length=length)
    return assemble.model(config, words)


@pytest.mark.thorough
def test_the_first_version_has_its_parameters(configs):
    config = configs("parity")
    validate(config)
    found = parameters(model_of(config, 34))
    memory = 2_661_376
    assert {name: count(part) for name, part in found.items()} == {
        "text": 12_667_392,
        "image": 13_105_664,
        "audio": 1_815_424,
        "text_projection": 262_656,
        "central_memory": 2_694_144,
        **{f"{name}_memory": memory for name in EVERY},
        "fusion": 2_104_832 + 1_536,
        "feedback": 263_680,
        **{f"{name}_decoder": 790_016 for name in EVERY},
    }
    assert count(found) == 43_269_504
    less = {name: part for name, part in found.items() if not name.startswith("audio")}
    assert count(less) + count(found["audio_decoder"]) == 38_792_704
    fewer = {name: part for name, part in less.items() if not name.endswith("decoder")}
    assert count(fewer) == 36_422_656
    assert set(parameters(make_model())) == {*fewer, "logit_scale"}
    decoding = make_model(decoders=EVERY)
    assert set(parameters(decoding)) == {*less, "audio_decoder", "logit_scale"}


@pytest.mark.parametrize(
    ("size", "vocab", "expected"),
    [
        ("synthetic", 1000, 10_686_592),
        ("large", 8192, 201_016_321),
    ],
)
def test_other_sizes(configs, size, vocab, expected):
    config = configs(size)
    validate(config)
    assert count(parameters(model_of(config, vocab))) == expected


def test_towers_of_other_widths_get_a_projection():
    found = parameters(make_model(latent_dim=2 * WIDTH))
    for side in ("image", "text"):
        assert found[f"{side}_projection"]["kernel"].shape == (WIDTH, 2 * WIDTH)
    assert "image_projection" not in parameters(make_model())


def test_outputs_have_a_row_for_each_example():
    model = make_model(audio=True, decoders=EVERY, joint=True)
    batch = make_batch(3)
    shapes = jax.eval_shape(
        lambda v: model.apply(v, batch, True, jax.random.key(0))[0], init(model)
    )
    for name, leaf in shapes.items():
        if not name.endswith("_tokens"):
            expected = () if name in GLOBAL_OUTPUTS else (3, WIDTH)
            assert leaf.shape == expected and leaf.dtype == jnp.float32, name
    names = {f"{n}_{kind}" for n in (*EVERY, "joint") for kind in ("embed", "features")}
    names |= {f"decoded_{n}" for n in EVERY} | {f"{n}_encoded" for n in EVERY}
    assert set(shapes) == names | {"image_tokens", "text_tokens", "logit_scale"}


# Test time: what is written, and where it stays.


@functools.partial(jit, static_argnums=0)
def write(mode, x, present, state):
    """What is read while x is written, the new state, and what is read from it."""
    module = memory.TestTimeMemory(8, WIDTH, 2, 3, 0.1)
    call = functools.partial(module.apply, mutable=["ttt"])
    given = {**MEMORY, **({"ttt": state} if state else {})}
    read, new = call(given, x, present, False, mode, method="write")
    after = module.apply({**MEMORY, **new}, x, False, method="read")
    return read, new.get("ttt", {}), after


@pytest.fixture(scope="module", autouse=True)
def _memory():
    module = memory.TestTimeMemory(8, WIDTH, 2, 3, 0.1)
    x, here = jnp.zeros((1, WIDTH)), jnp.ones(1, bool)
    shapes = jax.eval_shape(
        lambda: module.init(jax.random.key(0), x, here, False, "off", method="write")
    )
    MEMORY.update(noisy(shapes))


MEMORY: dict[str, Any] = {}


def test_an_example_writes_into_slots_of_its_own():
    x = np.random.default_rng(0).normal(size=(5, WIDTH)).astype(np.float32)
    here, slots = np.array([1, 1, 1, 1, 0], bool), MEMORY["params"]["memory"]
    read, state, after = write("example", x, here, None)
    moved = np.abs(state["memory"] - slots[None]).max(axis=2) > 0
    assert moved.sum(axis=1).tolist() == [3, 3, 3, 3, 0]
    nearest = np.argsort(-x[:4] @ slots.T, axis=1)[:, :3]
    assert np.take_along_axis(moved[:4], nearest, axis=1).all()
    # What was read was read before.
    calm, nothing, _ = write("off", x, here, None)
    assert nothing == {}
    np.testing.assert_allclose(read, calm, atol=1e-6)
    assert (np.abs(after - read).max(axis=1) > 1e-5).tolist() == here.tolist()
    # Others in the batch do not matter, nor does the place in it.
    mixed = np.concatenate([x[:2], 3 - x[2:]])
    _, among, after_among = write("example", mixed, here, None)
    np.testing.assert_array_equal(among["memory"][:2], state["memory"][:2])
    np.testing.assert_array_equal(after_among[:2], after[:2])
    assert np.abs(after_among[2:4] - after[2:4]).max() > 1e-3
    order = np.array([3, 0, 4, 2, 1])
    _, _, turned = write("example", x[order], here[order], None)
    np.testing.assert_allclose(turned, after[order], atol=1e-6)


def test_a_batch_writes_its_mean_into_slots_of_all():
    x = np.random.default_rng(0).normal(size=(5, WIDTH)).astype(np.float32)
    here, slots = np.array([1, 0, 1, 1, 0], bool), MEMORY["params"]["memory"]
    _, state, after = write("batch", x, here, None)
    assert state["memory"].shape == (8, WIDTH)
    mean = np.broadcast_to(x[here].mean(axis=0), x.shape)
    _, one, _ = write("example", mean, here, None)
    np.testing.assert_allclose(state["memory"], one["memory"][0], atol=1e-6)
    _, none, _ = write("batch", x, np.zeros(5, bool), None)
    np.testing.assert_array_equal(none["memory"], slots)
    # The state goes on where it was left.
    read, second, _ = write("batch", x, here, state)
    np.testing.assert_allclose(read, after, atol=1e-6)
    assert np.abs(second["memory"] - state["memory"]).max() > 1e-4


@pytest.mark.thorough
def test_the_network_writes_for_each_example_alone():
    model = make_model(test_time="example")
    variables, image = init(model), make_batch(5)["image"]
    found, state = encode(model, variables, {"image": image})
    assert state["central_memory"]["memory"].shape == (5, 8, WIDTH)
    assert state["image_memory"]["memory"].shape == (5, 4, WIDTH)
    mixed = np.concatenate([image[:2], 255 - image[2:]])
    among, _ = encode(model, variables, {"image": mixed})
    np.testing.assert_array_equal(among["image_embed"][:2], found["image_embed"][:2])
    assert np.abs(among["image_embed"][2:] - found["image_embed"][2:]).max() > 1e-3
    # As in an evaluation of all there is; it has an effect; and nothing stays.
    whole = run(model, variables, {"image": image})
    np.testing.assert_allclose(whole["image_embed"], found["image_embed"], atol=1e-6)
    calm, nothing = encode(make_model(test_time="off"), variables, {"image": image})
    assert nothing == {}
    assert np.abs(calm["image_embed"] - found["image_embed"]).max() > 1e-5
    again, _ = encode(model, variables, {"image": image})
    np.testing.assert_array_equal(again["image_embed"], found["image_embed"])


def test_training_does_not_write():
    models = [make_model(test_time=mode) for mode in ("off", "example")]
    variables, batch = init(models[0]), make_batch(audio=False)
    assert set(variables) == {"params"}
    programs = [
        jax.make_jaxpr(lambda v, m=m: m.apply(v, batch, True, jax.random.key(0)))(
            variables
        )
        for m in models
    ]
    assert str(programs[0]) == str(programs[1])


def test_no_gradient_flows_through_a_write():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(5, WIDTH)), "f4")

    def value(params):
        module = memory.TestTimeMemory(8, WIDTH, 2, 3, 0.1)
        args = (x, jnp.ones(5, bool), False, "example")
        given = {"params": params}
        _, new = module.apply(given, *args, method="write", mutable=["ttt"])
        read: Any = module.apply({**given, **new}, x, False, method="read")
        return (read**3).sum()

    gradient = jit(jax.grad(value))(MEMORY["params"])
    for name in ("gate", "proposal", "memory"):
        assert not any(leaf.any() for leaf in jax.tree.leaves(gradient[name])), name
    assert gradient["query"]["kernel"].any()


# Modalities.


@pytest.mark.thorough
def test_an_absent_modality_is_as_none_at_all():
    model = make_model(audio=True, test_time="off")
    variables, batch = init(model), make_batch()
    del batch["image_id"]
    here = np.array([True, False, True, False])
    found = {}
    for name, present, audio in (
        ("some", here, batch["audio"]),
        ("silent", here, np.where(here[:, None, None], batch["audio"], 0)),
        ("every", np.ones(4, bool), batch["audio"]),
        ("none", np.zeros(4, bool), batch["audio"]),
    ):
        given = {**batch, "audio": audio, "audio_present": present}
        found[name] = np.asarray(encode(model, variables, given)[0]["joint_features"])
    np.testing.assert_array_equal(found["some"], found["silent"])
    expected = np.where(here[:, None], found["every"], found["none"])
    np.testing.assert_allclose(found["some"], expected, atol=1e-5)
    assert np.abs(found["every"] - found["none"]).max() > 1e-2
    del batch["audio"]
    without, _ = encode(model, variables, batch)
    np.testing.assert_allclose(found["none"], without["joint_features"], atol=1e-5)


def test_each_sign_of_presence_matters():
    present = {name: jnp.ones(1, bool) for name in EVERY}
    nothing = {name: jnp.zeros((1, WIDTH)) for name in EVERY}
    module = fusion.Fusion(WIDTH, 0.0)
    # Zeros that are there, and zeros because nothing is.
    sets = [present]
    for left in EVERY:
        sets.append({name: present[name] for name in EVERY if name != left})
    start = functools.partial(module.init, jax.random.key(0), nothing, sets, False)
    params = noisy(jax.eval_shape(start))
    found = jit(lambda: module.apply(params, nothing, sets, False))()
    assert found.shape == (4, WIDTH)
    for i, one in enumerate(found):
        assert all(np.abs(one - other).max() > 1e-3 for other in found[:i])


def test_nothing_to_encode_is_an_error():
    model = make_model()
    for given in (
        {},
        {"audio": make_batch()["audio"]},
        {"text_mask": jnp.ones((1, 2))},
    ):
        with pytest.raises(UserError, match="at least one of text, image$"):
            model.encode(init(model), given)
    with pytest.raises(UserError, match="at least one of text, image, audio$"):
        make_model(audio=True).encode({}, {})


@pytest.mark.thorough
def test_modalities_and_state_are_of_as_many_examples():
    model, batch = make_model(), make_batch()
    variables = init(model)
    image, text, mask = (batch[name] for name in ("image", "text", "text_mask"))
    with pytest.raises(UserError, match="text_mask: give both"):
        model.encode(variables, {"text": text})
    short = {"image": image[:1], "text": text, "text_mask": mask}
    with pytest.raises(UserError, match=r"state: \[1, \d+\] rows; must be equal"):
        model.encode(variables, short)
    _, state = model.encode(variables, {"image": image})
    with pytest.raises(UserError, match="rows; must be equal"):
        model.encode(variables, {"image": image[:1]}, state)


@pytest.mark.thorough
def test_modality_dropout_takes_one_of_several():
    calm = make_model(joint=True, test_time="off")
    model = make_model(joint=True, modality_dropout=0.4)
    variables, batch = init(model), make_batch(32, audio=False)
    key = jax.random.key(3)
    found = run(model, variables, batch, True, key)
    whole = run(calm, variables, batch)
    candidates = [whole["joint_embed"], whole["image_embed"], whole["text_embed"]]
    gaps = np.stack([np.abs(found["joint_embed"] - c).max(axis=1) for c in candidates])
    assert (np.sort(gaps, axis=0)[0] < 1e-5).all()  # each row is one of the three
    assert (np.sort(gaps, axis=0)[1] > 1e-3).all()  # and clearly which
    assert set(gaps.argmin(axis=0)) == {0, 1, 2}
    for side in ("image_embed", "text_embed"):
        np.testing.assert_allclose(found[side], whole[side], atol=1e-5)
    again = run(model, variables, batch, True, key)
    np.testing.assert_array_equal(again["joint_embed"], found["joint_embed"])
    other = run(model, variables, batch, True, jax.random.key(4))
    assert np.abs(other["joint_embed"] - found["joint_embed"]).max() > 1e-3


def test_modality_dropout_keeps_the_last():
    rows = {
        "text": jnp.array([True, True, False, False] * 500),
        "image": jnp.array([True, False, True, False] * 500),
    }
    kept = jit(lambda: fusion.drop_one(rows, 0.15, jax.random.key(0)))()
    text, image = (np.asarray(kept[name]).reshape(-1, 4) for name in rows)
    np.testing.assert_array_equal(text[:, 1:], [[True, False, False]] * 500)
    np.testing.assert_array_equal(image[:, 1:], [[False, True, False]] * 500)
    lost_text, lost_image = ~text[:, 0], ~image[:, 0]
    assert not (lost_text & lost_image).any()
    assert abs((lost_text | lost_image).mean() - 0.15) < 0.05  # 3 standard errors
    assert 0.3 < lost_text.sum() / (lost_text | lost_image).sum() < 0.7


def test_parity_sees_padding_and_fixes_the_rest():
    options = {"modality_dropout": 0.5, "ttt_layers": ("text",), "joint": True}
    for parity in (False, True):
        model = make_model(parity=parity, **options)
        assert model.module.text.masked != parity
        assert model.module.modality_dropout == (0.0 if parity else 0.5)
        extra = {"logit_scale", "text_ttt"} & set(parameters(model))
        assert len(extra) == (0 if parity else 2)


# The TTT layer.


def sequential(model, place, views, rate):
    """One head of one sequence, token by token: the paper's update as it stands."""
    weight, bias, scale, shift = model
    query, key, value = views

    def norm(z):
        return (z - z.mean()) / np.sqrt(z.var() + 1e-6) * scale + shift

    def slope(z, toward):
        """The gradient of |norm(z) - target|^2 / 2 at z; toward = norm(z) - target."""
        u = (z - z.mean()) / np.sqrt(z.var() + 1e-6)
        g = toward * scale
        return (g - g.mean() - u * (g * u).mean()) / np.sqrt(z.var() + 1e-6)

    out, size = [], len(place)
    for start in range(0, len(query), size):
        weight_sum, bias_sum = np.zeros_like(weight), np.zeros_like(bias)
        now_weight, now_bias = weight, bias
        for i in range(min(size, len(query) - start)):
            t = start + i
            z = key[t] @ weight + bias
            g = slope(z, norm(z) - (value[t] - key[t]))
            weight_sum = weight_sum + rate[t] * np.outer(key[t], g)
            bias_sum = bias_sum + rate[t] * g
            now_weight = weight - place[i] * weight_sum
            now_bias = bias - place[i] * bias_sum
            out.append(query[t] + norm(query[t] @ now_weight + now_bias))
        weight, bias = now_weight, now_bias
    return np.stack(out)


def test_the_dual_form_is_the_sequential_one():
    b, h, n, e = 2, 3, 10, 4  # two mini-batches of 4 and a half one
    draw = np.random.default_rng(0)
    x, mask = draw.normal(size=(b, n, h * e)), np.ones((b, n), bool)
    mask[1, 7:] = mask[1, 2] = False
    module = ttt.TttLinear(h, mini_batch=4, base_rate=3.0)
    with jax.enable_x64(True):
        shapes = jax.eval_shape(module.init, jax.random.key(0), x, mask)
        params = jax.tree.map(
            lambda leaf: draw.normal(size=leaf.shape) * 0.5 + 0.2, shapes["params"]
        )
        found = jit(module.apply)({"params": params}, x, mask)
        assert found.dtype == jnp.float64

    views = (x @ params["views"]["kernel"]).reshape(b, n, 3, h, e)
    rate = x @ params["rate"]["kernel"] + params["rate"]["bias"]
    rate = 3.0 / e / (1 + np.exp(-rate)) * mask[:, :, None]
    place = np.maximum(1 / np.arange(1, 5) + params["place"], 0)
    inner = [params[k] for k in ("weight", "bias", "inner_scale", "inner_shift")]
    expected = np.zeros((b, n, h, e))
    for row in range(b):
        for head in range(h):
            one = [part[head] for part in inner]
            seen = [views[row, :, i, head] for i in range(3)]
            got = sequential(one, place, seen, rate[row, :, head])
            expected[row, :, head] = got
    z = expected.reshape(b, n, h * e)
    z = (z - z.mean(-1, keepdims=True)) / np.sqrt(z.var(-1, keepdims=True) + 1e-5)
    z = z * params["norm"]["scale"] + params["norm"]["bias"]
    np.testing.assert_allclose(found, z @ params["out"]["kernel"], atol=1e-9)


def test_padding_teaches_the_ttt_layer_nothing():
    model = make_model(ttt_layers=("text", "image"), test_time="off")
    variables, batch = init(model), make_batch(audio=False)
    assert {"text_ttt", "image_ttt"} <= set(variables["params"])

    def embed(variables, text):
        given = {"text": text, "text_mask": batch["text_mask"]}
        return encode(model, variables, given)[0]["text_embed"]

    found = embed(variables, batch["text"])
    other = embed(variables, np.where(batch["text_mask"], batch["text"], 9))
    np.testing.assert_allclose(found, other, atol=1e-5)
    params = dict(variables["params"])
    params["text_ttt"] = jax.tree.map(lambda leaf: -leaf, params["text_ttt"])
    assert np.abs(found - embed({"params": params}, batch["text"])).max() > 1e-3


# The loss.


def loss_of(**options):
    spec = LossSpec(64, 64, WIDTH, 8, 4, 40)
    return registry.load("loss", "tri_modal")(spec, **options)


def unit(draw, b=6):
    x = draw.normal(size=(b, WIDTH)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def make_outputs(b=6):
    draw = np.random.default_rng(2)
    names = ("image_embed", "text_embed", "audio_embed", "joint_embed")
    found = {name: jnp.asarray(unit(draw, b)) for name in names}
    for name in ("decoded_audio", "audio_encoded"):
        found[name] = jnp.asarray(draw.normal(size=(b, WIDTH)).astype(np.float32))
    return {**found, "logit_scale": jnp.float32(5.0)}


def info_nce(x, y, scale=5.0):
    logits = scale * np.asarray(x, np.float64) @ np.asarray(y, np.float64).T
    rows = np.log(np.exp(logits).sum(1)) - np.diag(logits)
    columns = np.log(np.exp(logits).sum(0)) - np.diag(logits)
    return (rows.mean() + columns.mean()) / 2


@pytest.mark.thorough
def test_loss_by_hand_with_absent_rows():
    outputs, here = make_outputs(), np.array([1, 1, 0, 1, 1, 0], bool)
    batch = {"audio_present": jnp.asarray(here)}
    image, text, audio, joint = (
        outputs[f"{name}_embed"] for name in ("image", "text", "audio", "joint")
    )
    expected = info_nce(image, text)
    expected += info_nce(image[here], audio[here]) + info_nce(text[here], audio[here])
    error = (outputs["decoded_audio"] - outputs["audio_encoded"])[here]
    expected += 0.5 * np.square(error).mean()
    terms = [(image, joint), (text, joint), (audio[here], joint[here])]
    expected += 0.25 * np.mean([info_nce(x, y) for x, y in terms])
    loss = loss_of(joint=0.25)

    def value(outputs, batch):
        return loss(outputs, batch, {}, 0)[0]

    differentiate = jit(jax.value_and_grad(value))
    found, gradient = differentiate(outputs, batch)
    assert float(found) == pytest.approx(expected, rel=1e-5)
    assert np.isfinite(np.concatenate([np.ravel(g) for g in gradient.values()])).all()
    assert not gradient["audio_encoded"].any()
    assert not gradient["audio_embed"][2].any() and gradient["audio_embed"][0].any()
    nothing, _ = differentiate(outputs, {"audio_present": jnp.zeros(6, bool)})
    expected = info_nce(image, text)
    expected += 0.25 * (info_nce(image, joint) + info_nce(text, joint)) / 3
    assert float(nothing) == pytest.approx(expected, rel=1e-5)


def test_loss_without_audio_is_clips():
    outputs = make_outputs()
    two = {name: outputs[name] for name in ("image_embed", "text_embed", "logit_scale")}
    clip = registry.load("loss", "clip")(LossSpec(64, 64, WIDTH, 8, 4, 40))
    both = jit(lambda two: [loss(two, {}, {}, 0) for loss in (loss_of(), clip)])
    (found, _, metrics), (expected, _, theirs) = both(two)
    assert float(found) == pytest.approx(float(expected), rel=1e-6)
    assert set(theirs) < set(metrics)


def test_loss_says_what_is_missing():
    outputs = make_outputs()
    del outputs["decoded_audio"]
    with pytest.raises(UserError, match="loss.reconstruction=0, or .*model.decoders"):
        jax.eval_shape(lambda: loss_of()(outputs, {}, {}, 0)[0])
    del outputs["joint_embed"]
    with pytest.raises(UserError, match="loss.joint=0, or .*model.joint"):
        loss = loss_of(reconstruction=0.0, joint=1.0)
        jax.eval_shape(lambda: loss(outputs, {}, {}, 0)[0])


# Training.


@pytest.mark.thorough
def test_steps_on_the_synthetic_set_reduce_the_loss(configs):
    config = configs("synthetic")
    config.data.tokenizer.update({"vocab_size": VOCAB, "context_length": LENGTH})
    config.data.train.update({"size": 64, "resolution": SIZE})
    source = assemble.source(config.data.train, "")
    batches = pipeline.train_batches(
        source,
        assemble.new_tokenizer(config, source),
        registry.load("augment", "none")(SIZE),
        seed=0,
        global_batch=8,
        start_step=0,
        threads=0,
    )
    batch = jax.tree.map(jnp.asarray, dict(next(batches)))
    batches.close()
    model = make_model(audio=True, decoders=("audio",), joint=True, parity=True)
    loss = assemble.loss(config, LossSpec(64, 64, WIDTH, 8, 8, 80), "image_embed")
    variables = init(model)

    @jit
    def descend(params, stats):
        def value(params):
            given = {"params": params, "batch_stats": stats}
            outputs, after = model.apply(given, batch, True, jax.random.key(0))
            found, _, metrics = loss(outputs, batch, {}, 0)
            return found, (after, metrics)

        differentiate = jax.value_and_grad(value, has_aux=True)
        (found, (stats, metrics)), gradient = differentiate(params)
        step = 0.3 / optax.global_norm(gradient)
        params = jax.tree.map(lambda p, g: p - step * g, params, gradient)
        return params, stats, found, metrics

    params, stats, values = variables["params"], variables["batch_stats"], []
    metrics = {}
    for _ in range(4):
        params, stats, found, metrics = descend(params, stats)
        values.append(float(found))
    assert values[3] < values[2] < values[1] < values[0]
    assert values[3] < 0.9 * values[0]
    assert set(stats) == {"audio"}  # test-time state is no part of a run's
    parts = ("image_text", "image_audio", "text_audio")
    total = sum(float(metrics[f"{part}_loss"]) for part in parts)
    total += 0.5 * float(metrics["reconstruction_loss"])
    assert values[3] == pytest.approx(total, rel=1e-5)


@pytest.mark.slow
def test_a_run_on_the_synthetic_set(configs, tmp_path):
    config = configs("synthetic")
    small = {"width": 16, "depth": 1, "heads": 2}
    config.model.image.update(small)
    config.model.text.update(small)
    config.model.update({"latent_dim": 16, "heads": 2, "test_time": "example"})
    config.data.update({"image_size": 16, "batch_size": 16})
    config.data.train.update({"resolution": 16, "size": 64, "eval_size": 32})
    config.train.update({"epochs": 0.0, "steps": 6, "val_batches": 1})
    config.checkpoint.every = 3
    with run_tools.one_device():
        said = run_tools.train(config, tmp_path / "run")
    assert said.outcome.step == 6
    metrics = values(said.outcome.results["zeroshot"])
    assert all(0 <= value <= 64 for value in metrics.values())
    kept, _ = run_tools.saved(tmp_path / "run")
    assert any("central_memory" in path for path in kept)
    assert not any("ttt" in path for path in kept)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: make_model(test_time="on"), "model.test_time='on'"),
        (lambda: make_model(decoders=("video",)), "model.decoders='video'"),
        (lambda: make_model(ttt_layers=("audio",)), "model.ttt_layers='audio'"),
        (lambda: make_model(top_k=9), "model.top_k=9"),
        (lambda: make_model(step_size=1.5), "model.step_size=1.5"),
        (lambda: make_model(heads=3), "model.heads=3"),
        (lambda: make_model(feedback_steps=-1), "model.feedback_steps=-1"),
        (lambda: make_model(modality_dropout=1.0), "model.modality_dropout=1.0"),
        (lambda: make_model(logit_scale_init=0.0), "model.logit_scale_init=0.0"),
        (lambda: loss_of(joint=-1.0), "loss.joint=-1.0"),
        (lambda: loss_of(same_image="own"), "loss.same_image='own'"),
    ],
)
def test_mistakes_are_named(make, said):
    with pytest.raises(UserError) as error:
        make()
    assert said in str(error.value) and "\n" not in str(error.value)
