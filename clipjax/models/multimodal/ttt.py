"""TTT-Linear: a sequence layer whose state is a linear model, trained as it reads.

Learning to (Learn at Test Time), arXiv 2407.04620. Each head has a linear model f(x) =
x W + b that starts at learned values and takes one gradient step a token on the loss
|LN(f(k)) - (v - k)|^2 / 2, where k, v and q are linear views of the token; the output
is q + LN(f(q)) after the step. The gradients of a mini-batch of tokens are all taken at
the W and b before it, so that no token's own W is ever formed (the paper's dual form,
section 2.5). The authors' rotary positions are left out, because a tower's tokens have
positions already.

Dimensions in shape comments: b batch, n tokens, d width, h heads, c tokens of a
mini-batch, e width of a head.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from clipjax.models.common import layers


class Inner(NamedTuple):
    """The linear model and the layer normalisation around it."""

    weight: Float[Array, "h e e"]
    bias: Float[Array, "h e"]
    scale: Float[Array, "h e"]
    shift: Float[Array, "h e"]


class TttLinear(nn.Module):
    """See the module.

    base_rate: of the inner learning rate, base_rate / e * sigmoid(x w + u) * (1 / i + a
    learned number), i the token's place in its mini-batch, from 1.
    """

    heads: int
    mini_batch: int = 16
    base_rate: float = 1.0
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "b n d"], mask: Bool[Array, "b n"] | None
    ) -> Float[Array, "b n d"]:
        """[b n d] to the same; tokens outside the mask bool [b n] teach nothing."""
        b, n, d = x.shape
        e = d // self.heads
        start = nn.initializers.normal(0.02)
        views = layers.Dense(3 * d, 0.02, False, self.dtype, name="views")(x)
        rate = layers.Dense(self.heads, 0.02, dtype=self.dtype, name="rate")(x)
        learned = self.param("place", nn.initializers.zeros, (self.mini_batch,))
        model = Inner(
            self.param("weight", start, (self.heads, e, e)),
            self.param("bias", nn.initializers.zeros, (self.heads, e)),
            self.param("inner_scale", nn.initializers.ones, (self.heads, e)),
            self.param("inner_shift", nn.initializers.zeros, (self.heads, e)),
        )
        accurate = jnp.promote_types(views.dtype, jnp.float32)
        rate = jax.nn.sigmoid(rate.astype(accurate)) * (self.base_rate / e)
        if mask is not None:
            rate = jnp.where(mask[:, :, None], rate, 0)
        place = 1 / jnp.arange(1, self.mini_batch + 1, dtype=accurate) + learned
        place = jnp.maximum(place, 0)
        query, key, value = jnp.split(views.astype(accurate), 3, axis=-1)
        # Tokens are added to fill the last mini-batch; at a rate of 0 they do nothing.
        parts = jax.tree.map(
            lambda one: _mini_batches(one, self.mini_batch, self.heads),
            (query, key, value, rate),
        )
        out = dual(model, place, *parts).reshape(b, -1, d)[:, :n]
        out = layers.LayerNorm(dtype=self.dtype, name="norm")(out)
        return layers.Dense(d, None, False, self.dtype, name="out")(out)


def _mini_batches(
    x: Float[Array, "b n he"], size: int, heads: int
) -> Float[Array, "m b {heads} {size} he//{heads}"]:
    """The tokens in mini-batches, filled up with zeros."""
    b, n, _ = x.shape
    x = jnp.pad(x, ((0, 0), (0, -n % size), (0, 0)))
    return x.reshape(b, -1, size, heads, x.shape[-1] // heads).transpose(1, 0, 3, 2, 4)


def dual(
    model: Inner,
    place: Float[Array, " c"],
    query: Float[Array, "m b h c e"],
    key: Float[Array, "m b h c e"],
    value: Float[Array, "m b h c e"],
    rate: Float[Array, "m b h c 1"],
) -> Float[Array, "b m c h e"]:
    """The outputs of m mini-batches.

    Args:
      model: before the first token.
      place: the rate's factor by the position of the token that reads.
      rate: the inner learning rate per token that is learned from.
    """

    def step(state, mini_batch):
        weight, bias = state
        q, k, v, r = mini_batch
        before = jnp.einsum("bhce,bhef->bhcf", k, weight) + bias[:, :, None]
        guess, back = jax.vjp(lambda z: _normalise(z, model), before)
        (gradient,) = back(guess - (v - k))
        # Token c has learned from every s up to c.
        eta = jnp.tril(place[None, None, :, None] * r.swapaxes(2, 3))
        near = jnp.einsum("bhce,bhse->bhcs", q, k) * eta
        after = jnp.einsum("bhce,bhef->bhcf", q, weight) + bias[:, :, None]
        after = after - jnp.einsum("bhcs,bhse->bhce", near + eta, gradient)
        last = eta[:, :, -1, :, None] * gradient
        weight = weight - jnp.einsum("bhce,bhcf->bhef", k, last)
        return (weight, bias - last.sum(axis=2)), q + _normalise(after, model)

    b = query.shape[1]
    state = tuple(
        jnp.broadcast_to(part[None], (b, *part.shape)).astype(query.dtype)
        for part in (model.weight, model.bias)
    )
    _, out = jax.lax.scan(step, state, (query, key, value, rate))
    return out.transpose(1, 0, 3, 2, 4)


def _normalise(
    x: Float[Array, "b h c e"], model: Inner, epsilon: float = 1e-6
) -> Float[Array, "b h c e"]:
    """Over the last axis, with each head's scale and shift."""
    x = x - x.mean(axis=-1, keepdims=True)
    x = x * jax.lax.rsqrt(jnp.square(x).mean(axis=-1, keepdims=True) + epsilon)
    return x * model.scale[None, :, None] + model.shift[None, :, None]
