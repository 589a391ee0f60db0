"""Layers that the towers share: dense, normalisation, attention, transformer blocks.

Every layer computes in `dtype` if it is given, else in the promoted type of its input
and its parameters, so float64 parameters give float64 throughout. Parameters are
float32 when fresh.

Dimensions in shape comments: b batch, n tokens, d width, h heads, e width of a head.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.linen.dtypes import promote_dtype
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, Shaped

from clipjax.models.common import taps


def _recomputed(
    function: Callable[..., Array], static_argnums: tuple[int, ...] = ()
) -> Callable[..., Array]:
    """An elementwise function of which only the inputs are kept for the backward pass.

    Computing it again costs no time that could be measured, and it takes a third off
    a training step's temporary memory.
    """
    return jax.checkpoint(function, static_argnums=static_argnums)


# Option `precision` -> the towers' `dtype`.
PRECISIONS = {"float32": None, "bfloat16": jnp.bfloat16}

# Of OpenAI's training images, as every published CLIP model expects them.
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)

ACTIVATIONS = {
    "gelu": _recomputed(lambda x: jax.nn.gelu(x, approximate=False)),
    "gelu_tanh": _recomputed(lambda x: jax.nn.gelu(x, approximate=True)),
    "quick_gelu": _recomputed(lambda x: x * jax.nn.sigmoid(1.702 * x)),
}


def normalise_image(
    image: Shaped[Array, "b h w 3"], mean: tuple[float, ...], std: tuple[float, ...]
) -> Float[Array, "b h w 3"]:
    """(image - mean) / std per channel.

    image: uint8, divided by 255 first, or floats in [0, 1]. Differentiable by floats.
    Raises TypeError for another type.
    """
    if jnp.issubdtype(image.dtype, jnp.floating):
        image = image * 255
    elif image.dtype != jnp.uint8:
        raise TypeError(
            f"images must be uint8 [b h w 3], or floats in [0, 1], not {image.dtype}"
        )
    # In one multiplication and one addition.
    scale = 1 / (255 * np.asarray(std))
    shift = -np.asarray(mean) / np.asarray(std)
    image = image * jnp.asarray(scale, jnp.float32)[None, None, None]
    return image + jnp.asarray(shift, jnp.float32)[None, None, None]


def patches(
    image: Shaped[Array, "b h w c"], size: int
) -> Shaped[Array, "b n {size}*{size}*c"]:
    """Cuts images into squares of size x size pixels, row by row."""
    b, h, w, c = image.shape
    x = image.reshape(b, h // size, size, w // size, size, c)
    return x.swapaxes(2, 3).reshape(b, -1, size * size * c)


def draw_places(
    batch: int, n: int, count: int, key: PRNGKeyArray
) -> Int[Array, "{batch} {count}"]:
    """Draws `count` of n places for each row, without repeat; of patch dropout."""
    noise = jax.random.uniform(key, (batch, n))
    return jax.lax.top_k(noise, count)[1]


class Dense(nn.Module):
    """y = x W + b over the last axis."""

    features: int
    std: float | None  # of the kernel's normal initial values, None: fan_in^-0.5
    use_bias: bool = True
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "*b d"]) -> Float[Array, "*b {self.features}"]:
        shape = (x.shape[-1], self.features)
        std = shape[0] ** -0.5 if self.std is None else self.std
        kernel = self.param("kernel", nn.initializers.normal(std), shape)
        bias = None
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, shape[1:])
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)
        # One two-dimensional product: with more dimensions XLA:CPU writes transposed
        # copies for the kernel's gradient (measured: 1.2 x on a training step).
        y = x.reshape(-1, shape[0]) @ kernel
        if bias is not None:
            y = y + bias[None]
        return y.reshape(*x.shape[:-1], self.features)


class LayerNorm(nn.Module):
    """Layer normalisation (arXiv 1607.06450); statistics in float32 or better."""

    epsilon: float = 1e-5
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:])
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:])
        dtype = self.dtype or jnp.result_type(x, scale)
        return _normalise(x, scale, bias, self.epsilon, dtype)


@functools.partial(_recomputed, static_argnums=(3, 4))
def _normalise(x, scale, bias, epsilon, dtype):
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    x = x - x.mean(axis=-1, keepdims=True)
    variance = jnp.square(x).mean(axis=-1, keepdims=True)
    x = x * jax.lax.rsqrt(variance + epsilon)
    line = (1,) * (x.ndim - 1) + (-1,)
    return (x * scale.reshape(line) + bias.reshape(line)).astype(dtype)


def attention_weights(
    query: Float[Array, "b n h e"],
    key: Float[Array, "b m h e"],
    causal: bool,
    key_mask: Bool[Array, "b m"] | None,
) -> tuple[Float[Array, "b h n m"], Float[Array, "b h n 1"]]:
    """Softmax attention before its normalisation.

    Args:
      causal: position i sees positions up to i only.
      key_mask: false where nobody may look; a row without any true key
        looks at all of them evenly, so that no NaN arises.

    Returns:
      (weights, their sums), float32 or better; a weight is the exponential of the
      logit less its row's maximum.
    """
    accumulate = jnp.promote_types(query.dtype, jnp.float32)
    query = query * query.shape[-1] ** -0.5
    logits = jnp.einsum(
        "bnhe,bmhe->bhnm", query, key, preferred_element_type=accumulate
    )
    lowest = jnp.finfo(logits.dtype).min
    if causal:
        n, m = logits.shape[-2:]
        seen = jnp.tril(jnp.ones((n, m), bool))
        logits = jnp.where(seen[None, None], logits, lowest)
    if key_mask is not None:
        logits = jnp.where(key_mask[:, None, None, :], logits, lowest)
    peak = jax.lax.stop_gradient(logits.max(axis=-1, keepdims=True))
    weights = jnp.exp(logits - peak)
    return weights, weights.sum(axis=-1, keepdims=True)


def attention(
    query: Float[Array, "b n h e"],
    key: Float[Array, "b m h e"],
    value: Float[Array, "b m h e"],
    causal: bool = False,
    key_mask: Bool[Array, "b m"] | None = None,
) -> Float[Array, "b n h e"]:
    """Attends from query to key and value.

    `causal` and `key_mask` are those of `attention_weights`. bfloat16 on an NVIDIA GPU
    without a key mask goes to cuDNN's fused kernel, whose memory is linear in n.
    `taps.attention` may put a function in place of this one.
    """
    if (mix := taps.in_place_of_attention()) is not None:
        if (mixed := mix(query, key, value, causal, key_mask)) is not None:
            return mixed
    if key_mask is None and query.shape == key.shape and _has_fused_kernel(query):
        return fused_attention(query, key, value, causal)
    weights, sums = attention_weights(query, key, causal, key_mask)
    mixed = jnp.einsum("bhnm,bmhe->bnhe", weights.astype(value.dtype), value)
    # Dividing [n e] results instead of [n m] weights is less work and less memory.
    return (mixed / sums.swapaxes(1, 2)).astype(value.dtype)


def fused_attention(
    query: Float[Array, "b n h e"],
    key: Float[Array, "b n h e"],
    value: Float[Array, "b n h e"],
    causal: bool,
) -> Float[Array, "b n h e"]:
    """Attention by cuDNN's kernel, from queries to as many keys and values."""
    n = query.shape[1]
    # jax refuses to differentiate it at odd lengths, such as a ViT-B/16's 197.
    padding = ((0, 0), (0, n % 2), (0, 0), (0, 0))
    lengths = None
    if n % 2 and not causal:  # in causal attention nothing earlier sees the last key
        lengths = jnp.full(query.shape[:1], n, jnp.int32)
    query, key, value = (jnp.pad(x, padding) for x in (query, key, value))
    mixed = jax.nn.dot_product_attention(
        query,
        key,
        value,
        is_causal=causal,
        key_value_seq_lengths=lengths,
        implementation="cudnn",
    )
    return mixed[:, :n]


def _has_fused_kernel(query: Float[Array, "b n h e"]) -> bool:
    """Whether cuDNN's attention takes these heads on this process's devices."""
    if query.dtype != jnp.bfloat16 or query.shape[-1] % 8 or query.shape[-1] > 128:
        return False
    device = jax.local_devices()[0]
    if "cuda" not in device.client.platform_version:
        return False
    return float(device.compute_capability) >= 8.0


def masked_mean(
    tokens: Float[Array, "b n d"], mask: Shaped[Array, "b n"]
) -> Float[Array, "b d"]:
    """Mean over the tokens under the mask; zeros if there is none."""
    weights = mask.astype(tokens.dtype)
    count = jnp.maximum(weights.sum(axis=1, keepdims=True), 1)
    return (tokens * weights[:, :, None]).sum(axis=1) / count


class SelfAttention(nn.Module):
    """Multi-head self-attention (arXiv 1706.03762)."""

    heads: int
    depth: int  # of the whole tower, for the initial values
    causal: bool = False
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "b n d"], key_mask: Bool[Array, "b n"] | None
    ) -> Float[Array, "b n d"]:
        b, n, d = x.shape
        qkv = Dense(3 * d, d**-0.5, dtype=self.dtype, name="qkv")(x)
        split = jnp.split(qkv, 3, axis=-1)
        query, key, value = (part.reshape(b, n, self.heads, -1) for part in split)
        mixed = attention(query, key, value, self.causal, key_mask).reshape(b, n, d)
        std = d**-0.5 * (2 * self.depth) ** -0.5
        return Dense(d, std, dtype=self.dtype, name="out")(mixed)


class Mlp(nn.Module):
    """Two dense layers with an activation between; dropout after either."""

    hidden: int
    depth: int  # of the whole tower, for the initial values
    activation: str = "gelu"
    dropout: float = 0.0
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "*b d"], train: bool) -> Float[Array, "*b d"]:
        d = x.shape[-1]
        x = Dense(self.hidden, (2 * d) ** -0.5, dtype=self.dtype, name="fc1")(x)
        x = ACTIVATIONS[self.activation](x)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        std = d**-0.5 * (2 * self.depth) ** -0.5
        x = Dense(d, std, dtype=self.dtype, name="fc2")(x)
        return nn.Dropout(self.dropout, deterministic=not train)(x)


class Block(nn.Module):
    """A transformer block, normalised before attention and before the MLP, or, with
    `post_norm`, after either's sum with its input (arXiv 1706.03762, BERT).
    """

    heads: int
    hidden: int
    depth: int
    causal: bool = False
    activation: str = "gelu"
    dropout: float = 0.0
    post_norm: bool = False
    epsilon: float = 1e-5
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "b n d"], key_mask: Bool[Array, "b n"] | None, train: bool
    ) -> Float[Array, "b n d"]:
        norm_1 = LayerNorm(self.epsilon, self.dtype, name="norm_1")
        norm_2 = LayerNorm(self.epsilon, self.dtype, name="norm_2")
        attend = SelfAttention(
            self.heads, self.depth, self.causal, self.dtype, name="attention"
        )
        drop = nn.Dropout(self.dropout, deterministic=not train)
        mlp = Mlp(
            self.hidden,
            self.depth,
            self.activation,
            self.dropout,
            self.dtype,
            name="mlp",
        )
        if self.post_norm:
            x = norm_1(x + drop(attend(x, key_mask)))
            return norm_2(x + mlp(x, train))
        x = x + drop(attend(norm_1(x), key_mask))
        return x + mlp(norm_2(x), train)


class Transformer(nn.Module):
    """`depth` blocks, "block_0" first.

    remat: keep only the input of each block for the backward pass and compute the rest
    again (arXiv 1604.06174): about a third more work, a tenth of the memory.
    """

    depth: int
    heads: int
    hidden: int
    causal: bool = False
    activation: str = "gelu"
    dropout: float = 0.0
    remat: bool = False
    post_norm: bool = False
    epsilon: float = 1e-5
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "b n d"], key_mask: Bool[Array, "b n"] | None, train: bool
    ) -> Float[Array, "b n d"]:
        block = nn.remat(Block, static_argnums=(3,)) if self.remat else Block
        for index in range(self.depth):
            x = block(
                self.heads,
                self.hidden,
                self.depth,
                self.causal,
                self.activation,
                self.dropout,
                self.post_norm,
                self.epsilon,
                self.dtype,
                name=f"block_{index}",
            )(x, key_mask, train)
        return x
