"""What a tower does inside, and how a similarity depends on it.

Dimensions in shape comments: b items that are encoded, t targets that each of them is
compared with, n queries, m keys, h heads, e width of a head or of the embedding.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from clipjax.models.common import layers, taps
from clipjax.models.common.taps import Path

Encode = Callable[[], Float[Array, "b e"]]


class Attention(NamedTuple):
    """One attention of a tower.

    weights: after the softmax. visible: true where a query may look. gradient: of each
    similarity by what each query takes from the values, before the layers that follow.
    """

    query: Float[Array, "b n h e"]
    key: Float[Array, "b m h e"]
    value: Float[Array, "b m h e"]
    weights: Float[Array, "b h n m"]
    visible: Bool[Array, "b n m"]
    gradient: Float[Array, "t b n h e"]

    @property
    def is_pool(self) -> bool:
        """Whether one query that is no token looks at all tokens."""
        return self.weights.shape[-2] != self.weights.shape[-1]


class FeatureMap(NamedTuple):
    """The last feature map of a convolutional tower; gradient: of each similarity."""

    features: Float[Array, "b h w c"]
    gradient: Float[Array, "t b h w c"]


def attentions(
    encode: Encode, targets: Float[Array, "t b e"]
) -> tuple[Float[Array, "t b"], list[Attention]]:
    """The similarities, and every attention in the order in which they are computed.

    encode: gives embeddings of unit norm; traced here.
    """
    shapes = attention_shapes(encode)

    def run(added: list[Array]) -> tuple[Array, list[tuple[Any, ...]]]:
        found = []

        def mix(query, key, value, causal, key_mask):
            weights, sums = layers.attention_weights(query, key, causal, key_mask)
            weights = weights / sums
            mixed = jnp.einsum("bhnm,bmhe->bnhe", weights, value.astype(weights.dtype))
            # A zero, for the gradient by it.
            mixed = mixed + added[len(found)]
            visible = jnp.ones((len(query), *weights.shape[-2:]), bool)
            if causal:
                visible = jnp.tril(visible)
            if key_mask is not None:
                visible = visible & key_mask[:, None]
            found.append((query, key, value, weights, visible))
            return mixed.astype(value.dtype)

        with taps.attention(mix):
            return encode(), found

    zeros = [jnp.zeros(shape.mixed, jnp.float32) for shape in shapes]
    embed, back, found = jax.vjp(run, zeros, has_aux=True)
    gradients = _by_targets(embed, back, targets)
    made = [
        Attention._make((*parts, gradient))
        for parts, gradient in zip(found, gradients, strict=True)
    ]
    return cosines(embed, targets), made


class AttentionShape(NamedTuple):
    """mixed: of what the queries take, [b n h e]. keys: their number."""

    mixed: tuple[int, int, int, int]
    keys: int

    @property
    def is_pool(self) -> bool:
        """Whether one query that is no token looks at all tokens."""
        return self.mixed[1] != self.keys


def attention_shapes(encode: Encode) -> list[AttentionShape]:
    """The shape of each attention, in the order in which they are computed."""
    shapes = []

    def mix(query, key, value, causal, key_mask):
        mixed = (*query.shape[:-1], value.shape[-1])
        shapes.append(AttentionShape(mixed, key.shape[1]))
        return jnp.zeros(mixed, value.dtype)  # of which only the shape counts

    with taps.attention(mix):
        jax.eval_shape(lambda: encode())  # another function: jax keeps what it traced
    return shapes


def feature_map(
    encode: Encode, path: Path, targets: Float[Array, "t b e"]
) -> tuple[Float[Array, "t b"], FeatureMap]:
    """The similarities, and what the module at `path` returns."""
    shape = dict(feature_map_shapes(encode))[path]

    def run(added: Array) -> tuple[Array, Array]:
        found = []

        def change(at: Path, output: Array) -> Array:
            if at != path:
                return output
            found.append(output)
            return output + added.astype(output.dtype)

        with taps.outputs(change):
            embed = encode()
        (features,) = found
        return embed, features

    zeros = jnp.zeros(shape, jnp.float32)
    embed, back, features = jax.vjp(run, zeros, has_aux=True)
    gradient = _by_targets(embed, back, targets)
    return cosines(embed, targets), FeatureMap(features, gradient)


def feature_map_shapes(encode: Encode) -> list[tuple[Path, tuple[int, ...]]]:
    """The path and [b h w c] of each part of the tower that returns a feature map."""
    found = []

    def change(at: Path, output: Array) -> Array:
        if len(at) == 2 and getattr(output, "ndim", 0) == 4:
            found.append((at, output.shape))
        return output

    with taps.outputs(change):
        jax.eval_shape(lambda: encode())  # another function: jax keeps what it traced
    return found


def _by_targets(
    embed: Array, back: Callable[[Array], tuple[Any, ...]], targets: Array
) -> Any:
    """The gradients of each similarity; an item's do not depend on the others."""

    def one(target: Array) -> Any:
        return back(target.astype(embed.dtype))[0]

    return jax.vmap(one)(targets)


def cosines(
    embed: Float[Array, "b e"], targets: Float[Array, "t b e"]
) -> Float[Array, "t b"]:
    """Of unit-norm embeddings."""
    return jnp.einsum("tbe,be->tb", targets, embed, precision="highest")
