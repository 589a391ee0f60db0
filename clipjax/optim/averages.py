"""Schedule-free averages (arXiv 2405.15682), evaluated and saved beside what trains."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from clipjax.optim.around import Around, Tx
from clipjax.types import UserError


class ScheduleFreeState(NamedTuple):
    """z: the parameters that the steps move. weights: the sum of squared rates."""

    count: jax.Array
    largest_rate: jax.Array
    weights: jax.Array
    z: Any
    inner: Any


def schedule_free_adamw(
    rate: optax.Schedule,
    decay: optax.GradientTransformation,
    *,
    b1: float,
    b2: float,
    eps: float,
) -> Around:
    inner = optax.chain(
        optax.scale_by_rms(b2, eps, eps_in_sqrt=False, bias_correction=True),
        decay,
        optax.scale_by_learning_rate(rate),
    )
    return _averaged(inner, rate, b1)


def schedule_free_sgd(
    rate: optax.Schedule, decay: optax.GradientTransformation, *, b1: float
) -> Around:
    return _averaged(optax.chain(decay, optax.scale_by_learning_rate(rate)), rate, b1)


def _averaged(
    made: optax.GradientTransformation, rate: optax.Schedule, b1: float
) -> Around:
    """The averages of an optimizer without momentum.

    The parameters that train are b1 x + (1 - b1) z, where z takes the steps and x is
    the mean of all z, weighted by their largest rates squared; x is evaluated.
    """

    if b1 == 0:
        raise UserError("optim.b1=0.0: must be above 0: nothing would be averaged")

    def wrap(tx: Tx) -> Tx:
        def init(params):
            return ScheduleFreeState(
                jnp.zeros((), jnp.int32),
                jnp.zeros((), jnp.float32),
                jnp.zeros((), jnp.float32),
                jax.tree.map(jnp.copy, params),
                tx.init(params),
            )

        def update(updates, state, params=None, **more):
            steps, inner = tx.update(updates, state.inner, params, **more)
            largest = jnp.maximum(state.largest_rate, rate(state.count))
            weights = state.weights + largest**2
            share = jnp.where(weights > 0, largest**2 / weights, 0)
            # As in the authors' code, x is not needed: x - z is (y - z) / b1.
            moved = jax.tree.map(
                lambda u, y, z: (
                    (1 - b1 * (1 - share)).astype(u.dtype) * u
                    + share.astype(u.dtype) * (z - y)
                ),
                steps,
                params,
                state.z,
            )
            z = jax.tree.map(jnp.add, state.z, steps)
            count = state.count + 1
            return moved, ScheduleFreeState(count, largest, weights, z, inner)

        return optax.GradientTransformationExtraArgs(init, update)

    def averaged(state: Any, params: Any) -> Any:
        kind = ScheduleFreeState
        leaves = jax.tree.leaves(state, is_leaf=lambda leaf: isinstance(leaf, kind))
        (own,) = (leaf for leaf in leaves if isinstance(leaf, kind))
        return jax.tree.map(
            # The parameters that a partition masks are not trained.
            lambda z, y: (
                y if isinstance(z, optax.MaskedNode) else y + (1 / b1 - 1) * (y - z)
            ),
            own.z,
            params,
            is_leaf=lambda leaf: isinstance(leaf, optax.MaskedNode),
        )

    return Around(made, wrap, averaged)
