"""What every contrastive loss reports of a batch, whatever it minimises.

Names: image_to_text_accuracy, text_to_image_accuracy (own pair the most similar of the
batch; a tie counts as by chance), positive_similarity, negative_similarity (means of
the cosine), alignment and uniformity (arXiv 2005.10242, equations 1 and 2, of squared
distances), image_effective_rank and text_effective_rank (1: all embeddings alike).

A loss whose value is what it minimises adds UNINFORMED: its value on this batch if
every pair had the mean similarity, which is the value that training starts from.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from clipjax.losses.common import pairs
from clipjax.types import Metrics, Outputs

UNINFORMED = "uninformed_loss"
SAMPLE = 256  # rows that uniformity is measured on


def measure(
    outputs: Outputs, plan: pairs.Plan, sums: tuple[pairs.Sums, pairs.Sums] | None
) -> Metrics:
    """The metrics above, scalars without gradient.

    sums: of all pairs of the batch, if the loss has them already.
    """
    image = jax.lax.stop_gradient(outputs["image_embed"])
    text = jax.lax.stop_gradient(outputs["text_embed"])
    n, width = image.shape
    if sums is None:
        rows, columns = pairs.side(image, 1.0), pairs.side(text, 1.0)
        sums = pairs.log_sums(rows, columns, "all", plan)
    own = (image * text).sum(axis=1)
    # No product of matrices, whose default precision is not float32 everywhere.
    pair_sum = (image.sum(axis=0) * text.sum(axis=0)).sum()
    return {
        "image_to_text_accuracy": _accuracy(own, sums[0], width),
        "text_to_image_accuracy": _accuracy(own, sums[1], width),
        "positive_similarity": own.mean(),
        "negative_similarity": (pair_sum - own.sum()) / max(n * (n - 1.0), 1),
        "alignment": jnp.square(image - text).sum(axis=1).mean(),
        "image_uniformity": _uniformity(image),
        "text_uniformity": _uniformity(text),
        "image_effective_rank": _effective_rank(image),
        "text_effective_rank": _effective_rank(text),
    }


def _accuracy(
    own: Float[Array, " b"], sums: pairs.Sums, width: int
) -> Float[Array, ""]:
    # The own product, computed apart, can differ from its place in S by rounding, which
    # grows with the width.
    slack = max(4, width**0.5) * jnp.finfo(own.dtype).eps
    return jnp.mean((own >= sums.best - slack) / jnp.maximum(sums.ties, 1))


def _uniformity(embed: Float[Array, "b e"]) -> Float[Array, ""]:
    """log mean exp(-2 |x_i - x_j|^2) over pairs i != j of the first rows."""
    some = embed[:SAMPLE]
    n = some.shape[0]
    distances = 2 - 2 * pairs.products(some, some)
    if n < 2:
        return jnp.zeros((), embed.dtype)
    terms = jnp.where(jnp.eye(n, dtype=bool), 0, jnp.exp(-2 * distances))
    return jnp.log(terms.sum() / (n * (n - 1.0)))


def _effective_rank(embed: Float[Array, "b e"]) -> Float[Array, ""]:
    """(sum of eigenvalues)^2 / (sum of their squares) of the second moment."""
    moment = pairs.products(embed.T, embed.T)
    return jnp.square(jnp.trace(moment)) / jnp.square(moment).sum()
