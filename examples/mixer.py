"""An image tower: MLP-Mixer (arXiv 2105.01601), MLPs over patches and over channels."""

from typing import Any

import jax
from flax import linen as nn

from clipjax import option_checks
from clipjax.models.common import layers
from clipjax.types import UserError


def make(
    image_size: int, *, patch: int = 8, width: int = 64, depth: int = 2
) -> "Mixer":
    """An MLP-Mixer.

    Args:
      patch: a patch's side in pixels; must divide the image size.
      width: channels per patch.
      depth: number of blocks.
    """
    for name, value in (("patch", patch), ("width", width), ("depth", depth)):
        option_checks.at_least_one(f"image.{name}", value)
    if image_size % patch:
        raise UserError(f"image.patch={patch}: must divide image_size={image_size}")
    return Mixer(image_size, patch, width, depth)


class Mixer(nn.Module):
    image_size: int
    patch: int
    width: int
    depth: int
    dtype: Any = None

    @nn.compact
    def __call__(self, image: jax.Array, train: bool) -> dict[str, jax.Array]:
        x = layers.patches(image, self.patch)
        std = x.shape[-1] ** -0.5
        x = layers.Dense(self.width, std, dtype=self.dtype, name="patch_embedding")(x)
        for number in range(self.depth):
            x = Block(self.depth, self.dtype, name=f"block_{number}")(x, train)
        x = layers.LayerNorm(dtype=self.dtype, name="post_norm")(x)
        return {"pooled": x.mean(axis=1), "tokens": x}


class Block(nn.Module):
    depth: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        for name, turn in (("patches", True), ("channels", False)):
            y = layers.LayerNorm(dtype=self.dtype, name=f"norm_{name}")(x)
            y = y.swapaxes(1, 2) if turn else y
            size = 4 * y.shape[-1]
            y = layers.Mlp(size, self.depth, dtype=self.dtype, name=name)(y, train)
            x = x + (y.swapaxes(1, 2) if turn else y)
        return x
