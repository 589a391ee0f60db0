"""Layers of convolutional towers: convolution, batch normalisation, residual stages.

Images are [b h w c] and kernels [height width in out]. Like those of `layers`, every
layer computes in `dtype` if it is given, else in the promoted type of its input and
its parameters; parameters are float32 when fresh.

Dimensions in shape comments: b batch, h w image, c channels.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen.dtypes import promote_dtype
from jax.nn.initializers import Initializer
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from clipjax import option_checks
from clipjax.models.common import layers
from clipjax.types import UserError

STAGES = 4


def check_sizes(image_size: int, width: int, depths: tuple[int, ...]) -> None:
    """Raises UserError if a convolutional tower of these sizes cannot be built."""
    option_checks.at_least_one("data.image_size", image_size)
    option_checks.at_least_one("model.image.width", width)
    if len(depths) != STAGES or min(depths) < 1:
        raise UserError(
            f"model.image.depths={depths}: must be the number of blocks, at least 1, "
            f"of each of {STAGES} stages, like (3, 4, 6, 3)"
        )


class Conv(nn.Module):
    """A convolution with square windows of `size`, `stride` apart.

    Padding is size // 2 on every side, as PyTorch's models have it ("SAME" differs at a
    stride of 2), and none if size == stride.

    depthwise: a filter of size x size for each channel; odd size, stride 1.
    kernel_init: by default He's (arXiv 1502.01852) by fan-out.
    """

    features: int
    size: int
    stride: int = 1
    depthwise: bool = False
    use_bias: bool = False
    kernel_init: Initializer = nn.initializers.variance_scaling(
        2.0, "fan_out", "normal"
    )
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"]
    ) -> Float[Array, "b h2 w2 {self.features}"]:
        inputs = 1 if self.depthwise else x.shape[-1]
        shape = (self.size, self.size, inputs, self.features)
        kernel = self.param("kernel", self.kernel_init, shape)
        bias = None
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, shape[-1:])
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)
        if self.depthwise:
            on_cpu = jax.default_backend() == "cpu"
            y = _shifted(x, kernel) if on_cpu else _convolve(x, kernel)
        elif self.size in (1, self.stride):
            y = _apart(x, kernel, self.stride)
        else:
            y = _convolve(x, kernel, self.stride)
        return y if bias is None else y + bias[None, None, None]


def _convolve(
    x: Float[Array, "b h w c"], kernel: Float[Array, "size size i o"], stride: int = 1
) -> Float[Array, "b h2 w2 o"]:
    pad = kernel.shape[0] // 2
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding=((pad, pad), (pad, pad)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1] // kernel.shape[2],
    )


def _apart(
    x: Float[Array, "b h w c"], kernel: Float[Array, "size size c o"], stride: int
) -> Float[Array, "b h2 w2 o"]:
    """Windows that do not overlap, as one two-dimensional product.

    Measured on a CPU: a training step of ResNet-50 takes 1.29 x as long without.
    """
    size = kernel.shape[0]
    if size == 1:
        x = x[:, ::stride, ::stride]
    b, h, w, _ = x.shape
    h, w = h // size, w // size
    x = layers.patches(x[:, : h * size, : w * size], size)
    kernel = kernel.reshape(-1, kernel.shape[-1])
    return (x.reshape(-1, kernel.shape[0]) @ kernel).reshape(b, h, w, -1)


@jax.custom_vjp
def _shifted(
    x: Float[Array, "b h w c"], kernel: Float[Array, "size size 1 c"]
) -> Float[Array, "b h w c"]:
    """A depthwise convolution as a sum of shifted images.

    XLA:CPU has no fast depthwise convolution: measured on 8 x 56 x 56 x 96 with 7 x 7,
    forward takes 5 ms so and 170 ms with it, the kernel's gradient 150 and 740 ms.
    """
    size, (h, w) = kernel.shape[0], x.shape[1:3]
    x = _padded(x, size)
    shifts = [(i, j) for i in range(size) for j in range(size)]
    terms = (x[:, i : i + h, j : j + w] * kernel[i, j][None, None] for i, j in shifts)
    return functools.reduce(jnp.add, terms)


def _shifted_forward(x, kernel):
    return _shifted(x, kernel), (x, kernel)


def _shifted_backward(saved, toward):
    x, kernel = saved
    size, (h, w) = kernel.shape[0], x.shape[1:3]
    padded = _padded(x, size)

    def row(i):
        rows = jax.lax.dynamic_slice_in_dim(padded, i, h, axis=1)
        cells = [rows[:, :, j : j + w] * toward for j in range(size)]
        return jnp.stack([cell.sum(axis=(0, 1, 2)) for cell in cells])

    # A loop over rows: all cells at once take longer to compile and to run.
    toward_kernel = jax.lax.map(row, jnp.arange(size)).reshape(kernel.shape)
    return _shifted(toward, kernel[::-1, ::-1]), toward_kernel


_shifted.defvjp(_shifted_forward, _shifted_backward)


def _padded(x: Float[Array, "b h w c"], size: int) -> Float[Array, "b h2 w2 c"]:
    pad = size // 2
    return jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))


class BatchNorm(nn.Module):
    """(x - mean) / sqrt(var + epsilon) * scale + bias (arXiv 1502.03167).

    In training, mean and variance are the batch's, over b, h and w, and move the
    running ones, `mean` and `var` in the collection "batch_stats"; those serve
    otherwise. As in PyTorch, the biased variance divides and the unbiased one,
    n / (n - 1) times it, is kept: running = momentum * running + (1 - momentum) * new
    (0.9 here is 0.1 there).

    Under jit with a batch split over devices, the statistics are of the global batch.
    Micro-batches have their own each. Statistics are float32 or better.
    """

    momentum: float = 0.9
    epsilon: float = 1e-5
    zero_scale: bool = False  # at the start
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], train: bool
    ) -> Float[Array, "b h w c"]:
        """Raises UserError in training on a single value per channel (no variance)."""
        shape = x.shape[-1:]
        start = nn.initializers.zeros if self.zero_scale else nn.initializers.ones
        scale = self.param("scale", start, shape)
        bias = self.param("bias", nn.initializers.zeros, shape)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, shape)
        running_var = self.variable("batch_stats", "var", jnp.ones, shape)
        mean, var = running_mean.value, running_var.value
        if train:
            n = x.size // x.shape[-1]
            if n == 1:
                raise UserError(
                    "batch normalisation cannot train on one value per channel: give a "
                    "larger batch_size or image_size"
                )
            mean, var = _moments(x)
            if not self.is_initializing():
                self._move(running_mean, mean)
                self._move(running_var, var * (n / (n - 1)))
        dtype = self.dtype or jnp.result_type(x, scale)
        return _normalise(x, mean, var, scale, bias, self.epsilon, dtype)

    def _move(self, running: nn.Variable, new: Float[Array, " c"]) -> None:
        moved = self.momentum * running.value + (1 - self.momentum) * new
        running.value = moved.astype(running.value.dtype)


def _moments(
    x: Float[Array, "b h w c"],
) -> tuple[Float[Array, " c"], Float[Array, " c"]]:
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    mean = x.mean(axis=(0, 1, 2))
    return mean, jnp.square(x - mean[None, None, None]).mean(axis=(0, 1, 2))


@functools.partial(jax.checkpoint, static_argnums=(5, 6))
def _normalise(x, mean, var, scale, bias, epsilon, dtype):
    """Computed again in the backward pass: a third less memory in the same time."""
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    factor = scale * jax.lax.rsqrt(var + epsilon)
    x = (x - mean[None, None, None]) * factor[None, None, None]
    return (x + bias[None, None, None]).astype(dtype)


def max_pool(x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
    """The largest of 3 x 3 at a stride of 2, the border padded by 1."""
    pad = ((0, 0), (1, 1), (1, 1), (0, 0))
    windows, strides = (1, 3, 3, 1), (1, 2, 2, 1)
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, windows, strides, pad)


def average_pool(
    x: Float[Array, "b h w c"], size: int
) -> Float[Array, "b h//{size} w//{size} c"]:
    """Means of size x size without overlap; an incomplete rest is left out."""
    if size == 1:
        return x
    b, h, w, c = x.shape
    h, w = h // size, w // size
    x = x[:, : h * size, : w * size].reshape(b, h, size, w, size, c)
    return x.mean(axis=(2, 4))


class Bottleneck(nn.Module):
    """Convolutions of 1, 3 and 1 pixels, the last four times as wide, and a shortcut.

    A stride is in the 3 x 3 convolution and the shortcut's (torchvision's "v1.5" of
    arXiv 1512.03385), or with `antialias` in averages before the last convolution and
    before the shortcut's (OpenAI CLIP, arXiv 2103.00020).

    conv, norm: Conv and BatchNorm with the tower's settings.
    zero_last: the last normalisation starts at zero (arXiv 1706.02677, section 5.1).
    """

    features: int
    stride: int
    conv: Callable[..., Conv]
    norm: Callable[..., BatchNorm]
    zero_last: bool
    antialias: bool = False

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], train: bool
    ) -> Float[Array, "b h2 w2 4*{self.features}"]:
        average, stride = (self.stride, 1) if self.antialias else (1, self.stride)
        width = 4 * self.features
        y = self.conv(self.features, 1, name="conv_1")(x)
        y = nn.relu(self.norm(name="norm_1")(y, train))
        y = self.conv(self.features, 3, stride, name="conv_2")(y)
        y = nn.relu(self.norm(name="norm_2")(y, train))
        y = self.conv(width, 1, name="conv_3")(average_pool(y, average))
        y = self.norm(zero_scale=self.zero_last, name="norm_3")(y, train)
        if self.stride > 1 or x.shape[-1] != width:
            x = average_pool(x, average)
            x = self.conv(width, 1, stride, name="shortcut_conv")(x)
            x = self.norm(name="shortcut_norm")(x, train)
        return nn.relu(x + y)


class Stage(nn.Module):
    """`depth` residual blocks, "block_0" first, which has the stride.

    block: a Linen class; options: of the block, besides its stride.
    remat: keep only the input of each block for the backward pass.
    """

    block: Callable[..., nn.Module]
    depth: int
    stride: int
    options: Mapping[str, Any]
    remat: bool

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], train: bool
    ) -> Float[Array, "b h2 w2 d"]:
        block = nn.remat(self.block, static_argnums=(2,)) if self.remat else self.block
        for index in range(self.depth):
            stride = self.stride if index == 0 else 1
            x = block(stride=stride, name=f"block_{index}", **self.options)(x, train)
        return x
