"""Mixed examples for a classifier: mixup (arXiv 1710.09412), CutMix (arXiv 1905.04899).

In the step, on the device, over the global batch: what is mixed is a function of the
step's key alone. Every example's partner is the one before it in the batch, which the
order of the data draws at random.
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
    """mixup, cutmix: the shares of examples mixed in either way, together at most 1.

    classes: of the labels. The alphas: an example keeps a share of itself drawn from
    Beta(alpha, alpha), each its own.
    """

    classes: int
    mixup: float
    mixup_alpha: float
    cutmix: float
    cutmix_alpha: float

    def __call__(self, batch: Batch, key: jax.Array) -> Batch:
        """Returns the batch with mixed images and `label_weights` float32 [b classes].

        `label` becomes the class of the greater weight. An example without a label, or
        that is not valid, is mixed with none, weighs nothing and has the label -1.
        """
        image, label = batch["image"], batch["label"]
        label = jnp.where(batch["valid"], label, -1)
        other, other_label = jnp.roll(image, 1, axis=0), jnp.roll(label, 1)
        which, blending, cutting, place = jax.random.split(key, 4)
        draw = jax.random.uniform(which, label.shape)
        able = (label >= 0) & (other_label >= 0)
        weight = jnp.ones(label.shape)
        if self.mixup:
            chosen = able & (draw < self.mixup)
            kept = _beta(blending, self.mixup_alpha, len(label))
            weight = jnp.where(chosen, kept, weight)
            image = jnp.where(_by_row(chosen), _blend(image, other, kept), image)
        if self.cutmix:
            chosen = able & (self.mixup <= draw) & (draw < self.mixup + self.cutmix)
            kept = _beta(cutting, self.cutmix_alpha, len(label))
            inside = _patches(place, image.shape[1:3], kept)
            weight = jnp.where(chosen, 1 - inside.mean((1, 2)), weight)
            image = jnp.where(_by_row(chosen) & inside[..., None], other, image)
        own, others = (
            jax.nn.one_hot(one, self.classes) for one in (label, other_label)
        )
        return {
            **batch,
            "image": image,
            "label": jnp.where(weight < 0.5, other_label, label),
            "label_weights": weight[:, None] * own + (1 - weight)[:, None] * others,
        }


def _beta(key: jax.Array, alpha: float, count: int) -> jax.Array:
    """Draws of Beta(alpha, alpha) by its quantiles, linear between POINTS of them:
    jax.random.beta takes seconds to compile."""
    quantiles = scipy.special.betaincinv(alpha, alpha, np.linspace(0, 1, POINTS))
    table = jnp.asarray(quantiles, jnp.float32)
    place = jax.random.uniform(key, (count,)) * (POINTS - 1)
    first = place.astype(jnp.int32)
    low, high = table[first], table[first + 1]
    return low + (place - first) * (high - low)


def _by_row(x: jax.Array) -> jax.Array:
    return x[:, None, None, None]


def _blend(image: jax.Array, other: jax.Array, kept: jax.Array) -> jax.Array:
    """Rounded, since models take uint8: half of 1/255 off at most."""
    share = _by_row(kept)
    return jnp.round(share * image + (1 - share) * other).astype(image.dtype)


def _patches(key: jax.Array, shape: tuple[int, ...], kept: jax.Array) -> jax.Array:
    """bool [b h w]: a rectangle of each image's ratio and a share 1 - kept of its area,
    its centre anywhere, so that a part may lie outside."""
    inside = jnp.ones((len(kept), *shape), bool)
    for axis, (size, draw) in enumerate(zip(shape, jax.random.split(key), strict=True)):
        centre = jax.random.randint(draw, kept.shape, 0, size)
        half = (size * jnp.sqrt(1 - kept)).astype(jnp.int32) // 2
        at = jnp.expand_dims(jnp.arange(size), (0, 2 - axis))
        first, last = (
            jnp.expand_dims(edge, (1, 2)) for edge in (centre - half, centre + half)
        )
        inside &= (at >= first) & (at < last)
    return inside
