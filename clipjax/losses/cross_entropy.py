"""Cross-entropy of a classifier: softmax over classes, or a sigmoid per class.

The target is batch["label"], or if the batch has them the soft targets
batch["label_weights"] [b c] of mixed examples.
"""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int

from clipjax.losses.common import diagnostics
from clipjax.option_checks import one_of
from clipjax.types import Batch, LossSpec, Metrics, Outputs, Tree, UserError

OUTPUT = "logits"  # what it needs of the model


def make(
    spec: LossSpec, *, kind: str = "softmax", label_smoothing: float = 0.0
) -> CrossEntropyLoss:
    """The cross-entropy loss.

    Args:
      kind: "softmax": one class is right; "sigmoid": a binary decision per class,
        summed over classes (arXiv 2006.07159, section 3).
      label_smoothing: weight in [0, 1) moved from the target to all classes evenly
        (arXiv 1512.00567, section 7).

    Raises UserError for a value out of range.
    """
    del spec
    one_of("loss.kind", kind, ("softmax", "sigmoid"))
    if not 0 <= label_smoothing < 1:
        raise UserError(f"loss.label_smoothing={label_smoothing}: must be in [0, 1)")
    return CrossEntropyLoss(kind, label_smoothing)


@dataclasses.dataclass(frozen=True)
class CrossEntropyLoss:
    kind: str
    label_smoothing: float

    def init(self) -> Tree:
        return {}

    def __call__(
        self, outputs: Outputs, batch: Batch, state: Tree, step: Int[ArrayLike, ""]
    ) -> tuple[Float[Array, ""], Tree, Metrics]:
        """Needs logits [b c], and label int32 [b]; a negative one does not count."""
        logits, label = outputs["logits"], batch["label"]
        classes = logits.shape[1]
        target = jax.nn.one_hot(label, classes, dtype=logits.dtype)
        target = batch.get("label_weights", target)
        if self.label_smoothing:
            even = self.label_smoothing / classes
            target = (1 - self.label_smoothing) * target + even
        if self.kind == "softmax":
            losses = -(target * jax.nn.log_softmax(logits)).sum(axis=1)
        else:
            losses = (jax.nn.softplus(logits) - target * logits).sum(axis=1)
        valid = (label >= 0).astype(logits.dtype)
        count = jnp.maximum(valid.sum(), 1)
        right = (logits.argmax(axis=1) == label) * valid
        value = (losses * valid).sum() / count
        even = jnp.asarray(math.log(classes), logits.dtype)
        if self.kind == "sigmoid":  # if all logits were their mean
            rows = valid[:, None]
            mean = jax.lax.stop_gradient((logits * rows).sum() / (count * classes))
            even = (
                classes * jax.nn.softplus(mean) - (target * rows).sum() / count * mean
            )
        metrics = {"accuracy": right.sum() / count}
        return value, state, {**metrics, diagnostics.UNINFORMED: even}
