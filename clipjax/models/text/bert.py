"""BERT as a text tower (arXiv 1810.04805), in the published architecture.

    load("text", "bert")(30_522, 64, variant="base")

RoBERTa and XLM-RoBERTa (arXiv 1907.11692, 1911.02116) are this tower with
max_positions=514, first_position=2, token_types=1, norm_epsilon=1e-5.

Dimensions in shape comments: b batch, l text length, d width.
"""

from __future__ import annotations

import jax.numpy as jnp
from flax import linen as nn
from flax.linen.dtypes import promote_dtype
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from clipjax import option_checks
from clipjax.models.common import layers, text_lengths
from clipjax.types import Outputs, UserError

# Size -> (width, depth, heads); the small ones are those of arXiv 1908.08962.
SIZES = {
    "tiny": (128, 2, 2),
    "mini": (256, 4, 4),
    "small": (512, 4, 8),
    "medium": (512, 8, 8),
    "base": (768, 12, 12),
    "large": (1024, 24, 16),
}
POOLS = ("cls", "mean", "last", "pooler")
STD = 0.02  # of all initial values


def make(
    vocab_size: int,
    context_length: int,
    *,
    variant: str = "base",
    width: int | None = None,
    depth: int | None = None,
    heads: int | None = None,
    mlp_dim: int | None = None,
    max_positions: int = 512,
    first_position: int = 0,
    pool: str = "cls",
    token_types: int = 2,
    norm_epsilon: float = 1e-12,
    activation: str = "gelu",
    dropout: float = 0.1,
    remat: bool = False,
) -> Bert:
    """A BERT encoder.

    Args:
      vocab_size: number of token ids.
      context_length: largest number of tokens of a text; shorter batches are taken.
      variant: tiny, mini, small, medium, base or large.
      width, depth, heads: None takes the variant's.
      mlp_dim: width inside the MLPs; None for 4 x width.
      max_positions: rows of the position table, 512 in published weights.
      first_position: row of the position table that a text's first token takes; 2 in
        RoBERTa, whose rows before it belong to padding.
      pool: "cls" (the first token), "mean" over the text's tokens, "last" (the text's
        last token), "pooler" (a dense layer and tanh over the first token).
      token_types: rows of the table of sentence types, of which the first is used; 0
        for none, as in DistilBERT.
      norm_epsilon: of the layer normalisations.
      activation: "gelu", "gelu_tanh" or "quick_gelu".
      dropout: rate after the embeddings and in every block.
      remat: spend compute to save memory; see layers.Transformer.

    Raises:
      UserError: for an unknown variant or choice, or sizes that do not fit.
    """
    option_checks.one_of("model.text.variant", variant, SIZES)
    option_checks.one_of("model.text.pool", pool, POOLS)
    option_checks.one_of("model.text.activation", activation, layers.ACTIVATIONS)
    option_checks.in_range("model.text.dropout", dropout)
    option_checks.above_zero("model.text.norm_epsilon", norm_epsilon)
    options = (width, depth, heads)
    d, layer_count, head_count = option_checks.sizes(
        "model.text", options, SIZES[variant]
    )
    hidden = 4 * d if mlp_dim is None else mlp_dim
    option_checks.at_least_one("model.text.mlp_dim", hidden)
    if first_position < 0:
        raise UserError(
            f"model.text.first_position={first_position}: must be at least 0"
        )
    if first_position + context_length > max_positions:
        less = f" less first_position={first_position}" if first_position else ""
        raise UserError(
            f"context_length={context_length}: must be at most "
            f"model.text.max_positions={max_positions}{less}"
        )
    if token_types < 0:
        raise UserError(f"model.text.token_types={token_types}: must be at least 0")
    return Bert(
        vocab_size=vocab_size,
        context_length=context_length,
        width=d,
        depth=layer_count,
        heads=head_count,
        hidden=hidden,
        max_positions=max_positions,
        first_position=first_position,
        pool=pool,
        token_types=token_types,
        epsilon=norm_epsilon,
        activation=activation,
        dropout=dropout,
        remat=remat,
    )


class Bert(nn.Module):
    """See `make`."""

    FREE = frozenset({"context_length", "max_positions", "dropout", "remat"})
    FREE_ALONE = {"pool": POOLS}  # a missing pooler is reported by its name
    OPTIONS = {"hidden": "mlp_dim", "epsilon": "norm_epsilon"}

    vocab_size: int
    context_length: int
    width: int
    depth: int
    heads: int
    hidden: int
    max_positions: int
    first_position: int
    pool: str
    token_types: int
    epsilon: float
    activation: str
    dropout: float
    remat: bool
    dtype: DTypeLike | None = None

    padding_invariant = True

    @nn.compact
    def __call__(
        self, text: Int[Array, "b l"], mask: Bool[Array, "b l"], train: bool
    ) -> Outputs:
        """Encodes ids with their mask, true on tokens.

        An id outside the vocabulary gives NaN. A row without any token gives finite
        numbers without meaning.

        Returns "pooled" [b d], and "tokens" [b l d] of which only those under the mask
        mean something.

        Raises UserError if l exceeds the context length.
        """
        b, length = text.shape
        text_lengths.check_length(length, self.context_length)

        def table(name: str, rows: int) -> Float[Array, "{rows} d"]:
            values = self.param(name, nn.initializers.normal(STD), (rows, self.width))
            return promote_dtype(values, dtype=self.dtype)[0]

        x = jnp.take(table("token_embedding", self.vocab_size), text, axis=0)
        first = self.first_position
        positions = table("positions", self.max_positions)
        x = x + positions[None, first : first + length]
        if self.token_types:
            x = x + table("token_types", self.token_types)[None, :1]
        x = layers.LayerNorm(self.epsilon, self.dtype, name="pre_norm")(x)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        tokens = layers.Transformer(
            self.depth,
            self.heads,
            self.hidden,
            activation=self.activation,
            dropout=self.dropout,
            remat=self.remat,
            post_norm=True,
            epsilon=self.epsilon,
            dtype=self.dtype,
            name="transformer",
        )(x, mask, train)
        if self.pool == "mean":
            pooled = layers.masked_mean(tokens, mask)
        elif self.pool == "last":
            index = text_lengths.last_token(mask)[:, None, None]
            pooled = jnp.take_along_axis(tokens, index, axis=1)[:, 0]
        else:
            pooled = tokens[:, 0]
        if self.pool == "pooler":
            dense = layers.Dense(self.width, STD, dtype=self.dtype, name="pooler")
            pooled = jnp.tanh(dense(pooled))
        return {"pooled": pooled, "tokens": tokens}
