"""Pools over all tokens of an image by a learned query.

Dimensions in shape comments: b batch, n tokens, d width of the tokens, w of the query.
"""

from __future__ import annotations

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from clipjax.models.common import layers


class AttentionPool(nn.Module):
    """Pools by a learned query, then an MLP (arXiv 2106.04560)."""

    heads: int
    hidden: int
    activation: str = "gelu"
    epsilon: float = 1e-5
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b d"]:
        d = x.shape[-1]
        probe = self.param("probe", nn.initializers.normal(d**-0.5), (1, d))
        x = _look(probe, x, self.heads, self.dtype)
        y = layers.LayerNorm(self.epsilon, self.dtype, name="norm")(x)
        mlp = layers.Mlp(self.hidden, 1, self.activation, dtype=self.dtype, name="mlp")
        return x + mlp(y, False)


class QueryPool(nn.Module):
    """Pools by a normalised learned query of a width of its own.

    The contrastive one of the queries in open_clip's CoCa (arXiv 2205.01917): queries
    do not see each other. The tokens come normalised.
    """

    width: int
    heads: int
    epsilon: float = 1e-5
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b {self.width}"]:
        # Its size has no effect, as it is normalised.
        probe = self.param("probe", nn.initializers.normal(1.0), (1, self.width))
        probe = layers.LayerNorm(self.epsilon, self.dtype, name="probe_norm")(probe)
        x = _look(probe, x, self.heads, self.dtype)
        return layers.LayerNorm(self.epsilon, self.dtype, name="norm")(x)


def _look(
    probe: Float[Array, "1 w"],
    x: Float[Array, "b n d"],
    heads: int,
    dtype: DTypeLike | None,
) -> Float[Array, "b w"]:
    """Multi-head attention from the probe to the tokens.

    Its layers belong to the module that calls it.
    """
    b, n, _ = x.shape
    w = probe.shape[-1]
    probe = jnp.broadcast_to(probe[None], (b, 1, w))
    query = layers.Dense(w, None, dtype=dtype, name="query")(probe)
    both = layers.Dense(2 * w, None, dtype=dtype, name="key_value")(x)
    key, value = jnp.split(both, 2, axis=-1)
    mixed = layers.attention(
        query.reshape(b, 1, heads, -1),
        key.reshape(b, n, heads, -1),
        value.reshape(b, n, heads, -1),
    )
    out = layers.Dense(w, None, dtype=dtype, name="out")
    return out(mixed.reshape(b, w))
