"""A supervised classifier: an image tower and a linear layer over its pooled features.

--config FILE.py:model=classifier,image=resnet --config.model.num_classes=5
"""

from __future__ import annotations

import dataclasses
from types import MappingProxyType
from typing import cast

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Bool, Int, PRNGKeyArray, Shaped

from clipjax import option_checks
from clipjax.models.common import layers
from clipjax.types import Batch, Outputs, Tree, UserError, Variables

TOWERS = ("image",)
# The default components of a config with this model.
WORDS = {"loss": "cross_entropy", "evals": "classification"}


def make(
    image_tower: nn.Module,
    *,
    num_classes: int = 1000,
    dropout: float = 0.0,
    mean: tuple[float, float, float] = layers.MEAN,
    std: tuple[float, float, float] = layers.STD,
    precision: str = "float32",
) -> ClassifierModel:
    """A classifier over any image tower.

    Args:
      image_tower: Linen module as in models/two_tower.py.
      num_classes: of the data's label set.
      dropout: rate of the pooled features.
      mean, std, precision: as in models/two_tower.py.

    Raises:
      UserError: for a value that cannot be used.
    """
    option_checks.one_of("model.precision", precision, layers.PRECISIONS)
    option_checks.in_range("model.dropout", dropout)
    option_checks.check_pixels(mean, std)
    if num_classes < 2:
        raise UserError(f"model.num_classes={num_classes}: must be at least 2")
    dtype = layers.PRECISIONS[precision]
    tower = image_tower.clone(dtype=dtype)
    return ClassifierModel(Classifier(tower, num_classes, dropout, mean, std))


class Classifier(nn.Module):
    """See `make`. The last layer starts with std d^-0.5 and zero biases."""

    FREE = frozenset({"dropout"})

    image: nn.Module
    num_classes: int
    dropout: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @nn.compact
    def __call__(self, image: Shaped[Array, "b h w 3"], train: bool) -> Outputs:
        """See ClassifierModel."""
        image = layers.normalise_image(image, self.mean, self.std)
        features = self.image(image, train)["pooled"]
        features = features.astype(jnp.promote_types(features.dtype, jnp.float32))
        x = nn.Dropout(self.dropout, deterministic=not train)(features)
        logits = layers.Dense(self.num_classes, None, name="head")(x)
        return {"logits": logits, "image_features": features}


@dataclasses.dataclass(frozen=True)
class ClassifierModel:
    """A classifier as a types.Model. Equal settings give equal, hashable models.

    Outputs: logits float32 [b num_classes], image_features float32 [b d], the tower's.
    """

    module: Classifier
    image_output = "logits"
    pooled_outputs = MappingProxyType({"image": "image_features"})

    def init(self, key: PRNGKeyArray) -> Variables:
        """Fresh float32 variables; pure: run it under jit, or eval_shape."""
        size = self.module.image.image_size
        image = jnp.zeros((1, size, size, 3), jnp.uint8)
        return self.module.init({"params": key}, image, False)

    def apply(
        self, variables: Variables, batch: Batch, train: bool, key: PRNGKeyArray | None
    ) -> tuple[Outputs, Tree]:
        """Classifies batch["image"] uint8 [b h w 3]; `key` draws the dropout masks.

        Returns the outputs and the new batch_stats ({} without).
        """
        stats = variables.get("batch_stats", {})
        if not train:
            return self.encode_image(variables, batch["image"]), stats
        applied = self.module.apply(
            variables,
            batch["image"],
            True,
            rngs={"dropout": key} if key is not None else {},
            mutable=["batch_stats"],
        )
        outputs, updated = cast(tuple[Outputs, Tree], applied)
        return outputs, updated.get("batch_stats", stats)

    def encode_image(
        self, variables: Variables, image: Shaped[Array | np.ndarray, "b h w 3"]
    ) -> Outputs:
        """The outputs for images, in evaluation mode.

        image: uint8, or floats in [0, 1].
        """
        return cast(Outputs, self.module.apply(variables, jnp.asarray(image), False))

    def encode_text(
        self,
        variables: Variables,
        text: Int[Array | np.ndarray, "b l"],
        mask: Bool[Array | np.ndarray, "b l"],
    ) -> Outputs:
        """Raises UserError: a classifier has no text tower."""
        raise UserError(NO_TEXT)


NO_TEXT = "this model is a classifier and encodes no text; see model=two_tower"
