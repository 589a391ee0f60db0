"""Optimizers whose rate or decay lies inside: each is made from the rate's schedule,
the transformation that adds weight decay, and its options."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax
import optax.contrib

from clipjax.optim.row import pull_of
from clipjax.optim.scaling import scale_by_norm_mean

Tx = optax.GradientTransformation


def lamb(rate: optax.Schedule, decay: Tx, *, b1: float, b2: float, eps: float) -> Tx:
    """The trust ratio sees the decay."""
    return optax.chain(
        optax.scale_by_adam(b1=b1, b2=b2, eps=eps),
        decay,
        optax.scale_by_trust_ratio(),
        optax.scale_by_learning_rate(rate),
    )


def lars(
    rate: optax.Schedule,
    decay: Tx,
    *,
    momentum: float,
    nesterov: bool,
    trust: float,
) -> Tx:
    """The trust ratio sees the decay; vectors and scalars have none."""

    def matrices(tree: Any) -> Any:
        return jax.tree.map(lambda leaf: leaf.ndim >= 2, tree)

    return optax.chain(
        decay,
        optax.masked(optax.scale_by_trust_ratio(trust_coefficient=trust), matrices),
        optax.scale_by_learning_rate(rate),
        optax.trace(momentum, nesterov),
    )


def novograd(
    rate: optax.Schedule, decay: Tx, *, b1: float, b2: float, eps: float
) -> Tx:
    """The decay is part of the momentum, behind the division by the norm."""
    return optax.chain(
        scale_by_norm_mean(b2, eps),
        decay,
        optax.trace(b1),
        optax.scale_by_learning_rate(rate),
    )


def madgrad(rate: optax.Schedule, decay: Tx, *, momentum: float, eps: float) -> Tx:
    """A step at a rate of 0 changes nothing, as in the authors' code."""

    # optax adds eps to every rate.
    def summed_rate(count):
        now = rate(count)
        return jnp.where(now == 0, -eps, now)

    inner = optax.contrib.scale_by_madgrad(summed_rate, momentum, eps)

    def update(updates, state, params=None):
        still = rate(state.count) == 0
        steps, state = inner.update(updates, state, params)
        return jax.tree.map(lambda u: jnp.where(still, 0, u), steps), state

    return optax.chain(decay, optax.GradientTransformation(inner.init, update))


def prodigy(
    rate: optax.Schedule,
    decay: Tx,
    *,
    b1: float,
    b2: float,
    eps: float,
    d0: float,
    d_factor: float,
    safeguard_warmup: bool,
) -> Tx:
    tx = optax.contrib.prodigy(
        rate,
        (b1, b2),
        eps=eps,
        estim_lr0=d0,
        estim_lr_coef=d_factor,
        safeguard_warmup=safeguard_warmup,
    )
    return _estimated(tx, rate, decay, b1, b2)


def dadapt_adamw(
    rate: optax.Schedule, decay: Tx, *, b1: float, b2: float, eps: float, d0: float
) -> Tx:
    tx = optax.contrib.dadapt_adamw(rate, (b1, b2), eps=eps, estim_lr0=d0)
    return _estimated(tx, rate, decay, b1, b2)


def _estimated(tx: Tx, rate: optax.Schedule, decay: Tx, b1: float, b2: float) -> Tx:
    """With weight decay at the estimated rate; optax's own has no exclusions.

    An estimate that is 0 / 0, as long as all gradients or rates were 0, is left out.
    """

    def update(updates, state: Any, params=None):
        new: Any
        steps, new = tx.update(updates, state, params)
        known = jnp.isfinite(new.estim_lr)
        # A gradient that is not finite must still be seen as such.
        silent = optax.global_norm(updates) * rate(state.count) == 0
        new = new._replace(estim_lr=jnp.where(known, new.estim_lr, state.estim_lr))
        steps = jax.tree.map(lambda u: jnp.where(~known & silent, 0, u), steps)
        count = state.count + 1
        corrected = jnp.sqrt(1 - b2**count) / (1 - b1**count)
        step_rate = state.estim_lr * rate(state.count) * corrected
        pull = pull_of(decay, params)
        steps = jax.tree.map(lambda u, p: u - step_rate * p, steps, pull)
        return steps, new

    return optax.GradientTransformation(tx.init, update)


def sophia(
    rate: optax.Schedule,
    decay: Tx,
    *,
    b1: float,
    b2: float,
    eps: float,
    gamma: float,
    clip: float,
    every: int,
) -> Tx:
    """Hutchinson's estimate of the Hessian's diagonal, of the step's own batch."""
    return optax.chain(
        # A rate of -1 is none: the sign is turned.
        optax.contrib.sophia(
            -1.0,
            b1=b1,
            b2=b2,
            eps=eps,
            weight_decay=0.0,
            gamma=gamma,
            clip_threshold=clip,
            update_interval=every,
            hessian_diagonal_fn=_hutchinson(),
        ),
        decay,
        optax.scale_by_learning_rate(rate),
    )


def _hutchinson() -> optax.GradientTransformationExtraArgs:
    """signs * (Hessian @ signs), from `gradient_at`: parameters -> gradient."""

    def init(params):
        del params
        return optax.contrib.HutchinsonState(key=jax.random.PRNGKey(0))

    def update(updates, state: Any, params: Any = None, **more: Any):
        del updates
        key, used = jax.random.split(state.key)
        signs = optax.tree.random_like(
            used, params, jax.random.rademacher, dtype=jnp.float32
        )
        _, product = jax.jvp(more["gradient_at"], (params,), (signs,))
        diagonal = jax.tree.map(lambda h, s: h * s, product, signs)
        return diagonal, optax.contrib.HutchinsonState(key=key)

    return optax.GradientTransformationExtraArgs(init, update)
