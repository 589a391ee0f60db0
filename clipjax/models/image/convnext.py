"""ConvNeXt tower (arXiv 2201.03545) in timm's layout, which open_clip's models use.

    load("image", "convnext")(224, variant="base")

Dimensions in shape comments: b batch, h w feature map, n its positions, d width.
"""

from __future__ import annotations

import numpy as np
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from clipjax import option_checks
from clipjax.models.common import layers
from clipjax.models.common.convolution import Conv, check_sizes
from clipjax.types import Outputs, UserError

# Variant -> (width of the first stage, blocks of each stage).
VARIANTS = {
    "tiny": (96, (3, 3, 9, 3)),
    "small": (96, (3, 3, 27, 3)),
    "base": (128, (3, 3, 27, 3)),
    "large": (192, (3, 3, 27, 3)),
    "xlarge": (256, (3, 3, 27, 3)),
    "xxlarge": (384, (3, 4, 30, 3)),
}
SHRINKS = 32  # pixels of the image per position of the last feature map
START = nn.initializers.normal(0.02)


def make(
    image_size: int,
    *,
    variant: str = "base",
    width: int | None = None,
    depths: tuple[int, ...] = (),
    layer_scale: float = 1e-6,
    drop_path: float = 0.0,
    remat: bool = False,
) -> ConvNeXt:
    """A ConvNeXt.

    Args:
      image_size: height and width in pixels, at least 32; of a size that is no multiple
        of 32, rows and columns at the far edges are left out.
      variant: "tiny", "small", "base", "large", "xlarge" or "xxlarge".
      width: of the first stage; the last is 8 times as wide. None takes the variant's.
      depths: blocks of each of the four stages; () takes the variant's.
      layer_scale: initial factor of every block's branch.
      drop_path: rate at which training leaves out the last block's branch, drawn per
        image; it rises evenly from 0 for the first block (stochastic depth, arXiv
        1603.09382).
      remat: keep only the input of each block for the backward pass and compute the
        rest again: about a third more work for far less memory.

    Raises:
      UserError: for an unknown variant or a value that cannot be used.
    """
    option_checks.one_of("model.image.variant", variant, VARIANTS)
    if image_size < SHRINKS:
        raise UserError(
            f"data.image_size={image_size}: must be at least {SHRINKS} for "
            "image=convnext"
        )
    its_width, its_depths = VARIANTS[variant]
    width = its_width if width is None else width
    depths = tuple(depths) or its_depths
    check_sizes(image_size, width, depths)
    option_checks.in_range("model.image.drop_path", drop_path)
    return ConvNeXt(
        image_size=image_size,
        width=width,
        depths=depths,
        layer_scale=layer_scale,
        drop_path=drop_path,
        # What the published weights were trained with.
        epsilon=1e-5 if variant == "xxlarge" else 1e-6,
        remat=remat,
    )


class ConvNeXt(nn.Module):
    """See `make`. Kernels start normal with std 0.02, biases at zero."""

    FREE = frozenset({"image_size", "layer_scale", "drop_path", "remat"})
    OPTIONS = {"epsilon": "variant"}

    image_size: int
    width: int
    depths: tuple[int, ...]
    layer_scale: float
    drop_path: float
    epsilon: float
    remat: bool
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(
        self,
        image: Float[Array, "b {self.image_size} {self.image_size} 3"],
        train: bool,
    ) -> Outputs:
        """Encodes normalised images.

        Returns "tokens" [b n d], the positions of the last feature map row by row, and
        "pooled" [b d], their mean after a layer normalisation.
        """
        rates = np.linspace(0, self.drop_path, sum(self.depths)).tolist()
        x = Stem(self.width, self.epsilon, self.dtype, name="stem")(image)
        for index, depth in enumerate(self.depths):
            stage = Stage(
                features=self.width * 2**index,
                layer_scale=self.layer_scale,
                rates=tuple(rates[:depth]),
                epsilon=self.epsilon,
                remat=self.remat,
                dtype=self.dtype,
                name=f"stage_{index}",
            )
            x, rates = stage(x, train), rates[depth:]
        tokens = x.reshape(x.shape[0], -1, x.shape[-1])
        norm = layers.LayerNorm(self.epsilon, self.dtype, name="post_norm")
        return {"pooled": norm(tokens.mean(axis=1)), "tokens": tokens}


class Stem(nn.Module):
    """Patches of 4 x 4 pixels, normalised."""

    features: int
    epsilon: float
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w 3"]
    ) -> Float[Array, "b h2 w2 {self.features}"]:
        conv = Conv(
            features=self.features,
            size=4,
            stride=4,
            use_bias=True,
            kernel_init=START,
            dtype=self.dtype,
            name="conv_1",
        )
        return layers.LayerNorm(self.epsilon, self.dtype, name="norm_1")(conv(x))


class Stage(nn.Module):
    """Blocks of one width, "block_0" first; if the width changes, a normalisation
    and a convolution of 2 x 2 that halves the feature map come before them.

    rates: at which the blocks' branches are left out in training.
    """

    features: int
    layer_scale: float
    rates: tuple[float, ...]
    epsilon: float
    remat: bool
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], train: bool
    ) -> Float[Array, "b h2 w2 {self.features}"]:
        if x.shape[-1] != self.features:
            norm = layers.LayerNorm(self.epsilon, self.dtype, name="downsample_norm")
            conv = Conv(
                features=self.features,
                size=2,
                stride=2,
                use_bias=True,
                kernel_init=START,
                dtype=self.dtype,
                name="downsample_conv",
            )
            x = conv(norm(x))
        block = nn.remat(Block, static_argnums=(2,)) if self.remat else Block
        for index, rate in enumerate(self.rates):
            x = block(
                self.layer_scale,
                rate,
                self.epsilon,
                self.dtype,
                name=f"block_{index}",
            )(x, train)
        return x


class Block(nn.Module):
    """A depthwise 7 x 7 convolution, a normalisation and an MLP, with a shortcut."""

    layer_scale: float
    drop_path: float
    epsilon: float
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], train: bool
    ) -> Float[Array, "b h w c"]:
        d = x.shape[-1]
        conv = Conv(
            features=d,
            size=7,
            depthwise=True,
            use_bias=True,
            kernel_init=START,
            dtype=self.dtype,
            name="conv_1",
        )
        y = layers.LayerNorm(self.epsilon, self.dtype, name="norm_1")(conv(x))
        y = layers.Dense(4 * d, 0.02, dtype=self.dtype, name="fc1")(y)
        y = layers.ACTIVATIONS["gelu"](y)
        y = layers.Dense(d, 0.02, dtype=self.dtype, name="fc2")(y)
        start = nn.initializers.constant(self.layer_scale)
        factor = self.param("layer_scale", start, (d,)).astype(y.dtype)
        y = y * factor[None, None, None]
        keep_images = nn.Dropout(self.drop_path, (1, 2, 3), deterministic=not train)
        return x + keep_images(y)
