"""Vision transformer tower (arXiv 2010.11929), by default in OpenAI CLIP's layout.

    load("image", "vit")(224, variant="B/16")

Dimensions in shape comments: b batch, n patches, d width.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Float32, PRNGKeyArray

from clipjax import option_checks
from clipjax.models.common import layers, pools
from clipjax.types import Outputs, UserError

# Size -> (width, depth, heads, MLP width).
SIZES = {
    "Ti": (192, 12, 3, 768),
    "S": (384, 12, 6, 1536),
    "B": (768, 12, 12, 3072),
    "L": (1024, 24, 16, 4096),
    "H": (1280, 32, 16, 5120),
}
POOLS = ("cls", "mean", "map", "query")
POSITIONS = ("learned", "sincos")


def make(
    image_size: int,
    *,
    variant: str = "B/16",
    width: int | None = None,
    depth: int | None = None,
    heads: int | None = None,
    mlp_dim: int | None = None,
    pool: str = "cls",
    pool_width: int | None = None,
    pool_heads: int | None = None,
    class_token: bool = False,
    positions: str = "learned",
    pre_norm: bool = True,
    post_norm: bool = False,
    patch_bias: bool = False,
    crop_to_patches: bool = False,
    norm_epsilon: float = 1e-5,
    activation: str = "gelu",
    dropout: float = 0.0,
    patch_dropout: float = 0.0,
    remat: bool = False,
) -> VisionTransformer:
    """A vision transformer.

    Args:
      image_size: height and width in pixels, a multiple of the patch size unless
        crop_to_patches.
      variant: size and patch size in pixels, "B/16"; any patch size works.
      width, depth, heads, mlp_dim: None takes the variant's.
      pool: "cls" (a class token), "mean" over patches, "map" (attention pooling, then
        an MLP; SigLIP), "query" (attention pooling over class token and patches, of
        another width; open_clip's CoCa).
      pool_width, pool_heads: of pool="query", None for those of the tower.
      class_token: also pool="mean" has a class token, which patches see and the mean
        leaves out; open_clip's average pooling.
      positions: "learned", or fixed "sincos" (MoCo v3, arXiv 2104.02057).
      pre_norm: a layer normalisation before the first block, as OpenAI CLIP has.
      post_norm: blocks that normalise after the sums, as BERT's, not before.
      patch_bias: a bias of the patch embedding, as SigLIP and ImageNet's ViTs have.
      crop_to_patches: leave out the pixels at the right and lower edges that fill no
        patch, as SigLIP's models with patches of 14 in images of 384 do.
      norm_epsilon: of the layer normalisations; 1e-6 in SigLIP and timm.
      activation: "gelu", "gelu_tanh", or "quick_gelu" of OpenAI's published weights.
      dropout: rate after the embeddings and in every block.
      patch_dropout: share of patches left out in training (arXiv 2212.00794).
      remat: spend compute to save memory; see layers.Transformer.

    Raises:
      UserError: for an unknown variant or choice, or sizes that do not divide.
    """
    size, patch = option_checks.size_and_patch(
        variant, SIZES, image_size, crop_to_patches
    )
    option_checks.one_of("model.image.pool", pool, POOLS)
    if pool != "query" and (pool_width, pool_heads) != (None, None):
        raise UserError(
            f"model.image.pool_width, model.image.pool_heads: have no effect on "
            f"model.image.pool={pool!r}"
        )
    if class_token and pool != "mean":
        raise UserError(
            f"model.image.class_token: has no effect on model.image.pool={pool!r}"
        )
    option_checks.one_of("model.image.positions", positions, POSITIONS)
    option_checks.one_of("model.image.activation", activation, layers.ACTIVATIONS)
    option_checks.in_range("model.image.dropout", dropout)
    option_checks.in_range("model.image.patch_dropout", patch_dropout)
    option_checks.above_zero("model.image.norm_epsilon", norm_epsilon)
    options = (width, depth, heads, mlp_dim)
    sizes = option_checks.sizes("model.image", options, SIZES[size])
    d, layer_count, head_count, hidden = sizes
    if mlp_dim is None and width is not None:
        hidden = 4 * d
    if positions == "sincos" and d % 4:
        raise UserError(
            f"model.image.width={d}: must be a multiple of 4 for positions=sincos"
        )
    if pool == "query":
        pool_width = d if pool_width is None else pool_width
        pool_heads = head_count if pool_heads is None else pool_heads
        if pool_width < 1 or pool_heads < 1 or pool_width % pool_heads:
            raise UserError(
                f"model.image.pool_heads={pool_heads}: must be at least 1 and divide "
                f"model.image.pool_width={pool_width}"
            )
    return VisionTransformer(
        image_size=image_size,
        patch=patch,
        width=d,
        depth=layer_count,
        heads=head_count,
        hidden=hidden,
        pool=pool,
        pool_width=pool_width,
        pool_heads=pool_heads,
        class_token=class_token,
        positions=positions,
        pre_norm=pre_norm,
        post_norm=post_norm,
        patch_bias=patch_bias,
        crop_to_patches=crop_to_patches,
        norm_epsilon=norm_epsilon,
        activation=activation,
        dropout=dropout,
        patch_dropout=patch_dropout,
        remat=remat,
    )


class VisionTransformer(nn.Module):
    """See `make`. Initial values: OpenAI CLIP's, with zero biases and normal kernels
    of std fan_in^-0.5 if OpenAI leaves PyTorch's default.
    """

    # crop_to_patches only allows an image size.
    FREE = frozenset(
        {"image_size", "crop_to_patches", "dropout", "patch_dropout", "remat"}
    )
    OPTIONS = {"patch": "variant", "hidden": "mlp_dim"}

    image_size: int
    patch: int
    width: int
    depth: int
    heads: int
    hidden: int
    pool: str
    pool_width: int | None
    pool_heads: int | None
    class_token: bool
    positions: str
    pre_norm: bool
    post_norm: bool
    patch_bias: bool
    crop_to_patches: bool
    norm_epsilon: float
    activation: str
    dropout: float
    patch_dropout: float
    remat: bool
    dtype: DTypeLike | None = None

    @property
    def class_count(self) -> int:
        """The number of class tokens, before the patches: 0 or 1."""
        return int(self.pool in ("cls", "query") or self.class_token)

    @nn.compact
    def __call__(
        self,
        image: Float[Array, "b {self.image_size} {self.image_size} 3"],
        train: bool,
    ) -> Outputs:
        """Encodes normalised images.

        Returns "pooled" [b d] ([b pool_width] of pool="query"), and "tokens" [b n d],
        the patches row by row (without the class token; fewer of them in training with
        patch dropout).
        """
        side = image.shape[1] // self.patch * self.patch
        x = layers.patches(image[:, :side, :side], self.patch)
        b, n, fan_in = x.shape
        embed = layers.Dense(
            self.width,
            fan_in**-0.5,
            self.patch_bias,
            self.dtype,
            name="patch_embedding",
        )
        x = embed(x)
        std = self.width**-0.5
        class_count = self.class_count
        if self.positions == "learned":
            shape = (n + class_count, self.width)
            table = self.param("positions", nn.initializers.normal(std), shape)
        else:
            table = sincos(self.image_size // self.patch, self.width)
            table = jnp.asarray(np.pad(table, ((class_count, 0), (0, 0))))
        table = table.astype(x.dtype)
        x = x + table[None, class_count:]
        if train and self.patch_dropout:
            count = max(1, round(n * (1 - self.patch_dropout)))
            x = keep_some(x, count, self.make_rng("dropout"))
        if class_count:
            token = self.param(
                "class_token", nn.initializers.normal(std), (self.width,)
            )
            first = token.astype(x.dtype)[None] + table[:1]
            first = jnp.broadcast_to(first[None], (b, 1, self.width))
            x = jnp.concatenate([first, x], axis=1)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        if self.pre_norm:
            x = layers.LayerNorm(self.norm_epsilon, self.dtype, name="pre_norm")(x)
        x = layers.Transformer(
            self.depth,
            self.heads,
            self.hidden,
            activation=self.activation,
            dropout=self.dropout,
            remat=self.remat,
            post_norm=self.post_norm,
            epsilon=self.norm_epsilon,
            dtype=self.dtype,
            name="transformer",
        )(x, None, train)
        norm = layers.LayerNorm(self.norm_epsilon, self.dtype, name="post_norm")
        tokens = norm(x[:, class_count:])
        if self.pool == "cls":
            # Normalised apart from the patches, which compile away if unused.
            pooled = norm(x[:, 0])
        elif self.pool == "mean":
            pooled = tokens.mean(axis=1)
        elif self.pool == "query":
            assert self.pool_width and self.pool_heads
            pooled = pools.QueryPool(
                self.pool_width,
                self.pool_heads,
                self.norm_epsilon,
                self.dtype,
                name="query",
            )(norm(x))
        else:
            pooled = pools.AttentionPool(
                self.heads,
                self.hidden,
                self.activation,
                self.norm_epsilon,
                self.dtype,
                name="map",
            )(tokens)
        return {"pooled": pooled, "tokens": tokens}


def keep_some(
    x: Float[Array, "b n d"], count: int, key: PRNGKeyArray
) -> Float[Array, "b {count} d"]:
    """Returns `count` of the n tokens of each row, drawn without repeat."""
    places = layers.draw_places(x.shape[0], x.shape[1], count, key)
    return jnp.take_along_axis(x, places[:, :, None], axis=1)


def sincos(side: int, width: int) -> Float32[np.ndarray, "{side}*{side} {width}"]:
    """Fixed positions of a side x side grid.

    A quarter of the width each for sine and cosine of column and row, at wavelengths
    from 2 pi to 20,000 pi.
    """
    rows, columns = np.mgrid[:side, :side].reshape(2, -1, 1)
    omega = 10_000.0 ** -np.linspace(0, 1, width // 4)
    waves = [f(at * omega) for at in (columns, rows) for f in (np.sin, np.cos)]
    return np.concatenate(waves, axis=1).astype(np.float32)
