"""Steps of optimizers that optax has not, or not in the form that others train with."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
import optax.contrib


class NadamState(NamedTuple):
    """product: of the momenta of all steps."""

    count: jax.Array
    mu: Any
    nu: Any
    product: jax.Array


def scale_by_nadam(
    b1: float, b2: float, eps: float, momentum_decay: float
) -> optax.GradientTransformation:
    """NAdam with Dozat's rising momentum, b1 (1 - 0.5 0.96^(t momentum_decay)), as
    torch.optim.NAdam; optax's has a constant one."""

    def init(params):
        zeros = optax.tree.zeros_like(params)
        return NadamState(
            jnp.zeros((), jnp.int32),
            zeros,
            optax.tree.zeros_like(params),
            jnp.ones((), jnp.float32),
        )

    def momentum(count):
        return b1 * (1 - 0.5 * 0.96 ** (count * momentum_decay))

    def update(updates, state, params=None):
        del params
        count = state.count + 1
        mu = optax.tree.update_moment(updates, state.mu, b1, 1)
        nu = optax.tree.update_moment_per_elem_norm(updates, state.nu, b2, 2)
        now, after = momentum(count), momentum(count + 1)
        product = state.product * now
        of_gradient = (1 - now) / (1 - product)
        of_mean = after / (1 - product * after)
        roots = optax.tree.bias_correction(nu, b2, count)
        steps = jax.tree.map(
            lambda g, m, v: (of_gradient * g + of_mean * m) / (jnp.sqrt(v) + eps),
            updates,
            mu,
            roots,
        )
        return steps, NadamState(count, mu, nu, product)

    return optax.GradientTransformation(init, update)


class AmsgradState(NamedTuple):
    count: jax.Array
    mu: Any
    nu: Any
    largest: Any


def scale_by_amsgrad(b1: float, b2: float, eps: float) -> optax.GradientTransformation:
    """AMSGrad as torch.optim.Adam(amsgrad=True): the largest mean of squares so far is
    corrected for its bias; optax takes the largest of the corrected ones."""

    def init(params):
        return AmsgradState(
            jnp.zeros((), jnp.int32),
            *(optax.tree.zeros_like(params) for _ in range(3)),
        )

    def update(updates, state, params=None):
        del params
        count = state.count + 1
        mu = optax.tree.update_moment(updates, state.mu, b1, 1)
        nu = optax.tree.update_moment_per_elem_norm(updates, state.nu, b2, 2)
        largest = jax.tree.map(jnp.maximum, state.largest, nu)
        steps = jax.tree.map(
            lambda m, v: m / (jnp.sqrt(v) + eps),
            optax.tree.bias_correction(mu, b1, count),
            optax.tree.bias_correction(largest, b2, count),
        )
        return steps, AmsgradState(count, mu, nu, largest)

    return optax.GradientTransformation(init, update)


def scale_by_rmsprop(
    b2: float, eps: float, momentum: float, nesterov: bool, centered: bool
) -> optax.GradientTransformation:
    """RMSprop as torch.optim.RMSprop: the rate multiplies the sum of steps; optax sums
    steps with their rates."""
    root = optax.scale_by_stddev if centered else optax.scale_by_rms
    return optax.chain(
        root(decay=b2, eps=eps, eps_in_sqrt=False),
        optax.trace(momentum, nesterov) if momentum else optax.identity(),
    )


def scale_by_adafactor(
    min_dim: int,
    decay_power: float,
    b2_cap: float,
    clip_rms: float,
    by_parameter: bool,
    momentum: float,
    momentum_bf16: bool,
) -> optax.GradientTransformation:
    """Adafactor's step before rate and decay, in the paper's and big_vision's forms."""

    def decay(count, power):
        step = jnp.asarray(count, jnp.float32) + 1
        return jnp.minimum(b2_cap, 1 - step**-power)

    dtype = jnp.bfloat16 if momentum_bf16 else jnp.float32
    return optax.chain(
        optax.scale_by_factored_rms(
            decay_rate=decay_power,
            min_dim_size_to_factor=min_dim,
            decay_rate_fn=decay,
        ),
        optax.clip_by_block_rms(clip_rms) if clip_rms else optax.identity(),
        optax.scale_by_param_block_rms() if by_parameter else optax.identity(),
        optax.ema(momentum, debias=False, accumulator_dtype=dtype)
        if momentum
        else optax.identity(),
    )


def scale_by_ademamix(
    b1: float, b2: float, b3: float, eps: float, alpha: float, mix_steps: int
) -> optax.GradientTransformation:
    """AdEMAMix; alpha and b3 rise over mix_steps as in the paper's section 3."""

    def rising_alpha(count):
        return alpha * jnp.minimum(count / mix_steps, 1.0)

    def rising_b3(count):
        share = jnp.minimum(count / mix_steps, 1.0)
        start, end = jnp.log(b1), jnp.log(b3)
        decay = jnp.exp(start * end / ((1 - share) * end + share * start))
        return jnp.minimum(decay, b3)

    rises = mix_steps > 0
    return optax.contrib.scale_by_ademamix(
        b1=b1,
        b2=b2,
        b3=rising_b3 if rises else b3,
        alpha=rising_alpha if rises else alpha,
        eps=eps,
    )


class NormMeanState(NamedTuple):
    count: jax.Array
    nu: Any


def scale_by_norm_mean(b2: float, eps: float) -> optax.GradientTransformation:
    """Divides each array by the root of its squared norm's mean, NovoGrad's scale."""

    def init(params):
        zeros = jax.tree.map(lambda p: jnp.zeros((), p.dtype), params)
        return NormMeanState(jnp.zeros((), jnp.int32), zeros)

    def update(updates, state, params=None):
        del params
        # The first step's norm starts the mean.
        keep = jnp.where(state.count == 0, 0.0, b2)
        nu = jax.tree.map(
            lambda g, n: keep * n + (1 - keep) * jnp.sum(g * g), updates, state.nu
        )
        steps = jax.tree.map(lambda g, n: g / (jnp.sqrt(n) + eps), updates, nu)
        return steps, NormMeanState(state.count + 1, nu)

    return optax.GradientTransformation(init, update)


def scale_by_sm3(momentum: float) -> optax.GradientTransformation:
    """SM3 of optax, which has no number for scalars: they count as vectors of one."""
    inner = optax.scale_by_sm3(momentum)

    def vectors(tree):
        return jax.tree.map(lambda x: jnp.atleast_1d(x), tree)

    def update(updates, state, params=None):
        del params
        steps, state = inner.update(vectors(updates), state)
        steps = jax.tree.map(lambda s, g: s.reshape(g.shape), steps, updates)
        return steps, state

    return optax.GradientTransformation(
        lambda params: inner.init(vectors(params)), update
    )
