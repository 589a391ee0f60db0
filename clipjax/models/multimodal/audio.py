"""Audio tower: four convolutions over a spectrogram, as a small image of one channel.

After github.com/intrinsicD/DeepLearning2. Dimensions in shape comments: b batch, f
frequencies, t times, d width.
"""

from __future__ import annotations

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from clipjax.models.common import layers
from clipjax.models.common.convolution import BatchNorm, Conv

CHANNELS = (64, 128, 256, 512)
SHAPE = (64, 64)  # of the spectrogram that initialises a model; any size works


class AudioEncoder(nn.Module):
    """Convolutions of 3 x 3 at a stride of 2, each with batch normalisation, ReLU and
    dropout of whole channels; the mean over all positions; a dense layer and a layer
    normalisation.
    """

    width: int
    dropout: float = 0.0
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(
        self, audio: Float[Array, "b f t"], train: bool
    ) -> Float[Array, "b {self.width}"]:
        """Encodes spectrograms."""
        x = audio[..., None]
        for i, channels in enumerate(CHANNELS, start=1):
            conv = Conv(
                channels, 3, 2, use_bias=True, dtype=self.dtype, name=f"conv_{i}"
            )
            x = BatchNorm(dtype=self.dtype, name=f"norm_{i}")(conv(x), train)
            drop = nn.Dropout(self.dropout, (1, 2), deterministic=not train)
            x = drop(nn.relu(x))
        x = x.astype(jnp.promote_types(x.dtype, jnp.float32)).mean(axis=(1, 2))
        x = layers.Dense(self.width, None, name="projection")(x)
        return layers.LayerNorm(name="norm")(x)
