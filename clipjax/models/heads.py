"""Heads on top of the towers' embeddings."""

from __future__ import annotations

from typing import Any

import jax
from flax import linen as nn

from clipjax.models import layers


class Expander(nn.Module):
    """The MLP that VICReg's loss looks at (arXiv 2105.04906, section 4.2).

    widths: of its layers. Between them a layer normalisation, where the paper has a
    batch normalisation, and a ReLU; the last layer is linear without bias.
    """

    widths: tuple[int, ...]
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[b e] to [b widths[-1]]."""
        for i, width in enumerate(self.widths):
            last = i == len(self.widths) - 1
            std = x.shape[-1] ** -0.5 * (1 if last else 2**0.5)
            x = layers.Dense(width, std, not last, self.dtype, name=f"layer_{i}")(x)
            if not last:
                norm = layers.LayerNorm(dtype=self.dtype, name=f"norm_{i}")
                x = nn.relu(norm(x))
        return x
