"""Optimizers around others: lookahead, sharpness-aware steps, averages."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest
from marks import mostly
from ml_collections import ConfigDict

from clipjax import config, help_pages, registry
from clipjax.optim import factory
from clipjax.types import UserError

PARAMS = {"kernel": jnp.asarray([[1.0, -2.0], [0.5, 3.0]]), "bias": jnp.ones(2)}


def made(arg, **values):
    section = config.base(f"optim={arg},schedule=constant").optim
    with section.unlocked():
        section.update(ConfigDict({"clip_norm": 0.0, **values}))
    return factory.make(section, 1000, 100, PARAMS)


def slope(params):
    """Of a bowl whose curvature differs by entry."""
    return jax.tree.map(
        lambda p: jnp.arange(1.0, p.size + 1).reshape(p.shape) * p, params
    )


def follow(tx, steps, params=PARAMS):
    state = tx.init(params)
    for _ in range(steps):
        updates, state = tx.update(slope(params), state, params, gradient_at=slope)
        params = optax.apply_updates(params, updates)
    return params, state


def equal(one, other, rtol=2e-5):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol, 1e-6), one, other)


def test_lookahead_is_optaxs():
    inner = {"lr": 0.1, "momentum": 0.0, "nesterov": False}
    ours, _ = follow(made("lookahead+sgd", sync_every=2, **inner).tx, 5)
    theirs = optax.lookahead(optax.sgd(0.1), sync_period=2, slow_step_size=0.5)
    pair = optax.LookaheadParams.init_synced(PARAMS)
    state = theirs.init(pair)
    for _ in range(5):
        updates, state = theirs.update(slope(pair.fast), state, pair)
        pair = optax.apply_updates(pair, updates)
    equal(ours, pair.fast)


@pytest.mark.thorough
def test_groups_scale_steps_and_not_returns():
    """Half the rate inside, then the whole way back: not half of it."""
    plain = {"lr": 0.1, "momentum": 0.0, "nesterov": False, "sync_every": 1}
    whole = made("lookahead+sgd", **plain, slow_step=1.0)
    half = made("lookahead+sgd", **plain, slow_step=0.5, groups=(("kernel", 0.5, 1.0),))
    full, _ = follow(whole.tx, 1)
    part, _ = follow(half.tx, 1)
    way = jax.tree.map(lambda end, start: end - start, full, PARAMS)
    part = jax.tree.map(lambda end, start: end - start, part, PARAMS)
    equal(part, {"kernel": way["kernel"] / 4, "bias": way["bias"] / 2})


def test_sam_takes_the_gradient_uphill():
    radius, lr = 0.3, 0.1
    tx = made("sam+sgd", radius=radius, lr=lr, momentum=0.0, nesterov=False).tx
    ours, _ = follow(tx, 1)
    gradient = slope(PARAMS)
    length = radius / float(optax.global_norm(gradient))
    uphill = jax.tree.map(lambda p, g: p + length * g, PARAMS, gradient)
    equal(ours, jax.tree.map(lambda p, g: p - lr * g, PARAMS, slope(uphill)))


@pytest.mark.thorough
def test_sam_clips_what_it_steps_by():
    tx = made(
        "sam+sgd", lr=1.0, momentum=0.0, nesterov=False, clip_norm=0.5, radius=0.3
    ).tx
    ours, _ = follow(tx, 1)
    way = jax.tree.map(lambda end, start: end - start, ours, PARAMS)
    assert float(optax.global_norm(way)) == pytest.approx(0.5, rel=1e-4)


def test_sam_goes_uphill_by_trained_parameters_alone():
    frozen = (("kernel", 0.0, 0.0),)
    plain = {"lr": 0.1, "momentum": 0.0, "nesterov": False}
    ours, _ = follow(made("sam+sgd", radius=0.3, groups=frozen, **plain).tx, 1)
    gradient = slope(PARAMS)["bias"]
    uphill = PARAMS["bias"] + 0.3 * gradient / jnp.linalg.norm(gradient)
    step = 0.1 * jnp.arange(1.0, 3.0) * uphill
    equal(ours, {"kernel": PARAMS["kernel"], "bias": PARAMS["bias"] - step})


@pytest.mark.parametrize("name", mostly(["adamw", "sgd"], ["adamw"]))
def test_schedule_free_is_optaxs(name):
    """Parameters and averages of another code, at a constant rate."""
    options = {"lr": 0.05, "weight_decay": 0.0}
    optim = made(f"schedule_free_{name}", **options)
    ours, state = follow(optim.tx, 6)
    theirs = getattr(optax.contrib, f"schedule_free_{name}")(0.05)
    params, their_state = follow(theirs, 6)
    equal(ours, params, 1e-4)
    average = optax.contrib.schedule_free_eval_params(their_state, params)
    equal(optim.averaged(state, ours), average, 1e-4)
    assert float(jnp.abs(average["kernel"] - params["kernel"]).max()) > 1e-3


@pytest.mark.thorough
def test_averages_weigh_by_the_largest_rate():
    """Two steps of gradient descent by hand, at rates 0.1 and 0.2 of a warmup."""
    section = config.base("optim=schedule_free_sgd,schedule=constant").optim
    with section.unlocked():
        section.update(
            ConfigDict({"lr": 0.2, "clip_norm": 0.0, "b1": 0.5, "weight_decay": 0.0})
        )
        section.schedule.warmup = 2.0
    optim = factory.make(section, 1000, 100, PARAMS)
    ours, state = follow(optim.tx, 2)
    start = np.asarray(PARAMS["bias"], np.float64)
    curve = np.arange(1.0, 3.0)
    first = start - 0.1 * curve * start  # x = z = y after one step
    second = first - 0.2 * curve * first
    share = 0.04 / (0.01 + 0.04)
    average = (1 - share) * first + share * second
    np.testing.assert_allclose(optim.averaged(state, ours)["bias"], average, rtol=1e-5)
    np.testing.assert_allclose(ours["bias"], (average + second) / 2, rtol=1e-5)


@pytest.mark.thorough
def test_averages_leave_frozen_parameters():
    optim = made("schedule_free_sgd", lr=0.1, groups=(("kernel", 0.0, 0.0),))
    ours, state = follow(optim.tx, 3)
    average = optim.averaged(state, ours)
    np.testing.assert_array_equal(average["kernel"], PARAMS["kernel"])
    assert float(jnp.abs(average["bias"] - ours["bias"]).max()) > 1e-4


@pytest.mark.thorough
def test_wrappers_join():
    name = "lookahead+sam+sgd"
    ours, _ = follow(made(name, sync_every=2, radius=0.1, lr=0.01).tx, 2)
    plain, _ = follow(made("sam+sgd", radius=0.1, lr=0.01).tx, 2)
    middle = jax.tree.map(lambda x, y: (x + y) / 2, PARAMS, plain)
    equal(ours, middle)


def test_a_files_options_apply_within_a_wrapper():
    options = {
        "optim=sgd": {"lr": 0.5, "momentum": 0.1},
        "optim=lookahead+sgd": {"sync_every": 3, "momentum": 0.2},
    }
    plain = config.base("optim=sgd", options=options).optim
    assert (plain.lr, plain.momentum) == (0.5, 0.1)
    wrapped = config.base("optim=lookahead+sgd", options=options).optim
    assert (wrapped.lr, wrapped.momentum, wrapped.sync_every) == (0.5, 0.2, 3)


def test_help_of_a_wrapped_optimizer():
    page = help_pages.page("optim=lookahead+lion")
    assert "sync_every = 6 (int)" in page and "b2 = 0.99 (float)" in page
    assert "lookahead+" in help_pages.page("optim")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("lookahead", "optim=lookahead: lookahead wraps an optimizer: name it too"),
        ("lookahead+", "lookahead wraps an optimizer: name it too"),
        ("lookahead+adamx", "unknown optim 'adamx'. Did you mean 'adam"),
        ("lookahead+lookahead", "lookahead wraps an optimizer|given twice"),
        ("lookahead+lookahead+sgd", "lookahead is given twice"),
        ("sam+lookahead+sam+sgd", "sam is given twice"),
        ("adamw+lookahead", "adamw is no wrapper. Write wrappers"),
        ("adamw+sgd", "adamw is no wrapper"),
        ("lookahed+sgd", "lookahed is unknown. Did you mean 'lookahead'"),
    ],
)
def test_names_that_cannot_be_joined(name, message):
    with pytest.raises(UserError, match=message) as error:
        registry.load("optim", name)
    assert "\n" not in str(error.value)


def test_lookahead_refuses_what_averages_itself():
    with pytest.raises(UserError, match="averages its parameters itself"):
        made("lookahead+schedule_free_adamw")
