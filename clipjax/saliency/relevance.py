"""Which tokens a similarity depends on, from a tower's attentions.

`keys` are the keys that a function gives numbers for: patches, which follow a class
token if there is one, or the tokens of a text.

Dimensions in shape comments: as in tower_inside.py; k the chosen keys.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, Float

from clipjax.models.common.heads import unit_norm
from clipjax.saliency.tower_inside import Attention, FeatureMap


def grad_eclip(attention: Attention, keys: slice) -> Float[Array, "t b k"]:
    """Grad-ECLIP of the last attention (arXiv 2502.18816, section III).

    The sum over channels of gradient x value x loosened weight, without its negative
    part. The loosened weight is the cosine of query and key, over all heads, scaled to
    [0, 1] over the keys that the query may look at. The paper has one query: that of
    the class token, or of a text's last token. A mean over tokens has a query per
    token; their maps are summed before the negative part is cut.
    """
    query, key, value = (
        part.reshape(*part.shape[:2], -1).astype(jnp.float32)
        for part in (attention.query, attention.key, attention.value)
    )
    key, value, visible = key[:, keys], value[:, keys], attention.visible[..., keys]
    cosine = jnp.einsum("bnd,bkd->bnk", unit_norm(query), unit_norm(key))
    low = jnp.where(visible, cosine, 1).min(axis=-1, keepdims=True)
    span = jnp.where(visible, cosine, -1).max(axis=-1, keepdims=True) - low
    # Equal cosines tell nothing apart.
    weight = jnp.where(span > 0, (cosine - low) / jnp.where(span > 0, span, 1), 1)
    weight = jnp.where(visible, weight, 0)
    gradient = attention.gradient
    gradient = gradient.reshape(*gradient.shape[:3], -1)
    found = jnp.einsum("tbnd,bnk,bkd->tbk", gradient, weight, value)
    return jnp.maximum(found, 0)


def chefer(attentions: Sequence[Attention], keys: slice) -> Float[Array, "t b k"]:
    """Relevance through all attentions (Chefer et al., arXiv 2103.15679, section 3).

    Relevances start at the identity. Each self-attention adds the mean over heads of
    gradient x weight, without its negative part, times the relevances before it; a pool
    multiplies by that mean. The result is of the tokens that the embedding is made
    from: the class token, the pool's query, or the mean of all; without their own
    identity.
    """
    identity = total = jnp.eye(attentions[0].weights.shape[-1])[None, None]
    for attention in attentions:
        value = attention.value.astype(jnp.float32)
        gradient = jnp.einsum("tbnhe,bmhe->tbhnm", attention.gradient, value)
        flow = jnp.maximum(gradient * attention.weights[None], 0).mean(axis=2)
        if attention.is_pool:
            identity = jnp.zeros((1, 1, 1, 1))
            total = flow @ total
        else:
            total = total + flow @ total
    rows = read_rows(attentions[-1])
    return jnp.einsum("tbn,tbnm->tbm", rows, total - identity)[..., keys]


def heads(attention: Attention, keys: slice) -> Float[Array, "b h k"]:
    """The last attention's weights from the tokens that the embedding is made from."""
    rows = read_rows(attention)[0]
    return jnp.einsum("bn,bhnm->bhm", rows, attention.weights)[..., keys]


def read_rows(attention: Attention) -> Float[Array, "t b n"]:
    """Weights, of sum 1, of the queries that the embedding is made from.

    They are those that the similarity depends on, each as much as the others.
    """
    gradient = attention.gradient
    used = (jnp.abs(gradient).max(axis=(-2, -1)) > 0).astype(jnp.float32)
    return used / jnp.maximum(used.sum(axis=-1, keepdims=True), 1)


def grad_cam(found: FeatureMap) -> Float[Array, "t b h w"]:
    """Grad-CAM (arXiv 1610.02391, section 3): channels weighted by their gradients'
    means over positions, summed, without the negative part.
    """
    weights = found.gradient.mean(axis=(2, 3))
    features = found.features.astype(jnp.float32)
    return jnp.maximum(jnp.einsum("tbc,bhwc->tbhw", weights, features), 0)
