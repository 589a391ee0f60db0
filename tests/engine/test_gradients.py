"""Micro-batches change the memory of a step, not its gradient."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from marks import mostly

import tiny
from clipjax import config
from clipjax.engine import gradients
from clipjax.engine import state as states
from clipjax.engine.step import make_loss_step

BATCH = jax.tree.map(jnp.asarray, tiny.batch())
# One for each way in which losses keep a state or look at a batch.
KINDS = (
    "clip",
    "siglip",
    "cyclip",
    "isogclr",
    "fastclip",
    "vicreg",
    "onlineclr",
    "xbm",
)


class Layers(nn.Module):
    """Dense layers with dropout: what compiles in a moment."""

    bias: Any
    dropout: float = 0.3

    @nn.compact
    def __call__(self, batch, train):
        outputs = {
            "logit_scale": jnp.exp(self.param("logit_scale", nn.initializers.ones, ()))
        }
        if self.bias is not None:
            outputs["logit_bias"] = self.param("logit_bias", nn.initializers.ones, ())
        words = nn.Embed(tiny.VOCAB, 16)(batch["text"]).mean(axis=1)
        for side, x in (("image", batch["image"] / 255), ("text", words)):
            x = nn.Dense(32)(x.reshape(x.shape[0], -1))
            x = nn.Dropout(self.dropout, deterministic=not train)(nn.relu(x))
            x = nn.Dense(16)(x)
            norm = jnp.linalg.norm(x, axis=1, keepdims=True)
            outputs |= {f"{side}_features": x, f"{side}_embed": x / norm}
        return outputs


@dataclasses.dataclass(frozen=True)
class Light:
    module: Layers

    def init(self, key):
        return self.module.init(key, tiny.batch(2), False)

    def apply(self, variables, batch, train, key):
        return self.module.apply(variables, batch, train, rngs={"dropout": key}), {}


def fresh(case, dropout, patch_dropout=0.0, light=False):
    options = tiny.LOSSES[case][1]
    model = tiny.model(dropout, patch_dropout, **options)
    if light:
        model = Light(Layers(options.get("logit_bias_init"), dropout))
    loss = tiny.any_loss(case)
    optim = tiny.optim(model, config.base("schedule=constant").optim)
    create = jax.jit(lambda: states.create(model, loss, optim.tx, False, seed=0))
    return model, loss, create()


def plain(model, loss, state, key, count):
    """The gradient of the whole batch, its parts under the keys of `count` parts."""

    def objective(params):
        parts = []
        for m in range(count):
            some = {name: value[m::count] for name, value in BATCH.items()}
            own = jax.random.fold_in(key, m) if count > 1 else key
            parts.append(model.apply({"params": params}, some, True, own)[0])
        whole = dict(parts[0])
        for name, value in whole.items():
            if getattr(value, "ndim", 0):
                rows = jnp.stack([part[name] for part in parts], axis=1)
                whole[name] = rows.reshape(-1, *value.shape[1:])
        value, state_, _ = loss(whole, BATCH, state.loss_state, 0)
        return value, state_

    return jax.value_and_grad(objective, has_aux=True)(state.params)


def flat(tree):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def assert_near(one, other, share=1e-5):
    one, other = flat(one), flat(other)
    assert np.linalg.norm(one - other) <= share * np.linalg.norm(one)


def cases():
    """A loss of each kind under light towers, one under the tiny ones; slow: all."""
    for case in tiny.LOSSES:
        for count, light in ((2, True), (2, False), (4, False)):
            kept = case in KINDS if light else (case, count) == ("clip", 2)
            marks = [pytest.mark.thorough] if kept else [pytest.mark.slow]
            if light and case == "clip":
                marks = []
            name = f"{case}-{count}{'-light' * light}"
            yield pytest.param(case, count, light, marks=marks, id=name)


@pytest.mark.parametrize(("case", "count", "light"), cases())
def test_as_plain_differentiation_under_the_same_masks(case, count, light):
    model, loss, state = fresh(case, dropout=0.3, patch_dropout=0.5, light=light)
    key = jax.random.key(5)
    find = jax.jit(gradients.make(model, loss, count))
    value, gradient, _, loss_state, _, _ = find(state, BATCH, key)
    expected = jax.jit(lambda s: plain(model, loss, s, key, count))(state)
    (value_, loss_state_), gradient_ = expected
    assert float(value) == pytest.approx(float(value_), rel=1e-5, abs=1e-6)
    assert_near(gradient_, gradient)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
        loss_state,
        loss_state_,
    )


@pytest.mark.parametrize(
    "case",
    [
        pytest.param("clip", marks=pytest.mark.slow),
        pytest.param("sogclr", marks=pytest.mark.thorough),
    ],
)
def test_equal_in_any_number_of_parts_without_dropout(case):
    model, loss, state = fresh(case, dropout=0.0, light=True)
    found = [
        jax.jit(gradients.make(model, loss, count))(state, BATCH, jax.random.key(0))
        for count in (1, 2, 4)
    ]
    for other in found[1:]:
        assert float(other[0]) == pytest.approx(float(found[0][0]), rel=1e-5)
        assert_near(found[0][1], other[1])


@dataclasses.dataclass(frozen=True)
class Short(Light):
    """Gives bfloat16, as a tower of a user's own may."""

    given: Any = jnp.bfloat16

    def apply(self, variables, batch, train, key):
        outputs, model_state = super().apply(variables, batch, train, key)
        short = jax.tree.map(lambda x: x.astype(jnp.bfloat16), outputs)
        return jax.tree.map(lambda x: x.astype(self.given), short), model_state


@pytest.mark.parametrize("count", mostly([1, 2], [2]))
def test_the_loss_of_a_bfloat16_model_is_computed_in_float32(count):
    _, loss, state = fresh("cyclip", dropout=0.0, light=True)
    rounded = Short(Layers(None), jnp.float32), Short(Layers(None))
    found = [
        jax.jit(gradients.make(model, loss, count))(state, BATCH, jax.random.key(0))
        for model in rounded
    ]
    assert found[1][0].dtype == jnp.float32
    assert float(found[1][0]) == pytest.approx(float(found[0][0]), rel=1e-6)
    # A gradient is itself in bfloat16 at the embeddings.
    assert_near(found[0][1], found[1][1], 2**-7)
    steps = [jax.jit(make_loss_step(model, loss))(state, BATCH) for model in rounded]
    assert float(steps[1]) == pytest.approx(float(steps[0]), rel=1e-6)
