"""An optimizer's contract: a state of fixed form, decay and freezing by masks."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from clipjax import config
from clipjax.optim import factory
from clipjax.optim.around import whole
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
        "groups scale steps, and frozen parameters have no state": groups_are_kept,
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


class Made(NamedTuple):
    """tx: a transformation. update: (gradient, state, params) -> (updates, state).
    step: the same to (params, state), compiled once."""

    tx: Any
    update: Callable[..., Any]
    step: Callable[..., Any]


def made(component: Component, **section: Any) -> Made:
    """What a run makes, at a constant rate, without clipping.

    section: keys of `optim` that override the component's options and the defaults.
    """
    options = {"clip_norm": 0.0, **component.options, **section}
    return _made(component.factory, component.name, tuple(options.items()))


@functools.lru_cache(maxsize=8)  # the checks share what is compiled
def _made(_: Any, name: str, options: tuple[tuple[str, Any], ...]) -> Made:
    optim = config.base(f"optim={name},schedule=constant").optim
    with optim.unlocked():
        for key, value in options:
            optim[key] = value
    return stepping(factory.make(optim, 1000, 100, parameters()).tx)


def stepping(tx: Any) -> Made:
    """A transformation with its step, for an objective whose Hessian is 0.1."""

    def update(gradient: Any, state: Any, params: Any) -> Any:
        def gradient_at(other: Any) -> Any:
            return jax.tree.map(
                lambda g, p, q: g + 0.1 * (q - p), gradient, params, other
            )

        return tx.update(
            gradient, state, params, value=jnp.zeros(()), gradient_at=gradient_at
        )

    def step(gradient: Any, state: Any, params: Any) -> Any:
        updates, state = update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    return Made(tx, update, contract.jit(step))


def after(one: Made, steps: int = 2) -> Any:
    """Parameters and state after some steps."""
    params = parameters()
    state = one.tx.init(params)
    for number in range(steps):
        params, state = one.step(gradients(number), state, params)
    return params, state


@contract.jit
def _slope(params: Any) -> Any:
    """The gradient of the distance from the goal, with respect to the parameters."""
    return jax.grad(distance)(params)


def distance(params: Any) -> Any:
    """The mean squared distance from a far point."""
    goal = jax.tree.map(lambda x: x + 10 * jnp.sign(x), parameters())
    parts = jax.tree.map(lambda x, y: jnp.square(x - y).mean(), params, goal)
    return sum(jax.tree.leaves(parts))


def state_keeps_its_form(component: Component) -> None:
    """A step keeps the structure, shapes and dtypes of the state and the parameters."""
    must(
        component.has("lr"),
        "the factory needs an option `lr`: the learning rate at the schedule's peak",
    )
    one = made(component)
    params, gradient = parameters(), gradients(0)
    fresh = jax.eval_shape(one.tx.init, params)
    updates, state = jax.eval_shape(one.update, gradient, fresh, params)
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
    one, params = made(component), parameters()
    state, start = one.tx.init(params), params
    for _ in range(STEPS):
        params, state = one.step(_slope(params), state, params)
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

    one = stepping(whole(component.make(rate, decay)))
    start, step = parameters(), one.step
    still, state = step(gradients(0), one.tx.init(start), start)
    message = "at a rate of 0 the parameters move: scale by rate(lr), decay included"
    contract.same_bits(start, still, message)
    moved, _ = step(gradients(1), state, still)
    must(contract.gap(still, moved) > 0, "the rate has no effect: scale by rate(lr)")


def stays_finite(component: Component) -> None:
    """Gradients of zero, tiny and huge ones in turn keep the parameters finite."""
    one, params = made(component), parameters()
    state = one.tx.init(params)
    for scale in (0.0, 1e-30, 1e15, 1.0, 0.0):
        gradient = jax.tree.map(lambda x, s=scale: s * x, gradients(0))
        params, state = one.step(gradient, state, params)
        contract.finite(params, f"parameters after gradients of {scale:g}")


def decay_keeps_to_its_mask(component: Component) -> None:
    """Weight decay acts on a matrix and not on vectors, positions and scalars."""
    if not component.has("weight_decay"):
        return
    # An estimated rate begins too small for an effect of its decay.
    rates = {"lr": 0.01, **({"d0": 1.0} if component.has("d0") else {})}
    plain = after(made(component, weight_decay=0.0, **rates))[0]
    decayed = after(made(component, weight_decay=0.5, **rates))[0]
    for name in ("bias", "positions", "logit_scale"):
        message = f"weight decay moves {name}: add it by decay(weight_decay) alone"
        contract.same_bits(plain[name], decayed[name], message)
    moved = contract.gap(plain["kernel"], decayed["kernel"])
    must(moved > 1e-6, "weight_decay has no effect on a matrix")


def groups_are_kept(component: Component) -> None:
    """A group of factor 0 has no moments, and its parameters stay the same bits; one of
    factor 0.5 goes half as far."""
    groups = (("^kernel$", 0.0, 0.0), ("^bias$", 0.5, 1.0))
    params, state = after(made(component, groups=groups))
    full, start = after(made(component))[0], parameters()
    message = "frozen parameters move"
    contract.same_bits(start["kernel"], params["kernel"], message)
    moments = {np.shape(leaf) for leaf in jax.tree.leaves(state)}
    must(start["kernel"].shape not in moments, "frozen parameters have a state")
    ways = [np.linalg.norm(end["bias"] - start["bias"]) for end in (full, params)]
    must(ways[1] > 0, "parameters that are not frozen do not move")
    must(
        0.4 < ways[1] / max(ways[0], 1e-30) < 0.6,
        f"a group's factor of 0.5 takes its parameters {ways[1] / ways[0]:.2f} times "
        "as far",
    )


def state_restores(component: Component) -> None:
    """A state restored from host arrays, as from a checkpoint, gives the same step."""
    one = made(component)
    params, state = after(one)
    restored = jax.tree.map(lambda x: jnp.asarray(np.asarray(x)), state)
    first, other = (
        one.step(gradients(2), start, params) for start in (state, restored)
    )
    contract.same_bits(first, other, "a restored state gives another step")


def devices_change_nothing(component: Component) -> None:
    """Parameters and moments split as in training give the same update."""
    one = made(component)
    params, state = after(one)
    step, mesh = one.step, contract.mesh()
    one_device = step(gradients(2), state, params)[0]
    placed = contract.split_state(
        mesh, {"params": params, "opt_state": state, "gradient": gradients(2)}
    )
    many = step(placed["gradient"], placed["opt_state"], placed["params"])[0]
    contract.same(one_device, many, 1e-5, f"{mesh.size} devices change the update")
