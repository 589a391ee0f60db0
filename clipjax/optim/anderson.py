"""Anderson mixing over Adam's steps, as report 2 of the memory network tried it: per
array, and over all parameters as one vector. Both keep past steps and gradients."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float

from clipjax.optim.row import pull_of

Tx = optax.GradientTransformation
# Of each weight, before their mean is made 1.
LEAST = 1e-8


class History(NamedTuple):
    """The last k steps and gradients, the newest last; trees of arrays [k ...].

    bases: steps before mixing, {} if those taken suffice.
    """

    steps: Any
    gradients: Any
    bases: Any


class AndersonState(NamedTuple):
    count: jax.Array
    adam: optax.OptState
    history: History


def anderson_gda(
    rate: optax.Schedule,
    decay: Tx,
    *,
    b1: float,
    b2: float,
    eps: float,
    memory: int,
    regular: float,
    trust: float,
) -> Tx:
    """Per array: residuals are differences of successive steps taken."""

    def mixed(base: Array, gradient: Array, steps: Array, gradients: Array, valid):
        columns, changes = (jnp.diff(x, axis=0) for x in (steps, gradients))
        lengths, sizes = _norms(columns), _norms(changes)
        seen = valid & (lengths > 1e-8) & (sizes > 1e-8)
        cosine = _dots(columns, changes) / jnp.where(seen, lengths * sizes, 1)
        flat = jnp.clip(lengths / jnp.where(seen, sizes, 1), 0.1, 10.0)
        weights = jnp.where(seen, jnp.maximum(cosine, 0) * flat, 0)
        weights = _of_mean_one(jnp.maximum(weights, LEAST), valid, 1e-8)
        columns = _masked(columns, valid)
        penalty = regular / (weights + 1e-8)
        theta = _solve(_gram(columns), penalty, _products(columns, base - steps[-1]))
        correction = jnp.tensordot(theta, columns, 1)
        return _safe(base, correction, gradient, trust)

    def mix(bases, gradients, history, count):
        valid = _valid(count, memory + 1)
        return jax.tree.map(
            lambda base, gradient, steps, past: jnp.where(
                valid.any(), mixed(base, gradient, steps, past, valid), base
            ),
            bases,
            gradients,
            history.steps,
            history.gradients,
        )

    return _mixing(rate, decay, b1, b2, eps, memory + 1, False, mix)


def gda2(
    rate: optax.Schedule,
    decay: Tx,
    *,
    b1: float,
    b2: float,
    eps: float,
    memory: int,
    regular: float,
    curvature: float,
    trust: float,
) -> Tx:
    """Over all parameters: residuals are differences of steps before mixing, and the
    correction is made of the steps taken between them.

    The report's code pairs a residual with the step before its own, which at its second
    step does not exist; here each has its own.
    """

    def mix(bases, gradients, history, count):
        valid = _valid(count + 1, memory + 1)

        def changes(past, now):
            return jax.tree.map(
                lambda x, y: _masked(jnp.diff(x, axis=0, append=y[None]), valid),
                past,
                now,
            )

        columns = changes(history.bases, bases)
        turns = changes(history.gradients, gradients)
        steps = jax.tree.map(lambda x: _masked(x, valid), history.steps)
        lengths = jnp.sqrt(_total(_squares, steps))
        sizes = jnp.sqrt(_total(_squares, turns))
        cosine = _total(_dots, steps, turns) / (lengths * sizes + 1e-16)
        flat = jnp.clip(lengths / (sizes + 1e-16), 0.1, 10.0)
        weights = jnp.maximum(jnp.maximum(cosine + 0.1, 0) * flat, LEAST)
        weights = _of_mean_one(weights, valid, 1e-16)
        bends = jnp.where(valid, sizes / (lengths + 1e-16), 0).sum()
        bend = bends / jnp.maximum(valid.sum(), 1)
        penalty = regular * (1 + curvature * bend) / (weights + 1e-16)
        theta = _solve(
            _total(_gram, columns), penalty, _total(_products, columns, bases)
        )
        corrections = jax.tree.map(lambda s: jnp.tensordot(theta, s, 1), steps)
        limit = trust * optax.global_norm(bases)
        size = optax.global_norm(corrections)
        scale = jnp.where(size > limit, limit / (size + 1e-16), 1.0)
        mixed = jax.tree.map(
            lambda base, correction: base - scale * correction, bases, corrections
        )
        falls = jnp.asarray(optax.tree.vdot(gradients, mixed)) < 0
        return jax.tree.map(lambda m, b: jnp.where(falls, m, b), mixed, bases)

    return _mixing(rate, decay, b1, b2, eps, memory, True, mix)


def _mixing(
    rate: optax.Schedule,
    decay: Tx,
    b1: float,
    b2: float,
    eps: float,
    length: int,
    with_bases: bool,
    mix: Any,
) -> Tx:
    """Adam's steps, mixed with their past, then the decay at the same rate.

    length: of the history. mix: (Adam's steps, gradients, history, count) -> steps.
    """
    adam = optax.scale_by_adam(b1=b1, b2=b2, eps=eps)

    def init(params):
        def empty():
            return jax.tree.map(
                lambda p: jnp.zeros((length, *p.shape), p.dtype), params
            )

        history = History(empty(), empty(), empty() if with_bases else {})
        return AndersonState(jnp.zeros((), jnp.int32), adam.init(params), history)

    def update(updates, state, params=None):
        steps, adam_state = adam.update(updates, state.adam)
        now = jnp.asarray(rate(state.count))
        bases = jax.tree.map(lambda step: -now * step, steps)
        taken = mix(bases, updates, state.history, state.count)

        def pushed(past, new):
            return jax.tree.map(
                lambda x, y: jnp.concatenate([x[1:], y[None]]), past, new
            )

        history = History(
            pushed(state.history.steps, taken),
            pushed(state.history.gradients, updates),
            pushed(state.history.bases, bases) if with_bases else {},
        )
        pull = pull_of(decay, params)
        moved = jax.tree.map(lambda step, p: step - now * p, taken, pull)
        count = state.count + 1
        return moved, AndersonState(count, adam_state, history)

    return Tx(init, update)


def _valid(entries: Array, length: int) -> Bool[Array, " m"]:
    """Which differences between neighbours of `length` entries are of real ones, if the
    newest `entries` are."""
    return jnp.arange(length - 1) >= length - jnp.minimum(entries, length)


def _solve(
    gram: Float[Array, "m m"], penalty: Float[Array, " m"], right: Float[Array, " m"]
) -> Float[Array, " m"]:
    return jnp.linalg.solve(gram + jnp.diag(penalty), right)


def _safe(base: Array, correction: Array, gradient: Array, trust: float) -> Array:
    """The step less its correction, which is no longer than `trust` steps; the step
    alone if that would not descend."""
    size, limit = jnp.linalg.norm(correction), trust * jnp.linalg.norm(base)
    cut = (size > limit) & (limit > trust * 1e-8)
    mixed = base - jnp.where(cut, limit / jnp.where(cut, size, 1), 1) * correction
    return jnp.where(jnp.vdot(gradient, mixed) < 0, mixed, base)


def _of_mean_one(weights: Array, valid: Array, eps: float) -> Array:
    """Weights over their mean; 1 for those that are not valid."""
    mean = jnp.where(valid, weights, 0).sum() / jnp.maximum(valid.sum(), 1)
    return jnp.where(valid, weights / (mean + eps), 1)


def _masked(columns: Float[Array, "m ..."], valid: Array) -> Float[Array, "m ..."]:
    return jnp.where(valid.reshape(-1, *(1,) * (columns.ndim - 1)), columns, 0)


def _total(function: Any, *trees: Any) -> Array:
    """The sum of a function of leaves over all leaves."""
    return sum(jax.tree.leaves(jax.tree.map(function, *trees)))  # type: ignore


def _squares(columns: Float[Array, "m ..."]) -> Float[Array, " m"]:
    return _dots(columns, columns)


def _norms(columns: Float[Array, "m ..."]) -> Float[Array, " m"]:
    return jnp.sqrt(_squares(columns))


def _dots(
    one: Float[Array, "m ..."], other: Float[Array, "m ..."]
) -> Float[Array, " m"]:
    return (one * other).sum(tuple(range(1, one.ndim)))


def _gram(columns: Float[Array, "m ..."]) -> Float[Array, "m m"]:
    axes = tuple(range(1, columns.ndim))
    return jnp.tensordot(columns, columns, (axes, axes))


def _products(columns: Float[Array, "m ..."], one: Float[Array, ...]) -> Array:
    axes = tuple(range(1, columns.ndim))
    return jnp.tensordot(columns, one, (axes, tuple(range(one.ndim))))
