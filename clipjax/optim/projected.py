"""AdamP and SGDP: steps along the sphere for weights whose size does not matter, as
those before a normalisation (arXiv 2006.08217)."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from clipjax.optim.row import pull_of

Tx = optax.GradientTransformation


def adamp(
    rate: optax.Schedule,
    decay: Tx,
    *,
    b1: float,
    b2: float,
    eps: float,
    nesterov: bool,
    delta: float,
    decay_share: float,
) -> Tx:
    def update(updates, state, params=None):
        count = state.count + 1
        mu = optax.tree.update_moment(updates, state.mu, b1, 1)
        nu = optax.tree.update_moment_per_elem_norm(updates, state.nu, b2, 2)
        ahead = optax.tree.update_moment(updates, mu, b1, 1) if nesterov else mu
        # As the authors' code, which corrects the mean's bias after the projection.
        steps = jax.tree.map(
            lambda m, v: m / (jnp.sqrt(v / (1 - b2**count)) + eps) / (1 - b1**count),
            ahead,
            nu,
        )
        moved = _along_spheres(
            steps, updates, params, decay, delta, decay_share, eps, 1.0
        )
        return moved, optax.ScaleByAdamState(count, mu, nu)

    init = optax.scale_by_adam(b1, b2).init
    return optax.chain(Tx(init, update), optax.scale_by_learning_rate(rate))


def sgdp(
    rate: optax.Schedule,
    decay: Tx,
    *,
    momentum: float,
    nesterov: bool,
    eps: float,
    delta: float,
    decay_share: float,
) -> Tx:
    inner = optax.trace(momentum, nesterov)

    def update(updates, state, params=None):
        steps, state = inner.update(updates, state, params)
        # The decay is outside the momentum, and as strong as if it were inside.
        strength = 1 / (1 - momentum)
        moved = _along_spheres(
            steps, updates, params, decay, delta, decay_share, eps, strength
        )
        return moved, state

    return optax.chain(Tx(inner.init, update), optax.scale_by_learning_rate(rate))


def _along_spheres(
    steps: Any,
    gradients: Any,
    params: Any,
    decay: Tx,
    delta: float,
    decay_share: float,
    eps: float,
    strength: float,
) -> Any:
    """Steps without their part along weights of free size, whose decay is reduced."""
    pulls = pull_of(decay, params)

    def one(step, gradient, param, pull):
        if param.ndim < 2:
            return step + strength * pull
        along, free = tangent(step, gradient, param, delta, eps)
        return along + strength * jnp.where(free, decay_share, 1.0) * pull

    return jax.tree.map(one, steps, gradients, params, pulls)


def tangent(
    step: Float[Array, "*i o"],
    gradient: Float[Array, "*i o"],
    param: Float[Array, "*i o"],
    delta: float,
    eps: float,
) -> tuple[Float[Array, "*i o"], Array]:
    """(the step, without its part along the weights if their size is free; if it is).

    It is if the gradient is nearly orthogonal to the weights: of each output, or else
    of the whole array.
    """
    shape = param.shape

    def project(step: Array, gradient: Array, param: Array) -> tuple[Array, Array]:
        """Of rows [outputs, inputs]."""
        norms = [jnp.linalg.norm(x, axis=1) for x in (gradient, param)]
        cosines = jnp.abs((gradient * param).sum(1))
        cosines = cosines / (jnp.maximum(norms[0], eps) * jnp.maximum(norms[1], eps))
        free = cosines.max() < delta / param.shape[1] ** 0.5
        normal = param / (norms[1][:, None] + eps)
        return step - normal * (normal * step).sum(1, keepdims=True), free

    def rows(x: Array) -> Array:
        return x.reshape(-1, shape[-1]).T

    by_output, outputs_free = project(rows(step), rows(gradient), rows(param))
    by_output = by_output.T.reshape(shape)
    flat = [x.reshape(1, -1) for x in (step, gradient, param)]
    by_array, array_free = project(*flat)
    by_array = by_array.reshape(shape)
    along = jnp.where(outputs_free, by_output, jnp.where(array_free, by_array, step))
    return along, outputs_free | array_free
