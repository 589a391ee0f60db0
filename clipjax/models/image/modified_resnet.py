"""OpenAI CLIP's residual network tower (arXiv 2103.00020, section 2.4).

    load("image", "modified_resnet")(224, variant="RN50")

It differs from image/resnet.py in three convolutions and an average in the stem,
averages in place of strides, and attention pooling, whose output projection maps into
the joint embedding.

Dimensions in shape comments: b batch, n positions of the last feature map, d its width.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from clipjax import option_checks
from clipjax.models.common import layers
from clipjax.models.common.convolution import (
    BatchNorm,
    Bottleneck,
    Conv,
    Stage,
    average_pool,
    check_sizes,
)
from clipjax.types import Outputs, UserError

# Variant -> (width, blocks of each stage, output width); heads are 64 wide. Published
# at 224 pixels, RN50x4 at 288, RN50x16 at 384, RN50x64 at 448.
VARIANTS = {
    "RN50": (64, (3, 4, 6, 3), 1024),
    "RN101": (64, (3, 4, 23, 3), 512),
    "RN50x4": (80, (4, 6, 10, 6), 640),
    "RN50x16": (96, (6, 8, 18, 8), 768),
    "RN50x64": (128, (3, 15, 36, 10), 1024),
}
SHRINKS = 32  # pixels of the image per position of the last feature map


def make(
    image_size: int,
    *,
    variant: str = "RN50",
    width: int | None = None,
    depths: tuple[int, ...] = (),
    heads: int | None = None,
    output_dim: int | None = None,
    remat: bool = False,
) -> ModifiedResNet:
    """A residual network as OpenAI CLIP has it.

    Args:
      image_size: height and width in pixels, a multiple of 32.
      variant: "RN50", "RN101", "RN50x4", "RN50x16" or "RN50x64".
      width: of the stem, even; the last stage is 32 times as wide. None takes the
        variant's.
      depths: blocks of each of the four stages; () takes the variant's.
      heads: of the attention pooling; None for heads 64 wide.
      output_dim: width of "pooled"; None takes the variant's.
      remat: keep only the input of each block for the backward pass and compute the
        rest again: about a third more work for far less memory.

    Raises:
      UserError: for an unknown variant or sizes that do not fit.
    """
    option_checks.one_of("model.image.variant", variant, VARIANTS)
    if image_size % SHRINKS or image_size < SHRINKS:
        near = max(SHRINKS, image_size // SHRINKS * SHRINKS)
        raise UserError(
            f"data.image_size={image_size}: must be a multiple of {SHRINKS} for "
            f"image=modified_resnet, such as {near}"
        )
    its_width, its_depths, its_output = VARIANTS[variant]
    width = its_width if width is None else width
    depths = tuple(depths) or its_depths
    output_dim = its_output if output_dim is None else output_dim
    check_sizes(image_size, width, depths)
    if width % 2:
        raise UserError(f"model.image.width={width}: must be even, like {width + 1}")
    d = SHRINKS * width
    heads = d // 64 if heads is None else heads
    if heads < 1 or d % heads:
        raise UserError(
            f"model.image.heads={heads}: must divide {d}, the width of the last stage "
            f"({SHRINKS} * model.image.width), like {d // 64}"
        )
    if output_dim < 1:
        raise UserError(f"model.image.output_dim={output_dim}: must be at least 1")
    return ModifiedResNet(
        image_size=image_size,
        width=width,
        depths=depths,
        heads=heads,
        output_dim=output_dim,
        remat=remat,
    )


class ModifiedResNet(nn.Module):
    """See `make`. Initial values: OpenAI CLIP's, with zero biases if it leaves
    PyTorch's default.
    """

    FREE = frozenset({"image_size", "remat"})

    image_size: int
    width: int
    depths: tuple[int, ...]
    heads: int
    output_dim: int
    remat: bool
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(
        self,
        image: Float[Array, "b {self.image_size} {self.image_size} 3"],
        train: bool,
    ) -> Outputs:
        """Encodes normalised images.

        Returns "pooled" [b output_dim], which is the embedding itself before
        normalisation, and "tokens" [b n d], the positions of the last feature map row
        by row, before the attention pooling.
        """
        # PyTorch's default: uniform of variance 1 / (3 fan_in).
        start = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
        conv = functools.partial(Conv, kernel_init=start, dtype=self.dtype)
        norm = functools.partial(BatchNorm, dtype=self.dtype)
        x = Stem(self.width, conv, norm, name="stem")(image, train)
        for index, depth in enumerate(self.depths):
            options = {
                "features": self.width * 2**index,
                "conv": conv,
                "norm": norm,
                "zero_last": True,
                "antialias": True,
            }
            stride = 1 if index == 0 else 2
            stage = Stage(
                Bottleneck, depth, stride, options, self.remat, name=f"stage_{index}"
            )
            x = stage(x, train)
        tokens = x.reshape(x.shape[0], -1, x.shape[-1])
        pool = MeanQueryPool(self.heads, self.output_dim, self.dtype, name="pool")
        return {"pooled": pool(tokens), "tokens": tokens}


class Stem(nn.Module):
    """Three 3 x 3 convolutions, the first at a stride of 2, and an average of 2 x 2."""

    features: int
    conv: Callable[..., Conv]
    norm: Callable[..., BatchNorm]

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], train: bool
    ) -> Float[Array, "b h2 w2 {self.features}"]:
        half = self.features // 2
        for index, (width, stride) in enumerate(
            ((half, 2), (half, 1), (self.features, 1)), start=1
        ):
            x = self.conv(width, 3, stride, name=f"conv_{index}")(x)
            x = nn.relu(self.norm(name=f"norm_{index}")(x, train))
        return average_pool(x, 2)


class MeanQueryPool(nn.Module):
    """Multi-head attention from the mean of all positions to it and to them."""

    heads: int
    features: int
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b {self.features}"]:
        b, n, d = x.shape
        std = d**-0.5
        positions = self.param(
            "positions", nn.initializers.normal(std), (n + 1, d)
        ).astype(x.dtype)
        x = jnp.concatenate([x.mean(axis=1, keepdims=True), x], axis=1)
        x = x + positions[None]

        def part(name: str, x: Float[Array, "b m d"]) -> Float[Array, "b m h e"]:
            x = layers.Dense(d, std, dtype=self.dtype, name=name)(x)
            return x.reshape(b, -1, self.heads, d // self.heads)

        mixed = layers.attention(
            part("query", x[:, :1]), part("key", x), part("value", x)
        )
        out = layers.Dense(self.features, std, dtype=self.dtype, name="out")
        return out(mixed.reshape(b, d))
