"""DistilBERT as a text tower (arXiv 1910.01108): BERT's half, without sentence types.

load("text", "distilbert")(30_522, 64)
"""

from __future__ import annotations

from clipjax import option_checks
from clipjax.models.text import bert

POOLS = tuple(pool for pool in bert.POOLS if pool != "pooler")  # of BERT's weights


def make(
    vocab_size: int,
    context_length: int,
    *,
    width: int = 768,
    depth: int = 6,
    heads: int = 12,
    mlp_dim: int | None = None,
    max_positions: int = 512,
    pool: str = "cls",
    activation: str = "gelu",
    dropout: float = 0.1,
    remat: bool = False,
) -> bert.Bert:
    """A DistilBERT encoder; by default distilbert-base, 66,362,880 parameters.

    Args:
      vocab_size: number of token ids.
      context_length: largest number of tokens of a text; shorter batches are taken.
      width: size of the features.
      depth: number of blocks.
      heads: number of attention heads, which divides the width.
      mlp_dim: width inside the MLPs; None for 4 x width.
      max_positions: rows of the position table, 512 in published weights.
      pool: "cls" (the first token), "mean" over the text's tokens, "last" (the text's
        last token).
      activation: "gelu", "gelu_tanh" or "quick_gelu".
      dropout: rate after the embeddings and in every block.
      remat: spend compute to save memory; see layers.Transformer.

    Raises:
      UserError: as bert.make.
    """
    option_checks.one_of("model.text.pool", pool, POOLS)
    return bert.make(
        vocab_size,
        context_length,
        width=width,
        depth=depth,
        heads=heads,
        mlp_dim=mlp_dim,
        max_positions=max_positions,
        pool=pool,
        token_types=0,
        activation=activation,
        dropout=dropout,
        remat=remat,
    )
