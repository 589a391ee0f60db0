"""A loss: each pair against its hardest negative (VSE++, arXiv 1707.05612).

L = mean over images of max(0, margin + max_j S_ij - S_ii), plus the same over texts.
"""

import dataclasses

import jax
import jax.numpy as jnp

from clipjax.losses.common import pairs
from clipjax.types import Batch, LossSpec, Metrics, Outputs


def make(spec: LossSpec, *, margin: float = 0.2) -> "HardestLoss":
    """The loss of the hardest negatives.

    Args:
      margin: the least difference between a pair's own similarity and all others.
    """
    return HardestLoss(margin)


@dataclasses.dataclass(frozen=True)
class HardestLoss:
    margin: float

    def init(self) -> dict:
        return {}

    def __call__(
        self, outputs: Outputs, batch: Batch, state: dict, step: jax.Array
    ) -> tuple[jax.Array, dict, Metrics]:
        s = pairs.products(outputs["image_embed"], outputs["text_embed"])
        own = jnp.diagonal(s)
        others = jnp.where(jnp.eye(len(s), dtype=bool), -1.0, s)  # cosines from -1 on
        hardest = jnp.stack([others.max(axis=1), others.max(axis=0)])
        costs = jax.nn.relu(self.margin + hardest - own[None])
        return costs.mean(axis=1).sum(), state, {"violated": (costs > 0).mean()}
