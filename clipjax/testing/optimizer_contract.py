"""An optimizer's contract: a state of fixed form, decay and freezing by masks."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from clipjax import config
from clipjax.optim import factory
from clipjax.testing import contract
from clipjax.testing.contract import Check, Component, must

STEPS = 50


def checks(component: Component) -> Iterator[Check]:
    """The checks of an optimizer's factory, with the component's options."""
    documented = functools.partial(contract.options_are_documented, component)
    yield Check("options are typed and documented", documented)
    for name, check in {
        "the state keeps its form": state_keeps_its_form,
        "a quadratic falls": a_quadratic_falls,
        "the schedule is followed": follows_the_schedule,
        "updates stay finite": stays_finite,
        "weight decay keeps to its mask": decay_keeps_to_its_mask,
        "frozen parameters stay and have no state": freezing_leaves_no_state,
        "a saved state restores bit for bit": state_restores,
        "one device and many agree": devices_change_nothing,
    }.items():
        yield Check(name, functools.partial(check, component))


def parameters() -> dict[str, jax.Array]:
    """A matrix large enough to be split, and undecayed parameters: a vector, positions,
    a scalar."""
    draw = np.random.default_rng(0)
    return {
        "kernel": jnp.asarray(draw.normal(size=(64, 64)), jnp.float32),
        "bias": jnp.asarray(draw.normal(size=8), jnp.float32),
        "positions": jnp.asarray(draw.normal(size=(4, 8)), jnp.float32),
        "logit_scale": jnp.asarray(2.0, jnp.float32),
    }


def gradients(step: int) -> dict[str, jax.Array]:
    return jax.tree.map(lambda x: jnp.sin(7 * x + step), parameters())


def transformation(component: Component, **section: Any) -> Any:
    """The transformation that a run makes, at a constant rate, without clipping.

    section: keys of `optim` that override the component's options and the defaults.
    """
    optim = config.base(f"optim={component.name},schedule=constant").optim
    with optim.unlocked():
        for name, value in {"clip_norm": 0.0, **component.options, **section}.items():
            optim[name] = value
    return factory.make(optim, 1000, 100, parameters()).tx


def stepping(tx: Any) -> Callable[..., Any]:
    """(gradient, state, params) -> (params, state), compiled once."""

    def step(gradient: Any, state: Any, params: Any) -> Any:
        updates, state = tx.update(gradient, state, params, value=jnp.zeros(()))
        return optax.apply_updates(params, updates), state

    return contract.jit(step)


def after(tx: Any, steps: int = 2) -> Any:
    """Parameters and state after some steps."""
    params, step = parameters(), stepping(tx)
    state = tx.init(params)
    for number in range(steps):
        params, state = step(gradients(number), state, params)
    return params, state


def state_keeps_its_form(component: Component) -> None:
    """A step keeps the structure, shapes and dtypes of the state and the parameters."""
    must(
        component.has("lr"),
        "the factory needs an option `lr`: the learning rate at the schedule's peak",
    )
    tx = transformation(component)
    params, gradient = parameters(), gradients(0)
    fresh = jax.eval_shape(tx.init, params)
    updates, state = jax.eval_shape(tx.update, gradient, fresh, params)
    must(
        jax.tree.structure(fresh) == jax.tree.structure(state)
        and jax.tree.leaves(fresh) == jax.tree.leaves(state),
        "a step changes the form of the state: a checkpoint could not be restored",
    )
    must(
        contract.shapes(jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), updates))
        == contract.shapes(params),
        "updates must have the parameters' shapes and dtypes",
    )


def a_quadratic_falls(component: Component) -> None:
    """STEPS steps reduce the mean squared distance to a far point."""
    tx = transformation(component)
    goal = jax.tree.map(lambda x: x + 10 * jnp.sign(x), parameters())

    def distance(params: Any) -> Any:
        parts = jax.tree.map(lambda x, y: jnp.square(x - y).mean(), params, goal)
        return sum(jax.tree.leaves(parts))

    params, step = parameters(), stepping(tx)
    gradient, state, start = contract.jit(jax.grad(distance)), tx.init(params), params
    for _ in range(STEPS):
        params, state = step(gradient(params), state, params)
    before, last = float(distance(start)), float(distance(params))
    must(
        last < before,
        f"{STEPS} steps take a quadratic from {before:.6g} to {last:.6g}: it must fall",
    )


def follows_the_schedule(component: Component) -> None:
    """A rate of zero leaves the parameters unchanged, and a later rate moves them."""

    def rate(peak: float) -> optax.Schedule:
        return lambda count: jnp.where(count == 0, 0.0, peak)

    def decay(strength: float) -> optax.GradientTransformation:
        return optax.add_decayed_weights(strength)

    tx = optax.with_extra_args_support(component.make(rate, decay))
    start, step = parameters(), stepping(tx)
    still, state = step(gradients(0), tx.init(start), start)
    message = "at a rate of 0 the parameters move: scale by rate(lr), decay included"
    contract.same_bits(start, still, message)
    moved, _ = step(gradients(1), state, still)
    must(contract.gap(still, moved) > 0, "the rate has no effect: scale by rate(lr)")


def stays_finite(component: Component) -> None:
    """Gradients of zero, tiny and huge ones in turn keep the parameters finite."""
    tx = transformation(component)
    params, step = parameters(), stepping(tx)
    state = tx.init(params)
    for scale in (0.0, 1e-30, 1e15, 1.0, 0.0):
        gradient = jax.tree.map(lambda x, s=scale: s * x, gradients(0))
        params, state = step(gradient, state, params)
        contract.finite(params, f"parameters after gradients of {scale:g}")


def decay_keeps_to_its_mask(component: Component) -> None:
    """Weight decay acts on a matrix and not on vectors, positions and scalars."""
    if not component.has("weight_decay"):
        return
    plain = after(transformation(component, weight_decay=0.0, lr=0.01))[0]
    decayed = after(transformation(component, weight_decay=0.5, lr=0.01))[0]
    for name in ("bias", "positions", "logit_scale"):
        message = f"weight decay moves {name}: add it by decay(weight_decay) alone"
        contract.same_bits(plain[name], decayed[name], message)
    moved = contract.gap(plain["kernel"], decayed["kernel"])
    must(moved > 1e-6, "weight_decay has no effect on a matrix")


def freezing_leaves_no_state(component: Component) -> None:
    """A group of factor 0 has no moments, and its parameters stay the same bits."""
    tx = transformation(component, groups=(("^kernel$", 0.0, 0.0),))
    params, state = after(tx)
    start = parameters()
    message = "frozen parameters move"
    contract.same_bits(start["kernel"], params["kernel"], message)
    moments = {np.shape(leaf) for leaf in jax.tree.leaves(state)}
    must(start["kernel"].shape not in moments, "frozen parameters have a state")
    must(contract.gap(start["bias"], params["bias"]) > 0, "the others do not move")


def state_restores(component: Component) -> None:
    """A state restored from host arrays, as from a checkpoint, gives the same step."""
    tx = transformation(component)
    params, state = after(tx)
    restored = jax.tree.map(lambda x: jnp.asarray(np.asarray(x)), state)
    step = stepping(tx)
    one, other = (step(gradients(2), start, params) for start in (state, restored))
    contract.same_bits(one, other, "a restored state gives another step")


def devices_change_nothing(component: Component) -> None:
    """Parameters and moments split as in training give the same update."""
    tx = transformation(component)
    params, state = after(tx)
    step, mesh = stepping(tx), contract.mesh()
    one_device = step(gradients(2), state, params)[0]
    placed = contract.split_state(
        mesh, {"params": params, "opt_state": state, "gradient": gradients(2)}
    )
    many = step(placed["gradient"], placed["opt_state"], placed["params"])[0]
    contract.same(one_device, many, 1e-5, f"{mesh.size} devices change the update")
