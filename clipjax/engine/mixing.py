"""Mixed examples for a classifier: mixup (arXiv 1710.09412), CutMix (arXiv 1905.04899).

The step mixes the global batch on the device, as a function of its key alone. An
example's partner is the previous one in the batch, which is random because the data's
order is.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special

from clipjax.types import Batch

POINTS = 4097


@dataclasses.dataclass(frozen=True)
class Mixing:
    """Mixes examples with their partners.

    mixup, cutmix: the share of examples mixed in each way, together at most 1.
    classes: the number of classes. mixup_alpha, cutmix_alpha: each example's own weight
    is drawn from Beta(alpha, alpha).
    """

    classes: int
    mixup: float
    mixup_alpha: float
    cutmix: float
    cutmix_alpha: float

    def __call__(self, batch: Batch, key: jax.Array) -> Batch:
        """Returns the batch with mixed images and `label_weights` float32 [b classes].

        `label` becomes the class with the larger weight. An example that has no label
        or is not valid is not mixed, has the label -1 and only zero weights.
        """
        image, label = batch["image"], batch["label"]
        label = jnp.where(batch["valid"], label, -1)
        other, other_label = jnp.roll(image, 1, axis=0), jnp.roll(label, 1)
        way_key, mixup_key, cutmix_key, patch_key = jax.random.split(key, 4)
        draw = jax.random.uniform(way_key, label.shape)
        mixable = (label >= 0) & (other_label >= 0)
        weight = jnp.ones(label.shape)
        if self.mixup:
            chosen = mixable & (draw < self.mixup)
            share = _beta(mixup_key, self.mixup_alpha, len(label))
            weight = jnp.where(chosen, share, weight)
            image = jnp.where(_by_row(chosen), _blend(image, other, share), image)
        if self.cutmix:
            chosen = mixable & (self.mixup <= draw) & (draw < self.mixup + self.cutmix)
            share = _beta(cutmix_key, self.cutmix_alpha, len(label))
            inside = _patches(patch_key, image.shape[1:3], share)
            weight = jnp.where(chosen, 1 - inside.mean((1, 2)), weight)
            image = jnp.where(_by_row(chosen) & inside[..., None], other, image)
        own, others = (
            jax.nn.one_hot(ids, self.classes) for ids in (label, other_label)
        )
        return {
            **batch,
            "image": image,
            "label": jnp.where(weight < 0.5, other_label, label),
            "label_weights": weight[:, None] * own + (1 - weight)[:, None] * others,
        }


def _beta(key: jax.Array, alpha: float, count: int) -> jax.Array:
    """Draws from Beta(alpha, alpha), interpolated linearly between POINTS quantiles,
    because jax.random.beta takes seconds to compile."""
    quantiles = scipy.special.betaincinv(alpha, alpha, np.linspace(0, 1, POINTS))
    table = jnp.asarray(quantiles, jnp.float32)
    position = jax.random.uniform(key, (count,)) * (POINTS - 1)
    first = position.astype(jnp.int32)
    low, high = table[first], table[first + 1]
    return low + (position - first) * (high - low)


def _by_row(x: jax.Array) -> jax.Array:
    return x[:, None, None, None]


def _blend(image: jax.Array, other: jax.Array, share: jax.Array) -> jax.Array:
    """Blended pixels, rounded because models take uint8: the error is 1/510 or less."""
    row_share = _by_row(share)
    return jnp.round(row_share * image + (1 - row_share) * other).astype(image.dtype)


def _patches(key: jax.Array, shape: tuple[int, ...], share: jax.Array) -> jax.Array:
    """bool [b h w]: a rectangle of the image's aspect ratio and 1 - share of its area.

    Its centre is anywhere in the image, so a part may lie outside.
    """
    inside = jnp.ones((len(share), *shape), bool)
    for axis, (size, draw) in enumerate(zip(shape, jax.random.split(key), strict=True)):
        centre = jax.random.randint(draw, share.shape, 0, size)
        half = (size * jnp.sqrt(1 - share)).astype(jnp.int32) // 2
        at = jnp.expand_dims(jnp.arange(size), (0, 2 - axis))
        first, last = (
            jnp.expand_dims(edge, (1, 2)) for edge in (centre - half, centre + half)
        )
        inside &= (at >= first) & (at < last)
    return inside
