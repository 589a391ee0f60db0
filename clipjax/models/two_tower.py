"""Two towers into one embedding space: CLIP (arXiv 2103.00020).

    image = load("image", "vit")(224)
    text = load("text", "transformer")(49_408, 77)
    model = load("model", "two_tower")(image, text)
    variables = jax.jit(model.init)(jax.random.key(0))
    outputs, model_state = model.apply(variables, batch, True, key)

Towers are types.ImageTower and types.TextTower.

Dimensions in shape comments: b batch, l text length, d tower width, e embedding.
"""

from __future__ import annotations

import dataclasses
import math
from types import MappingProxyType
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Bool, Int, PRNGKeyArray, Shaped

from clipjax import option_checks
from clipjax.models.common import heads, layers
from clipjax.types import Batch, Outputs, Tree, UserError, Variables


def make(
    image_tower: nn.Module,
    text_tower: nn.Module,
    *,
    embed_dim: int = 512,
    logit_scale_init: float = 1 / 0.07,
    learnable_scale: bool = True,
    logit_bias_init: float | None = None,
    image_head: str = "linear",
    text_head: str = "linear",
    expander: tuple[int, ...] = (),
    mean: tuple[float, float, float] = layers.MEAN,
    std: tuple[float, float, float] = layers.STD,
    precision: str = "float32",
) -> TwoTowerModel:
    """A model of two towers.

    Args:
      image_tower, text_tower: Linen modules as above.
      embed_dim: size of the shared embedding.
      logit_scale_init: inverse temperature at the start (the parameter is its log).
      learnable_scale: False keeps the inverse temperature; then it is no parameter.
      logit_bias_init: a learned bias of the logits (SigLIP), None for none.
      image_head, text_head: from a tower to the embedding: "linear", "affine" (with
        bias), "mlp", "slim_mlp", or "none" if the tower gives embed_dim numbers itself;
        see heads.projection.
      expander: widths of an MLP over each side's features, whose outputs the vicreg
        loss takes in their place; () for none. They are no embeddings.
      mean, std: of red, green and blue in [0, 1], to normalise images with.
      precision: "float32", or "bfloat16" products with float32 parameters, statistics,
        softmax and embeddings. float64 parameters compute in float64 under "float32".

    Raises:
      UserError: for a value that cannot be used.
    """
    option_checks.one_of("model.precision", precision, layers.PRECISIONS)
    for side, kind in (("image", image_head), ("text", text_head)):
        option_checks.one_of(f"model.{side}_head", kind, heads.PROJECTIONS)
    if embed_dim < 1:
        raise UserError(f"model.embed_dim={embed_dim}: must be at least 1")
    option_checks.above_zero("model.logit_scale_init", logit_scale_init)
    if any(width < 1 for width in expander):
        raise UserError(f"model.expander={expander}: widths must be at least 1")
    option_checks.check_pixels(mean, std)
    if logit_bias_init is not None and not math.isfinite(logit_bias_init):
        raise UserError(f"model.logit_bias_init={logit_bias_init}: must be a number")
    dtype = layers.PRECISIONS[precision]
    module = TwoTower(
        image=image_tower.clone(dtype=dtype),
        text=text_tower.clone(dtype=dtype),
        embed_dim=embed_dim,
        logit_scale_init=logit_scale_init,
        learnable_scale=learnable_scale,
        logit_bias_init=logit_bias_init,
        heads=(image_head, text_head),
        expander=tuple(expander),
        mean=mean,
        std=std,
    )
    return TwoTowerModel(module)


class TwoTower(nn.Module):
    """See `make`."""

    FREE = frozenset({"logit_scale_init", "logit_bias_init", "expander"})
    OPTIONS = {"heads": ("image_head", "text_head")}

    image: nn.Module
    text: nn.Module
    embed_dim: int
    logit_scale_init: float
    learnable_scale: bool
    logit_bias_init: float | None
    heads: tuple[str, str]
    expander: tuple[int, ...]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @nn.compact
    def __call__(
        self,
        image: Shaped[Array, "b h w 3"] | None,
        text: Int[Array, "m l"] | None,
        mask: Bool[Array, "m l"] | None,
        train: bool,
    ) -> Outputs:
        """Encodes whichever side is given; see TwoTowerModel."""
        outputs = {}
        if image is not None:
            image = layers.normalise_image(image, self.mean, self.std)
            encoded = self.image(image, train)
            outputs |= self._embed("image", encoded, train)
        if text is not None:
            outputs |= self._embed("text", self.text(text, mask, train), train)
        if self.expander and image is not None and text is not None:
            for side in ("image", "text"):  # only a loss uses them, with both
                head = heads.Expander(self.expander, name=f"{side}_expander")
                outputs[f"{side}_expanded"] = head(outputs[f"{side}_features"])
        if self.learnable_scale:
            start = nn.initializers.constant(math.log(self.logit_scale_init))
            outputs["logit_scale"] = jnp.exp(self.param("logit_scale", start, ()))
        else:
            outputs["logit_scale"] = jnp.asarray(self.logit_scale_init, jnp.float32)
        if self.logit_bias_init is not None:
            start = nn.initializers.constant(self.logit_bias_init)
            outputs["logit_bias"] = self.param("logit_bias", start, ())
        return outputs

    def _embed(self, side: str, encoded: Outputs, train: bool) -> Outputs:
        pooled = encoded["pooled"]
        pooled = pooled.astype(jnp.promote_types(pooled.dtype, jnp.float32))
        kind = self.heads[side == "text"]
        project = heads.projection(kind, self.embed_dim, f"{side}_projection")
        features = project(pooled) if project is not None else pooled
        if features.shape[-1] != self.embed_dim:
            raise UserError(
                f"model.{side}_head='none': the {side} tower gives {pooled.shape[-1]} "
                f"numbers and model.embed_dim is {self.embed_dim}: let them be equal"
            )
        outputs = {
            f"{side}_embed": heads.unit_norm(features),
            f"{side}_features": features,
            f"{side}_tokens": encoded["tokens"],
        }
        # No loss takes them, and micro-batches would carry them along.
        return outputs if train else {**outputs, f"{side}_pooled": pooled}


@dataclasses.dataclass(frozen=True)
class TwoTowerModel:
    """The two towers as a types.Model. Equal settings give equal, hashable models.

    Outputs of a side: {side}_embed float32 [b e] of unit norm, {side}_features float32
    [b e] before normalisation, {side}_tokens [b n d] of the tower; in evaluation
    {side}_pooled float32 [b d], the tower's before projection; if both sides are given
    also {side}_expanded [b expander[-1]], if the model has expanders.
    """

    module: TwoTower
    image_output = "image_embed"
    pooled_outputs = MappingProxyType({"image": "image_pooled", "text": "text_pooled"})

    def init(self, key: PRNGKeyArray) -> Variables:
        """Fresh float32 variables; pure: run it under jit, or eval_shape."""
        size, length = self.module.image.image_size, self.module.text.context_length
        image = jnp.zeros((1, size, size, 3), jnp.uint8)
        text = jnp.zeros((1, length), jnp.int32)
        mask = jnp.ones((1, length), bool)
        return self.module.init({"params": key}, image, text, mask, False)

    def apply(
        self, variables: Variables, batch: Batch, train: bool, key: PRNGKeyArray | None
    ) -> tuple[Outputs, Tree]:
        """Encodes batch["image"] uint8 [b h w 3], ["text"] and ["text_mask"] [b l].

        If `train` is set, `key` draws the dropout masks, over the whole batch, so
        that they do not depend on the number of devices.

        Returns both sides' outputs, logit_scale, logit_bias if there is one, and the
        new batch_stats ({} without).
        """
        inputs = batch["image"], batch["text"], batch["text_mask"]
        stats = variables.get("batch_stats", {})
        if not train:
            return self._evaluate(variables, *inputs), stats
        applied = self.module.apply(
            variables,
            *inputs,
            True,
            rngs={"dropout": key} if key is not None else {},
            mutable=["batch_stats"],
        )
        outputs, updated = cast(tuple[Outputs, Tree], applied)
        return outputs, updated.get("batch_stats", stats)

    def encode_image(
        self, variables: Variables, image: Shaped[Array | np.ndarray, "b h w 3"]
    ) -> Outputs:
        """The image side's outputs of images, in evaluation mode.

        image: uint8, or floats in [0, 1].
        """
        return self._evaluate(variables, image, None, None)

    def encode_text(
        self,
        variables: Variables,
        text: Int[Array | np.ndarray, "b l"],
        mask: Bool[Array | np.ndarray, "b l"],
    ) -> Outputs:
        """The text side's outputs of ids and their mask, true on tokens."""
        return self._evaluate(variables, None, text, mask)

    def _evaluate(
        self, variables: Variables, *inputs: Array | np.ndarray | None
    ) -> Outputs:
        arrays = jax.tree.map(jnp.asarray, inputs)
        return cast(Outputs, self.module.apply(variables, *arrays, False))
