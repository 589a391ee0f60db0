"""Residual network tower (arXiv 1512.03385) in torchvision's layout ("v1.5").

    load("image", "resnet")(224, variant="50")

Dimensions in shape comments: b batch, n positions of the last feature map, d width.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from clipjax import option_checks
from clipjax.models.common.convolution import (
    BatchNorm,
    Bottleneck,
    Conv,
    Stage,
    check_sizes,
    max_pool,
)
from clipjax.types import Outputs


class Basic(nn.Module):
    """Two 3 x 3 convolutions and a shortcut; the first has the stride.

    conv, norm, zero_last: as in Bottleneck.
    """

    features: int
    stride: int
    conv: Callable[..., Conv]
    norm: Callable[..., BatchNorm]
    zero_last: bool

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], train: bool
    ) -> Float[Array, "b h2 w2 {self.features}"]:
        y = self.conv(self.features, 3, self.stride, name="conv_1")(x)
        y = nn.relu(self.norm(name="norm_1")(y, train))
        y = self.conv(self.features, 3, name="conv_2")(y)
        y = self.norm(zero_scale=self.zero_last, name="norm_2")(y, train)
        if self.stride > 1 or x.shape[-1] != self.features:
            x = self.conv(self.features, 1, self.stride, name="shortcut_conv")(x)
            x = self.norm(name="shortcut_norm")(x, train)
        return nn.relu(x + y)


# Variant -> (block, blocks of each stage).
VARIANTS = {
    "18": (Basic, (2, 2, 2, 2)),
    "34": (Basic, (3, 4, 6, 3)),
    "50": (Bottleneck, (3, 4, 6, 3)),
    "101": (Bottleneck, (3, 4, 23, 3)),
    "152": (Bottleneck, (3, 8, 36, 3)),
}


def make(
    image_size: int,
    *,
    variant: str = "50",
    width: int = 64,
    depths: tuple[int, ...] = (),
    zero_init_last: bool = True,
    bn_momentum: float = 0.9,
    bn_epsilon: float = 1e-5,
    remat: bool = False,
) -> ResNet:
    """A residual network with global average pooling.

    Args:
      image_size: height and width in pixels; any.
      variant: "18" or "34" (basic blocks), "50", "101" or "152" (bottlenecks).
      width: of the stem; the last stage is 8 times as wide, 32 times with bottlenecks.
      depths: blocks of each of the four stages; () takes the variant's.
      zero_init_last: the last normalisation of a block starts at zero, so that a fresh
        block passes its input on (arXiv 1706.02677, section 5.1).
      bn_momentum, bn_epsilon: see convolution.BatchNorm.
      remat: keep only the input of each block for the backward pass and compute the
        rest again: about a third more work for far less memory.

    Raises:
      UserError: for an unknown variant or a value that cannot be used.
    """
    option_checks.one_of("model.image.variant", variant, VARIANTS)
    depths = tuple(depths) or VARIANTS[variant][1]
    check_sizes(image_size, width, depths)
    option_checks.in_range("model.image.bn_momentum", bn_momentum)
    option_checks.above_zero("model.image.bn_epsilon", bn_epsilon)
    return ResNet(
        image_size=image_size,
        variant=variant,
        width=width,
        depths=depths,
        zero_init_last=zero_init_last,
        bn_momentum=bn_momentum,
        bn_epsilon=bn_epsilon,
        remat=remat,
    )


class ResNet(nn.Module):
    """See `make`. Kernels start normal, with He's variance by fan-out."""

    FREE = frozenset({"image_size", "zero_init_last", "bn_momentum", "remat"})

    image_size: int
    variant: str
    width: int
    depths: tuple[int, ...]
    zero_init_last: bool
    bn_momentum: float
    bn_epsilon: float
    remat: bool
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(self, image: Float[Array, "b h w 3"], train: bool) -> Outputs:
        """Encodes normalised images.

        Returns "pooled" [b d], the mean of "tokens" [b n d], which are the positions of
        the last feature map row by row.
        """
        conv = functools.partial(Conv, dtype=self.dtype)
        norm = functools.partial(
            BatchNorm, self.bn_momentum, self.bn_epsilon, dtype=self.dtype
        )
        block = VARIANTS[self.variant][0]
        x = Stem(self.width, conv, norm, name="stem")(image, train)
        for index, depth in enumerate(self.depths):
            options = {
                "features": self.width * 2**index,
                "conv": conv,
                "norm": norm,
                "zero_last": self.zero_init_last,
            }
            stride = 1 if index == 0 else 2
            stage = Stage(
                block, depth, stride, options, self.remat, name=f"stage_{index}"
            )
            x = stage(x, train)
        tokens = x.reshape(x.shape[0], -1, x.shape[-1])
        return {"pooled": tokens.mean(axis=1), "tokens": tokens}


class Stem(nn.Module):
    """A 7 x 7 convolution and a maximum, each of which halves the image."""

    features: int
    conv: Callable[..., Conv]
    norm: Callable[..., BatchNorm]

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], train: bool
    ) -> Float[Array, "b h2 w2 {self.features}"]:
        x = self.conv(self.features, 7, 2, name="conv_1")(x)
        return max_pool(nn.relu(self.norm(name="norm_1")(x, train)))
