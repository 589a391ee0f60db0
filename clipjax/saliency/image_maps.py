"""Maps of where in an image a two-tower model sees what a text says.

Dimensions in shape comments: b images, t texts, s side of an image, e embedding, h
heads, r rows and c columns of a map: one per patch, or position of the feature map.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32, UInt8

from clipjax import option_checks
from clipjax.models.common import lora, taps
from clipjax.models.two_tower import TwoTowerModel
from clipjax.saliency import dense, relevance, tower_inside
from clipjax.types import Model, UserError, Variables

# Of towers that attend between patches; the first is the default (docs/maps.md says
# why). A convolutional tower that ends in an attention has both lists.
OF_ATTENTION = ("chefer", "grad_eclip", "maskclip", "attention")
OF_FEATURE_MAPS = ("grad_cam",)
IMAGES_AT_ONCE = 8


def plain(model: Model, variables: Variables) -> tuple[TwoTowerModel, Variables]:
    """The two towers, with LoRA merged and without rematerialisation.

    Raises UserError for another kind of model.
    """
    model, variables = lora.merged(model, variables)
    if not isinstance(model, TwoTowerModel):
        raise UserError(
            "maps are made of models with an image and a text tower (model=two_tower), "
            f"and this is a {type(model).__name__}"
        )
    towers = {
        side: taps.without_remat(getattr(model.module, side))
        for side in ("image", "text")
    }
    return TwoTowerModel(model.module.clone(**towers)), variables


class ImageMaps:
    """Makes maps of one model; compiles once per method and number of texts.

    methods: those that its image tower has, the default first.

    Raises UserError for a model that is not of two towers, and for an image tower that
    no method can look into.
    """

    def __init__(self, model: Model, variables: Variables):
        self._model, self._variables = plain(model, variables)
        self._attentions: list[tower_inside.AttentionShape] = []
        self._stages: list[tuple[taps.Path, tuple[int, ...]]] = []
        size = self._model.module.image.image_size
        blank = jax.ShapeDtypeStruct((1, size, size, 3), jnp.uint8)

        def shapes(variables: Variables, pixels: Array) -> Array:
            encode = self._encoder(variables, pixels)
            self._attentions += tower_inside.attention_shapes(encode)
            self._stages += tower_inside.feature_map_shapes(encode)
            return self._model.encode_image(variables, pixels)["image_tokens"]

        self._count = jax.eval_shape(shapes, self._variables, blank).shape[1]
        of_attention = OF_ATTENTION if self._attentions else ()
        of_stages = OF_FEATURE_MAPS if self._stages else ()
        self.methods: tuple[str, ...] = of_stages + of_attention
        if not self.methods:
            raise UserError(
                "this model's image tower has neither attention nor feature maps, so "
                "no map can be made of it"
            )
        self._run = jax.jit(self._make, static_argnums=0)

    def __call__(
        self,
        pixels: UInt8[np.ndarray, "b s s 3"],
        texts: Float32[np.ndarray, "*b t e"],
        method: str = "",
    ) -> tuple[Float32[np.ndarray, "b t r c"], Float32[np.ndarray, "b t"]]:
        """The maps and the cosines.

        Numbers of one image can be compared: across its places and its texts. They are
        0 or above, "maskclip"'s are cosines; "attention"'s do not depend on the text.

        pixels: preprocessed. texts: unit-norm embeddings, the same for all images [t e]
        or each image's own [b t e]. method: one of `methods`, "" for the first.

        Raises UserError for a method that the image tower does not have.
        """
        method = method or self.methods[0]
        option_checks.one_of("method", method, self.methods)
        own = np.broadcast_to(texts, (len(pixels), *texts.shape[-2:]))
        made = self._batches(method, pixels, own.swapaxes(0, 1))
        maps, cosines = (np.swapaxes(part, 0, 1) for part in made)
        return maps, cosines

    def heads(
        self, pixels: UInt8[np.ndarray, "b s s 3"]
    ) -> Float32[np.ndarray, "b h r c"]:
        """The last attention's weights, of sum 1 over all tokens, per head."""
        option_checks.one_of("method", "attention", self.methods)
        dim = self._model.module.embed_dim
        any_text = np.ones((1, len(pixels), dim), np.float32)
        (found,) = self._batches("heads", pixels, any_text)
        return found.swapaxes(0, 1)

    def embed(self, pixels: UInt8[np.ndarray, "b s s 3"]) -> Float32[np.ndarray, "b e"]:
        """The images' embeddings, of unit norm."""
        none = np.zeros((1, len(pixels), 1), np.float32)
        (found,) = self._batches("embed", pixels, none)
        return found[0]

    def _batches(self, method: str, pixels: Any, targets: Any) -> list[np.ndarray]:
        """_make's outputs [t b ...] for all images, of which the last are padded."""
        parts = []
        for start in range(0, len(pixels), IMAGES_AT_ONCE):
            some, own = (
                pixels[start : start + IMAGES_AT_ONCE],
                targets[:, start : start + IMAGES_AT_ONCE],
            )
            count = len(some)
            if start and count < IMAGES_AT_ONCE:
                lack = IMAGES_AT_ONCE - count
                some = np.pad(some, ((0, lack), (0, 0), (0, 0), (0, 0)))
                own = np.pad(own, ((0, 0), (0, lack), (0, 0)))
            own = np.asarray(own, np.float32)
            found = self._run(method, self._variables, some, own)
            parts.append([np.asarray(x, np.float32)[:, :count] for x in found])
        return [np.concatenate(outputs, axis=1) for outputs in zip(*parts, strict=True)]

    def _make(
        self, method: str, variables: Variables, pixels: Array, targets: Array
    ) -> tuple[Array, ...]:
        """Maps [t b r c] and cosines [t b]; of "heads" weights [h b r c], of "embed"
        embeddings [1 b e].
        """
        encode = self._encoder(variables, pixels)
        if method == "embed":
            return (encode()[None],)
        if method in OF_FEATURE_MAPS:
            path = self._stages[-1][0]
            cosines, found = tower_inside.feature_map(encode, path, targets)
            return relevance.grad_cam(found), cosines
        if method == "maskclip":
            maps = dense.maskclip(self._model, variables, pixels, targets)
            embed = encode()
            return self._grid(maps), tower_inside.cosines(embed, targets)
        cosines, found = tower_inside.attentions(encode, targets)
        size = found[-1].weights.shape[-1]
        keys = slice(size - self._count, size)
        if method == "grad_eclip":
            maps = relevance.grad_eclip(found[-1], keys)
        elif method == "chefer":
            maps = relevance.chefer(found, keys)
        else:
            weights = relevance.heads(found[-1], keys)
            if method == "heads":
                return (self._grid(weights.swapaxes(0, 1)),)
            maps = jnp.broadcast_to(
                weights.mean(axis=1)[None], (*cosines.shape, self._count)
            )
        return self._grid(maps), cosines

    def _encoder(self, variables: Variables, pixels: Array) -> tower_inside.Encode:
        return lambda: self._model.encode_image(variables, pixels)["image_embed"]

    def _grid(self, values: Array) -> Array:
        """[... n] as [... r c]; both towers' grids are square, as their images are."""
        side = math.isqrt(self._count)
        return values.reshape(*values.shape[:-1], side, -1)
