"""Micro-batches change the memory of a step, not its gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tiny
from clipjax import config
from clipjax.engine import gradients
from clipjax.engine import state as states

BATCH = tiny.batch()


def fresh(case, dropout, patch_dropout=0.0):
    model = tiny.model(dropout, patch_dropout, **tiny.LOSSES[case][1])
    loss = tiny.any_loss(case)
    optim = tiny.optim(model, config.base("schedule=constant").optim)
    return model, loss, states.create(model, loss, optim.tx, False, seed=0)


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


@pytest.mark.parametrize("count", [2, pytest.param(4, marks=pytest.mark.slow)])
@pytest.mark.parametrize("case", tiny.LOSSES)
def test_as_plain_differentiation_under_the_same_masks(case, count):
    model, loss, state = fresh(case, dropout=0.3, patch_dropout=0.5)
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


@pytest.mark.parametrize("case", ["clip", "sogclr"])
def test_equal_in_any_number_of_parts_without_dropout(case):
    model, loss, state = fresh(case, dropout=0.0)
    found = [
        jax.jit(gradients.make(model, loss, count))(state, BATCH, jax.random.key(0))
        for count in (1, 2, 4)
    ]
    for other in found[1:]:
        assert float(other[0]) == pytest.approx(float(found[0][0]), rel=1e-5)
        assert_near(found[0][1], other[1])
