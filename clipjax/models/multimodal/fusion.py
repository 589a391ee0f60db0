"""From the vectors of several modalities to one, and back.

Dimensions in shape comments: b batch, d width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from clipjax.models.common import layers
from clipjax.models.multimodal.memory import Hidden
from clipjax.types import Batch

MODALITIES = ("text", "image", "audio")


class Fusion(nn.Module):
    """The modalities that an example has, fused to one vector.

    To each modality's vector, zeros if it is absent, its learned type is added; the
    three and three bits go through an MLP.
    """

    width: int
    dropout: float

    @nn.compact
    def __call__(
        self,
        read: Mapping[str, Float[Array, "b {self.width}"]],
        sets: Sequence[Mapping[str, Bool[Array, " b"]]],
        train: bool,
    ) -> Float[Array, "rows {self.width}"]:
        """Fuses several sets of modalities of each example.

        read: a vector of each modality. sets: of each set the modalities in it, true if
        an example has them. Returns b * sets rows, an example's together.
        """
        types = self.param("types", nn.initializers.normal(0.02), (3, self.width))
        absent = jnp.zeros_like(next(iter(read.values())))
        rows = []
        for present in sets:
            vectors, bits = [], []
            for i, name in enumerate(MODALITIES):
                vector, bit = absent, absent[:, :1]
                if name in present:
                    vector = jnp.where(present[name][:, None], read[name], 0)
                    bit = present[name][:, None].astype(absent.dtype)
                vectors.append(vector + types[None, i])
                bits.append(bit)
            rows.append(jnp.concatenate([*vectors, *bits], axis=1))
        x = jnp.stack(rows, axis=1).reshape(-1, rows[0].shape[1])
        x = Hidden(2 * self.width, self.dropout, name="hidden")(x, train)
        x = layers.Dense(self.width, None, name="out")(x)
        return layers.LayerNorm(name="norm")(x)


class Decoder(nn.Module):
    """From a latent vector to a modality's encoding: an MLP of three layers."""

    dropout: float

    @nn.compact
    def __call__(self, latent: Float[Array, "b d"], train: bool) -> Float[Array, "b d"]:
        d = latent.shape[-1]
        x = Hidden(d, self.dropout, name="hidden_1")(latent, train)
        x = Hidden(d, self.dropout, name="hidden_2")(x, train)
        return layers.Dense(d, None, name="out")(x)


def rows_with(batch: Batch, name: str, count: int) -> Bool[Array, " {count}"]:
    """Rows that have the modality; all if the batch has no such key."""
    here = batch.get(f"{name}_present")
    return jnp.ones(count, bool) if here is None else jnp.asarray(here, bool)


def drop_one(
    present: Mapping[str, Bool[Array, " b"]], rate: float, key: PRNGKeyArray
) -> dict[str, Bool[Array, " b"]]:
    """Takes one modality from an example at that rate, never its last."""
    rows = jnp.stack(list(present.values()))
    drops, choice = jax.random.split(key)
    lose = jax.random.bernoulli(drops, rate, rows.shape[1:])
    # The present modality with the largest random number is dropped.
    noise = jnp.where(rows, jax.random.uniform(choice, rows.shape), -1)
    lost = jnp.arange(len(rows))[:, None] == noise.argmax(axis=0)[None]
    remaining = rows & ~(lost & (lose & (rows.sum(axis=0) > 1))[None])
    return dict(zip(present, remaining, strict=True))
