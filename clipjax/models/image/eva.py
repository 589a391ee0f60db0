"""EVA's vision transformers (arXiv 2303.11331, 2303.15389), in timm's architecture.

    load("image", "eva")(224, variant="B/16")

Dimensions in shape comments: b batch, n patches, d width, h heads, e width of a head.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.linen.dtypes import promote_dtype
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Float64

from clipjax import option_checks
from clipjax.models.common import layers
from clipjax.types import Outputs, UserError

# Size -> (its blocks, (width, depth, heads, MLP width)).
SIZES = {
    "B": ("eva02", (768, 12, 12, 2048)),
    "L": ("eva02", (1024, 24, 16, 2730)),
    "g": ("eva", (1408, 40, 16, 6144)),
    "E": ("eva02_enormous", (1792, 64, 16, 15360)),
}
GRID = 16  # sides of the grid over which rotary positions count, whatever the image
STD = 0.02  # of all initial values


def make(
    image_size: int,
    *,
    variant: str = "B/16",
    width: int | None = None,
    depth: int | None = None,
    heads: int | None = None,
    mlp_dim: int | None = None,
    norm_epsilon: float = 1e-6,
    dropout: float = 0.0,
    patch_dropout: float = 0.0,
    remat: bool = False,
) -> Eva:
    """One of EVA's vision transformers, pooled at a class token.

    Args:
      image_size: height and width in pixels, a multiple of the patch size.
      variant: size and patch size in pixels, "B/16"; any patch size goes. B and L are
        EVA-02's, with rotary positions, gated MLPs and normalisations inside attention
        and MLP; g is EVA's, with plain blocks; E is EVA-02's largest, whose plain
        blocks normalise what they add.
      width, depth, heads: None takes the variant's.
      mlp_dim: width inside the MLPs; None for the variant's share of the width.
      norm_epsilon: of the layer normalisations.
      dropout: rate after the embeddings and in every block.
      patch_dropout: share of patches left out in training (arXiv 2212.00794).
      remat: keep only the input of each block for the backward pass; see
        layers.Transformer.

    Raises:
      UserError: for an unknown variant, or sizes that do not divide.
    """
    size, patch = option_checks.size_and_patch(variant, SIZES, image_size)
    option_checks.in_range("model.image.dropout", dropout)
    option_checks.in_range("model.image.patch_dropout", patch_dropout)
    option_checks.above_zero("model.image.norm_epsilon", norm_epsilon)
    kind, sizes = SIZES[size]
    asked = (width, depth, heads, mlp_dim)
    d, layer_count, head_count, hidden = option_checks.sizes(
        "model.image", asked, sizes
    )
    if mlp_dim is None:
        hidden = max(1, sizes[3] * d // sizes[0])
    if kind == "eva02" and d // head_count % 4:
        raise UserError(
            f"model.image.heads={head_count}: of model.image.width={d} each has "
            f"{d // head_count} numbers; rotary positions need a multiple of 4"
        )
    return Eva(
        image_size=image_size,
        patch=patch,
        block=kind,
        width=d,
        depth=layer_count,
        heads=head_count,
        hidden=hidden,
        norm_epsilon=norm_epsilon,
        dropout=dropout,
        patch_dropout=patch_dropout,
        remat=remat,
    )


class Eva(nn.Module):
    """See `make`. Kernels and tables start normal with std 0.02, what ends a block with
    that over sqrt(2 x the block's number); biases at zero.
    """

    FREE = frozenset({"image_size", "dropout", "patch_dropout", "remat"})
    OPTIONS = {"patch": "variant", "block": "variant", "hidden": "mlp_dim"}

    image_size: int
    patch: int
    block: str
    width: int
    depth: int
    heads: int
    hidden: int
    norm_epsilon: float
    dropout: float
    patch_dropout: float
    remat: bool
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(
        self,
        image: Float[Array, "b {self.image_size} {self.image_size} 3"],
        train: bool,
    ) -> Outputs:
        """Encodes normalised images.

        Returns "pooled" [b d], the class token, and "tokens" [b n d], the patches row
        by row (fewer of them in training with patch dropout).
        """
        x = layers.patches(image, self.patch)
        x = layers.Dense(self.width, STD, dtype=self.dtype, name="patch_embedding")(x)
        b, n, _ = x.shape
        start = nn.initializers.normal(STD)
        table = self.param("positions", start, (n + 1, self.width)).astype(x.dtype)
        token = self.param("class_token", start, (self.width,)).astype(x.dtype)
        x = x + table[None, 1:]
        angles = None
        if self.block == "eva02":
            side = image.shape[1] // self.patch
            angles = jnp.asarray(rotary_angles(side, self.width // self.heads))[None]
        if train and self.patch_dropout:
            kept = max(1, round(n * (1 - self.patch_dropout)))
            places = layers.draw_places(b, n, kept, self.make_rng("dropout"))
            x = jnp.take_along_axis(x, places[:, :, None], axis=1)
            if angles is not None:
                angles = jnp.take(angles[0], places, axis=0)
        first = jnp.broadcast_to((token + table[0])[None, None], (b, 1, self.width))
        x = jnp.concatenate([first, x], axis=1)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        make_block = nn.remat(EvaBlock, static_argnums=(3,)) if self.remat else EvaBlock
        for index in range(self.depth):
            x = make_block(
                self.heads,
                self.hidden,
                self.block,
                STD * (2 * (index + 1)) ** -0.5,
                self.norm_epsilon,
                self.dropout,
                self.dtype,
                name=f"block_{index}",
            )(x, angles, train)
        norm = layers.LayerNorm(self.norm_epsilon, self.dtype, name="post_norm")
        # Normalised apart from the patches, which are rarely asked for.
        return {"pooled": norm(x[:, 0]), "tokens": norm(x[:, 1:])}


class EvaBlock(nn.Module):
    """A block of one of the three kinds in SIZES. out_std: of the initial values of the
    kernels that end attention and MLP."""

    heads: int
    hidden: int
    kind: str
    out_std: float
    epsilon: float
    dropout: float
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b tokens d"],
        angles: Float[Array, "#b n half"] | None,
        train: bool,
    ) -> Float[Array, "b tokens d"]:
        """x: the class token, then n patches. angles: of each image's patches, or one
        row for all images."""
        norm_1 = layers.LayerNorm(self.epsilon, self.dtype, name="norm_1")
        norm_2 = layers.LayerNorm(self.epsilon, self.dtype, name="norm_2")
        drop = nn.Dropout(self.dropout, deterministic=not train)
        inside = self.epsilon if self.kind == "eva02" else None
        attend = EvaAttention(
            self.heads, self.out_std, inside, self.dtype, name="attention"
        )
        mlp = EvaMlp(
            self.hidden,
            self.out_std,
            inside,
            self.dropout,
            self.dtype,
            name="mlp",
        )
        if self.kind == "eva02_enormous":
            x = x + norm_1(drop(attend(x, angles)))
            return x + norm_2(mlp(x, train))
        x = x + drop(attend(norm_1(x), angles))
        return x + mlp(norm_2(x), train)


class EvaAttention(nn.Module):
    """Self-attention without a bias of its keys, and with rotary positions if it gets
    angles. epsilon: of a normalisation before the last layer, None for none."""

    heads: int
    out_std: float
    epsilon: float | None
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "b tokens d"], angles: Float[Array, "#b n half"] | None
    ) -> Float[Array, "b tokens d"]:
        b, n, d = x.shape
        qkv = layers.Dense(3 * d, STD, False, self.dtype, name="qkv")(x)
        query, key, value = jnp.split(qkv, 3, axis=-1)
        query = query + self._bias("query_bias", query)
        value = value + self._bias("value_bias", value)
        query, key, value = (
            part.reshape(b, n, self.heads, -1) for part in (query, key, value)
        )
        if angles is not None:
            query, key = rotate(query, angles), rotate(key, angles)
        mixed = layers.attention(query, key, value).reshape(b, n, d)
        if self.epsilon is not None:
            mixed = layers.LayerNorm(self.epsilon, self.dtype, name="norm")(mixed)
        return layers.Dense(d, self.out_std, dtype=self.dtype, name="out")(mixed)

    def _bias(self, name: str, x: Float[Array, "b tokens d"]) -> Float[Array, "1 1 d"]:
        bias = self.param(name, nn.initializers.zeros, x.shape[-1:])
        return promote_dtype(bias, dtype=self.dtype)[0][None, None]


class EvaMlp(nn.Module):
    """Two dense layers with GELU between, or, with the epsilon of a normalisation,
    gated (arXiv 2002.05202): the first half of fc1, after SiLU, times the second half,
    normalised. Dropout before and after fc2."""

    hidden: int
    out_std: float
    epsilon: float | None
    dropout: float
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "b tokens d"], train: bool
    ) -> Float[Array, "b tokens d"]:
        d = x.shape[-1]
        drop = nn.Dropout(self.dropout, deterministic=not train)
        wide = self.hidden * (1 if self.epsilon is None else 2)
        x = layers.Dense(wide, STD, dtype=self.dtype, name="fc1")(x)
        if self.epsilon is not None:
            gate, x = jnp.split(x, 2, axis=-1)
            norm = layers.LayerNorm(self.epsilon, self.dtype, name="norm")
            x = norm(drop(jax.nn.silu(gate) * x))
        else:
            x = drop(layers.ACTIVATIONS["gelu"](x))
        return drop(layers.Dense(d, self.out_std, dtype=self.dtype, name="fc2")(x))


def rotary_angles(
    side: int, width: int
) -> Float64[np.ndarray, "{side}*{side} {width}//2"]:
    """Angles of a side x side grid's patches.

    Each pair of a head's numbers has an angle; the first half of the pairs count rows,
    the second columns, at frequencies from 1 to almost 1/10,000. Whatever its side, a
    grid spans GRID rows and columns.
    """
    bands = 10_000.0 ** -(np.arange(width // 4) / (width // 4))
    places = np.mgrid[:side, :side].reshape(2, -1, 1) * (GRID / side)
    return np.concatenate([at * bands for at in places], axis=1)


def rotate(
    x: Float[Array, "b tokens h e"], angles: Float[Array, "#b n half"]
) -> Float[Array, "b tokens h e"]:
    """Rotates pairs of x but the first token's; angles as for EvaBlock."""
    angles = angles[:, :, None].astype(jnp.promote_types(x.dtype, jnp.float32))
    sin, cos = jnp.sin(angles), jnp.cos(angles)
    even, odd = x[:, 1:, :, ::2], x[:, 1:, :, 1::2]
    pairs = jnp.stack([even * cos - odd * sin, odd * cos + even * sin], axis=-1)
    rest = pairs.reshape(x[:, 1:].shape).astype(x.dtype)
    return jnp.concatenate([x[:, :1], rest], axis=1)
