"""Rows of the table against optax's own functions, and what it has not by hand."""

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

KERNEL = {"kernel": jnp.asarray(np.random.default_rng(0).normal(size=(3, 2)))}
WD = 0.3


def made(arg, params=KERNEL, **values):
    section = config.base(f"optim={arg},schedule=constant").optim
    with section.unlocked():
        section.update(ConfigDict({"clip_norm": 0.0, **values}))
    return factory.make(section, 1000, 100, params)


def gradients(params, step):
    return jax.tree.map(lambda p: jnp.sin(5 * p + step) + 0.2, params)


def follow(tx, params, steps=3, state=None, **more):
    state = tx.init(params) if state is None else state
    for step in range(steps):
        updates, state = tx.update(gradients(params, step), state, params, **more)
        params = optax.apply_updates(params, updates)
    return params


# Ours with options -> optax's function of the same formula.
ALIASES = {
    "nadamw": lambda: optax.nadamw(0.01, 0.9, 0.98, 1e-6, weight_decay=WD),
    "lion": lambda: optax.lion(0.01, weight_decay=WD),
    "lamb": lambda: optax.lamb(0.01, weight_decay=WD),
    "lars": lambda: optax.lars(0.01, weight_decay=WD),
    "adan": lambda: optax.adan(0.01, eps_root=0.0, weight_decay=WD),
    "adabelief": lambda: optax.chain(
        optax.adabelief(0.01), optax.add_decayed_weights(-0.01 * WD)
    ),
    "yogi": lambda: optax.chain(optax.add_decayed_weights(WD), optax.yogi(0.01)),
    "sm3": lambda: optax.chain(optax.add_decayed_weights(WD), optax.sm3(0.01)),
    "novograd": lambda: optax.novograd(0.01, 0.95, 0.98, 1e-8, weight_decay=WD),
    "adopt": lambda: optax.chain(
        optax.contrib.adopt(0.01), optax.add_decayed_weights(-0.01 * WD)
    ),
    "ademamix": lambda: optax.contrib.ademamix(0.01, weight_decay=WD),
    "madgrad": lambda: optax.contrib.madgrad(0.01, weight_decay=WD),
    "prodigy": lambda: optax.contrib.prodigy(0.01, weight_decay=WD, estim_lr0=0.1),
    "dadapt_adamw": lambda: optax.contrib.dadapt_adamw(
        0.01, weight_decay=WD, estim_lr0=0.1
    ),
}
OPTIONS = {"prodigy": {"d0": 0.1}, "dadapt_adamw": {"d0": 0.1}}


@pytest.mark.parametrize("name", mostly(ALIASES, ["lamb", "prodigy"]))
def test_a_row_is_optaxs_function(name):
    own = made(name, lr=0.01, weight_decay=WD, **OPTIONS.get(name, {})).tx
    ours, theirs = follow(own, KERNEL), follow(ALIASES[name](), KERNEL)
    assert np.abs(ours["kernel"] - KERNEL["kernel"]).max() > 1e-5
    np.testing.assert_allclose(ours["kernel"], theirs["kernel"], rtol=2e-5, atol=2e-6)


def test_the_trust_ratio_sees_the_decay():
    """LAMB's first step by hand: Adam's is the sign, decay joins it, the norm is the
    parameters'."""
    params = {"kernel": jnp.asarray([[3.0, 4.0]])}
    own = made("lamb", params, lr=0.1, weight_decay=0.5, eps=1e-12).tx
    updates, _ = own.update({"kernel": jnp.ones((1, 2))}, own.init(params), params)
    step = np.asarray([[1 + 1.5, 1 + 2.0]])
    expected = -0.1 * 5 / np.linalg.norm(step) * step
    np.testing.assert_allclose(updates["kernel"], expected, rtol=1e-5)


@pytest.mark.thorough
def test_adafactor_keeps_sums_of_rows_and_columns_alone():
    params = {"kernel": jnp.ones((64, 32))}
    form = {"min_dim": 32, "b2_cap": 0.999, "clip_rms": 0.0, "by_parameter": False}
    state = made("adafactor", params, **form).tx.init(params)
    assert sum(leaf.size for leaf in jax.tree.leaves(state)) < 64 * 32 / 4
    with_mean = {**form, "momentum": 0.9, "momentum_bf16": True}
    state = made("adafactor", params, **with_mean).tx.init(params)
    (mean,) = (x for x in jax.tree.leaves(state) if x.shape == (64, 32))
    assert mean.dtype == jnp.bfloat16


@pytest.mark.thorough
def test_big_visions_adafactor_by_hand():
    """Two steps in NumPy: capped decay, rows times columns, then momentum."""
    params = {"kernel": jnp.asarray(np.random.default_rng(1).normal(size=(4, 3)))}
    form = dict(min_dim=1, b2_cap=0.4, clip_rms=0.0, by_parameter=False, momentum=0.9)
    tx = made("adafactor", params, lr=1.0, **form).tx
    state, mean = tx.init(params), np.zeros((4, 3))
    rows, columns = np.zeros(4), np.zeros(3)
    for step in (1, 2):
        gradient = np.cos(np.arange(12.0) * step).reshape(4, 3) + 0.1
        updates, state = tx.update({"kernel": jnp.asarray(gradient)}, state, params)
        decay = min(0.4, 1 - step**-0.8)
        rows = decay * rows + (1 - decay) * (gradient**2).mean(1)
        columns = decay * columns + (1 - decay) * (gradient**2).mean(0)
        second = np.outer(rows, columns) / rows.mean()
        mean = 0.9 * mean + 0.1 * gradient / np.sqrt(second)
        np.testing.assert_allclose(updates["kernel"], -mean, rtol=2e-4, atol=1e-5)


@pytest.mark.thorough
def test_ademamix_rises_as_published():
    """Half-way, alpha is half and the slow mean's half-life between those of b1, b3."""
    params = {"kernel": jnp.ones((1, 2))}
    tx = made("ademamix", params, lr=1.0, mix_steps=2, b3=0.99, alpha=4.0).tx
    state, slow = tx.init(params), 0.0
    first = second = 0.0
    for step, gradient in enumerate((1.0, 0.5)):
        share = step / 2
        start, end = np.log(0.9), np.log(0.99)
        b3 = np.exp(start * end / ((1 - share) * end + share * start))
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        slow = b3 * slow + (1 - b3) * gradient
        mean = first / (1 - 0.9 ** (step + 1))
        root = np.sqrt(second / (1 - 0.999 ** (step + 1)))
        expected = -(mean + 4 * share * slow) / root
        updates, state = tx.update(
            {"kernel": jnp.full((1, 2), gradient)}, state, params
        )
        np.testing.assert_allclose(updates["kernel"], expected, rtol=1e-4)


@pytest.mark.thorough
def test_sophia_divides_by_the_hessian():
    """The diagonal of a diagonal Hessian is found exactly, whatever the signs."""
    hessian = jnp.asarray([[0.5, 2.0, 40.0]])
    params = {"kernel": jnp.asarray([[1.0, -1.0, 0.3]])}
    tx = made(
        "sophia", params, lr=1.0, weight_decay=0.0, b1=0.0, b2=0.0, gamma=1.0, clip=0.9
    ).tx
    at = lambda p: {"kernel": hessian * p["kernel"]}  # noqa: E731
    state = tx.init(params)
    # The estimate serves from the next step on.
    _, state = tx.update(at(params), state, params, gradient_at=at)
    updates, _ = tx.update(at(params), state, params, gradient_at=at)
    np.testing.assert_allclose(updates["kernel"], [[-0.9, 0.9, -0.3]], rtol=1e-5)


def test_sophia_of_some_parameters():
    params = {"kernel": jnp.ones((2, 2)), "other": jnp.ones((2, 2))}
    tx = made("sophia", params, lr=0.1, groups=(("other", 0.0, 0.0),), every=1).tx

    def at(p):
        assert p["other"].shape == (2, 2)  # frozen ones are there too
        return jax.tree.map(lambda x: 2 * x, p)

    state = tx.init(params)
    updates, state = tx.update(at(params), state, params, gradient_at=at)
    updates, state = tx.update(at(params), state, params, gradient_at=at)
    np.testing.assert_array_equal(updates["other"], 0)
    assert float(np.abs(updates["kernel"]).min()) > 0


@pytest.mark.parametrize("name", mostly(["prodigy", "dadapt_adamw"], ["prodigy"]))
def test_an_estimate_outlives_steps_without_gradients(name):
    tx = made(name, lr=1.0).tx
    state, params = tx.init(KERNEL), KERNEL
    zeros = jax.tree.map(jnp.zeros_like, params)
    for gradient in (zeros, gradients(params, 0), gradients(params, 1)):
        updates, state = tx.update(gradient, state, params)
        assert np.isfinite(updates["kernel"]).all()
    assert np.abs(updates["kernel"]).max() > 0


def test_help_shows_a_rows_options():
    page = help_pages.page("optim=lion")
    assert "b2 = 0.99 (float)" in page and "decay of the momentum" in page
    assert "weight_decay = 1.0 (float)" in page


def test_all_options_have_a_meaning_and_a_type():
    for name in registry.names("optim"):
        make = registry.load("optim", name)
        assert set(help_pages.meanings(make)) == set(registry.options(make)), name


@pytest.mark.parametrize(
    ("arg", "values", "message"),
    [
        ("lion", {"b1": 1.5}, r"optim.b1=1.5: must be at least 0 and"),
        ("adan", {"b3": 1.0}, r"optim.b3=1.0: must be at least 0 and"),
        ("adafactor", {"b2_cap": 1.5}, r"optim.b2_cap=1.5: must be above 0 and at"),
        ("adafactor", {"min_dim": 0}, r"optim.min_dim=0: must be at least 1"),
        ("sophia", {"every": 0}, r"optim.every=0: must be at least 1"),
        ("prodigy", {"d0": 0.0}, r"optim.d0=0.0: must be above"),
        ("lookahead+sgd", {"slow_step": 0.0}, r"optim.slow_step=0.0: must be above"),
        ("sam+sgd", {"radius": 0.0}, r"optim.radius=0.0: must be above"),
        ("schedule_free_sgd", {"b1": 0.0}, r"optim.b1=0.0: must be above 0"),
    ],
)
def test_values_out_of_range_are_refused(arg, values, message):
    with pytest.raises(UserError, match=message):
        made(arg, **values)
