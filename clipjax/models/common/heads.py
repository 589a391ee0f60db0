"""Heads on top of the towers: into the shared space, and on top of embeddings."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from clipjax.models.common import layers

PROJECTIONS = ("linear", "affine", "mlp", "slim_mlp", "none")


def projection(kind: str, embed_dim: int, name: str) -> nn.Module | None:
    """The layer from a tower's width to the shared embedding.

    kind: "linear" (no bias), "affine" (with bias), "mlp" (a hidden layer of twice the
    embedding with GELU and biases, then a linear one), "slim_mlp" (a hidden layer
    midway between both widths with GELU, no biases; open_clip's for Hugging Face's text
    towers); None for "none".
    """
    if kind == "mlp":
        return MlpProjection(embed_dim, name=name)
    if kind == "slim_mlp":
        return SlimMlpProjection(embed_dim, name=name)
    if kind == "none":
        return None
    return layers.Dense(embed_dim, None, kind == "affine", name=name)


def unit_norm(x: Float[Array, "*b e"]) -> Float[Array, "*b e"]:
    """Vectors scaled to norm 1; zeros stay zeros."""
    squares = jnp.square(x).sum(axis=-1, keepdims=True)
    # The floor keeps the gradient finite at features of zero.
    return x * jax.lax.rsqrt(jnp.maximum(squares, 1e-24))


class MlpProjection(nn.Module):
    """See `projection`; arXiv 2002.05709's head without its batch normalisation."""

    embed_dim: int

    @nn.compact
    def __call__(self, x: Float[Array, "b d"]) -> Float[Array, "b {self.embed_dim}"]:
        x = layers.Dense(2 * self.embed_dim, None, name="fc1")(x)
        x = layers.ACTIVATIONS["gelu"](x)
        return layers.Dense(self.embed_dim, None, False, name="fc2")(x)


class SlimMlpProjection(nn.Module):
    """See `projection`."""

    embed_dim: int

    @nn.compact
    def __call__(self, x: Float[Array, "b d"]) -> Float[Array, "b {self.embed_dim}"]:
        hidden = (x.shape[-1] + self.embed_dim) // 2
        x = layers.Dense(hidden, None, False, name="fc1")(x)
        x = layers.ACTIVATIONS["gelu"](x)
        return layers.Dense(self.embed_dim, None, False, name="fc2")(x)


class Expander(nn.Module):
    """The MLP that VICReg's loss looks at (arXiv 2105.04906, section 4.2).

    widths: of its layers. Between them a layer normalisation, where the paper has a
    batch normalisation, and a ReLU; the last layer is linear without bias.
    """

    widths: tuple[int, ...]
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "b e"]) -> Float[Array, "b {self.widths[-1]}"]:
        for i, width in enumerate(self.widths):
            last = i == len(self.widths) - 1
            std = x.shape[-1] ** -0.5 * (1 if last else 2**0.5)
            x = layers.Dense(width, std, not last, self.dtype, name=f"layer_{i}")(x)
            if not last:
                norm = layers.LayerNorm(dtype=self.dtype, name=f"norm_{i}")
                x = nn.relu(norm(x))
        return x
