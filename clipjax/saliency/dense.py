"""MaskCLIP: an embedding, and so a similarity, of each patch (arXiv 2112.01071, 3.1).

The last attention is left out, so that each patch keeps its own value: what follows the
attention, up to the shared embedding, works on each patch as on the whole image.

Dimensions in shape comments: as in tower_inside.py; k patches, d width of a token.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import cast

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from clipjax.models.common import heads, taps
from clipjax.models.two_tower import TwoTowerModel
from clipjax.saliency.tower_inside import attention_shapes
from clipjax.types import Outputs, Variables


def maskclip(
    model: TwoTowerModel,
    variables: Variables,
    pixels: Array,
    targets: Float[Array, "t b e"],
) -> Float[Array, "t b k"]:
    """Cosines of each patch's embedding with each target.

    If the last attention is a self-attention, tokens pass it by their values and go
    through the rest of their block and the projection. If it is a pool, it sees one
    patch at a time.
    """

    shapes = attention_shapes(
        lambda: model.encode_image(variables, pixels)["image_embed"]
    )
    last = len(shapes) - 1

    def encode(mix: Callable[[Array], Array]) -> Outputs:
        """The image side with `mix` of the last attention's values in its place."""
        number = itertools.count()

        def each(query, key, value, causal, key_mask):
            return mix(value) if next(number) == last else None

        with taps.attention(each):
            return model.encode_image(variables, pixels)

    if shapes[last].is_pool:
        keys = shapes[last].keys
        count = encode(lambda value: value[:, :1])["image_tokens"].shape[1]

        def one(place: Array) -> Array:
            def mix(value: Array) -> Array:
                return jax.lax.dynamic_slice_in_dim(value, place, 1, axis=1)

            return encode(mix)["image_embed"]

        # What comes before the pool does not depend on the place, and is made once.
        embed = jax.vmap(one, out_axes=1)(jnp.arange(keys - count, keys))
    else:
        tokens = encode(lambda value: value)["image_tokens"]
        embed = project(model, variables, tokens)
    return jnp.einsum("tbe,bke->tbk", targets, embed, precision="highest")


def project(
    model: TwoTowerModel, variables: Variables, tokens: Float[Array, "b k d"]
) -> Float[Array, "b k e"]:
    """Tokens as the model projects what it pools from them, of unit norm."""
    module = model.module
    layer = heads.projection(module.heads[0], module.embed_dim, "image_projection")
    found = tokens.astype(jnp.promote_types(tokens.dtype, jnp.float32))
    if layer is not None:
        flat = found.reshape(-1, found.shape[-1])
        params = {"params": variables["params"]["image_projection"]}
        made = cast(Array, layer.apply(params, flat))
        found = made.reshape(*found.shape[:2], -1)
    return heads.unit_norm(found)
