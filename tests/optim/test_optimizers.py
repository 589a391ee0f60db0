"""Optimizers against PyTorch's numbers and their contract; groups and clipping."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest
from marks import mostly
from ml_collections import ConfigDict

from clipjax import config, registry, testing
from clipjax.optim import factory, orthogonal
from clipjax.types import UserError


def section(arg=None, **values):
    made = config.base(arg).optim
    with made.unlocked():
        made.update(ConfigDict({"clip_norm": 0.0, **values}))
    return made


def parameters():
    return {
        "kernel": jnp.array([[1.0, -2.0], [0.5, 3.0]]),
        "bias": jnp.array([0.1, -0.2]),
        "positions": jnp.array([[0.3, 0.4]]),
    }


def gradients(step):
    values = np.array([[0.3, -0.1], [0.2, 0.7]]) * (1 + 0.5 * step)
    return {
        "kernel": jnp.asarray(values),
        "bias": jnp.asarray(values[0]),
        "positions": jnp.asarray(values[:1]),
    }


def run(made, steps, params):
    optim = factory.make(made, 1000, 100, params)
    state = optim.tx.init(params)
    for step in range(steps):
        updates, state = optim.tx.update(gradients(step), state, params, value=0.0)
        params = jax.tree.map(lambda p, u: p + u, params, updates)
    return params


GOLDEN = json.loads((pathlib.Path(__file__).parent / "torch_steps.json").read_text())


@pytest.mark.parametrize(
    "case", mostly(GOLDEN["cases"], ["sgd", "adamw", "nadam", "adafactor"])
)
def test_ten_steps_equal_torch(case):
    """Written by tests/parity/make_optimizer_goldens.py; decay is on the kernel."""
    options = {**GOLDEN["cases"][case]["options"], **GOLDEN["section"]}
    made = section(f"optim={case.split()[0]},schedule=constant", **options)
    params = {key: jnp.asarray(value) for key, value in GOLDEN["start"].items()}
    tx = factory.make(made, 1000, 100, params).tx

    @jax.jit
    def run(params, gradients):
        def step(carry, gradient):
            params, state = carry
            updates, state = tx.update(gradient, state, params, value=0.0)
            return (optax.apply_updates(params, updates), state), ()

        return jax.lax.scan(step, (params, tx.init(params)), gradients)[0][0]

    leaves = [jax.tree.map(np.float32, each) for each in GOLDEN["gradients"]]
    stacked = {
        key: jnp.stack([np.asarray(each[key]) for each in leaves]) for key in params
    }
    moved = run(params, stacked)
    for key, expected in GOLDEN["cases"][case]["after"].items():
        np.testing.assert_allclose(moved[key], expected, rtol=2e-5, atol=2e-6)


WRAPPED = ["lookahead+adamw", "sam+sgd"]
BY_DEFAULT = ["adamw", "schedule_free_adamw"]


@pytest.mark.parametrize(
    "name", mostly([*registry.names("optim"), *WRAPPED], BY_DEFAULT)
)
def test_contract(name):
    testing.check_optimizer(name)


def test_muon_equals_optax_and_adamw():
    """Matrices as optax's own Muon, of another code; the rest as AdamW."""
    params = {
        "kernel": jnp.asarray(np.random.default_rng(0).normal(size=(4, 6))),
        "token_embedding": jnp.ones((4, 6)),
        "bias": jnp.ones(4),
    }
    grads = jax.tree.map(lambda p: jnp.sin(7 * p) + 0.1, params)
    # Without Nesterov: optax corrects its bias, which the authors' code does not.
    made = section(
        "optim=muon,schedule=constant", lr=0.01, weight_decay=0.0, nesterov=False
    )
    muon = factory.make(made, 1000, 100, params).tx
    theirs = optax.contrib.muon(0.01, consistent_rms=0.2, nesterov=False)
    made = section("optim=adamw,schedule=constant", lr=0.01, weight_decay=0.0)
    adamw = factory.make(made, 1000, 100, params).tx
    states = [muon.init(params), theirs.init(params), adamw.init(params)]
    for _ in range(3):
        grads = jax.tree.map(lambda g: jnp.cos(3 * g), grads)
        ours, states[0] = muon.update(grads, states[0], params)
        other, states[1] = theirs.update(grads, states[1], params)
        adam, states[2] = adamw.update(grads, states[2], params)
        np.testing.assert_allclose(ours["kernel"], other["kernel"], rtol=2e-4)
        for name in ("token_embedding", "bias"):
            np.testing.assert_allclose(ours[name], adam[name], rtol=1e-6)


def test_muon_makes_matrices_orthogonal():
    # Singular values near 1 (0.7 to 1.2), then 0.2 * sqrt(6).
    matrix = jnp.asarray(np.random.default_rng(0).normal(size=(6, 4)), jnp.float32)
    update, _ = orthogonal.orthogonalize().update({"m": matrix}, optax.EmptyState())
    values = np.linalg.svd(update["m"], compute_uv=False) / (0.2 * 6**0.5)
    assert values.min() > 0.65 and values.max() < 1.25


def test_groups_scale_and_freeze_in_order():
    groups = (("bias", 0.0, 1.0), ("k", 0.5, 1.0), ("kernel", 9.0, 9.0))
    plain = section("optim=sgd,schedule=constant", lr=0.1)
    grouped = section("optim=sgd,schedule=constant", lr=0.1, groups=groups)
    start = parameters()
    full, part = run(plain, 2, start), run(grouped, 2, start)
    np.testing.assert_array_equal(part["bias"], start["bias"])
    np.testing.assert_allclose(
        part["kernel"] - start["kernel"], (full["kernel"] - start["kernel"]) / 2, 1e-5
    )
    state = factory.make(grouped, 10, 10, start).tx.init(start)
    shapes = [leaf.shape for leaf in jax.tree.leaves(state)]
    assert start["bias"].shape not in shapes  # frozen: no momentum is kept


def test_a_pattern_that_matches_nothing_is_an_error():
    made = section(groups=(("nothing", 1.0, 1.0),))
    with pytest.raises(UserError, match="matches no parameter"):
        factory.make(made, 10, 10, parameters())


def test_clipping_is_by_global_norm():
    made = section("optim=sgd,schedule=constant", lr=1.0, momentum=0.0, nesterov=False)
    made.clip_norm = 0.5
    start = parameters()
    moved = run(made, 1, start)
    steps = jax.tree.leaves(jax.tree.map(lambda a, b: a - b, moved, start))
    norm = np.sqrt(sum(float(jnp.sum(step**2)) for step in steps))
    assert norm == pytest.approx(0.5, rel=1e-5)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("b1", 2.0),
        ("b1", -1.0),
        ("b2", 1.0),
        ("b2", 0.99999999),  # 1 in float32
        ("eps", 0.0),
        ("eps", 1e-46),  # 0 in float32
        ("eps", -1e-8),
        ("lr", -0.1),
        ("lr", 1e39),
        ("weight_decay", -0.1),
        ("momentum", 1.0),
        ("momentum", -0.5),
        ("clip_norm", -1.0),
        ("lr", float("nan")),
    ],
)
def test_values_that_cannot_work_are_refused(name, value):
    found = 0
    for optim in ("adamw", "sgd", "muon"):
        made = section(f"optim={optim}")
        if name in made:
            made[name] = value
            with pytest.raises(UserError, match=f"^optim.{name}=.*: must be "):
                factory.make(made, 10, 5, parameters())
            found += 1
    assert found


def test_every_optimizer_checks_every_number():
    """A new option of one is refused at -1, or stands here with its reason."""
    for name in registry.names("optim"):
        made = section(f"optim={name}")
        for option, known in registry.options(registry.load("optim", name)).items():
            if known.annotation is float:
                made[option] = -1.0
                with pytest.raises(UserError, match=f"^optim.{option}=-1.0: must be"):
                    factory.make(made, 10, 5, parameters())
                made[option] = known.default
