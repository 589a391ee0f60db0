"""Text transformer tower, by default in OpenAI CLIP's layout (arXiv 2103.00020, 2.4).

    load("text", "transformer")(49_408, 77, variant="B")

Dimensions in shape comments: b batch, l text length, d width.
"""

from __future__ import annotations

import jax.numpy as jnp
from flax import linen as nn
from flax.linen.dtypes import promote_dtype
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Int

from clipjax import option_checks
from clipjax.models.common import layers, text_lengths
from clipjax.types import Outputs, UserError

# The text tower that goes with a ViT of that name -> (width, depth, heads).
SIZES = {
    "Ti": (192, 12, 3),
    "S": (384, 12, 6),
    "B": (512, 12, 8),
    "L": (768, 12, 12),
    "H": (1024, 24, 16),
}
POOLS = ("eot", "mean", "last", "cls", "appended")


def make(
    vocab_size: int,
    context_length: int,
    *,
    variant: str = "B",
    width: int | None = None,
    depth: int | None = None,
    heads: int | None = None,
    mlp_dim: int | None = None,
    causal: bool = True,
    masked: bool = True,
    pool: str = "eot",
    norm_pooled: bool = False,
    post_norm: bool = False,
    norm_epsilon: float = 1e-5,
    activation: str = "gelu",
    dropout: float = 0.0,
    token_dropout: float = 0.0,
    remat: bool = False,
) -> TextTransformer:
    """A text transformer.

    Args:
      vocab_size: number of token ids.
      context_length: largest number of tokens of a text; shorter batches are taken.
      variant: the text tower of the ViT of that name: Ti, S, B, L or H.
      width, depth, heads: None takes the variant's.
      mlp_dim: width inside the MLP, None for 4 x width.
      causal: a token sees those before it only; else all tokens but the padding.
      masked: False lets padding be seen (not if causal, but by an appended token) and
        counted in the mean.
      pool: "eot" (the last token of the text), "mean" over the text's tokens, "last"
        (the last position, padding or not), "cls" (the first; not if causal),
        "appended" (a learned token after the last position, as in open_clip's CoCa).
      norm_pooled: the last normalisation is of the mean over tokens, not of each token
        before it; only with pool="mean".
      post_norm: blocks that normalise after the sums, as BERT's, not before.
      norm_epsilon: of the layer normalisations; 1e-6 in SigLIP.
      activation: "gelu", "gelu_tanh", or "quick_gelu" of OpenAI's published weights.
      dropout: rate after the embeddings and in every block.
      token_dropout: rate at which whole tokens lose their embedding, though not their
        position, in training (arXiv 1512.05287, section 4.2).
      remat: spend compute to save memory; see layers.Transformer.

    Raises:
      UserError: for an unknown variant or choice, or sizes that do not divide.
    """
    option_checks.one_of("model.text.variant", variant, SIZES)
    option_checks.one_of("model.text.pool", pool, POOLS)
    option_checks.one_of("model.text.activation", activation, layers.ACTIVATIONS)
    option_checks.in_range("model.text.dropout", dropout)
    option_checks.in_range("model.text.token_dropout", token_dropout)
    option_checks.above_zero("model.text.norm_epsilon", norm_epsilon)
    if causal and pool == "cls":
        raise UserError(
            "model.text.pool='cls': the first token of a causal tower sees only "
            "itself; set model.text.causal=False or model.text.pool=eot"
        )
    if norm_pooled and pool != "mean":
        raise UserError(f"text.norm_pooled: has no effect on model.text.pool={pool!r}")
    options = (width, depth, heads)
    d, layer_count, head_count = option_checks.sizes(
        "model.text", options, SIZES[variant]
    )
    hidden = 4 * d if mlp_dim is None else mlp_dim
    option_checks.at_least_one("model.text.mlp_dim", hidden)
    return TextTransformer(
        vocab_size=vocab_size,
        context_length=context_length,
        width=d,
        depth=layer_count,
        heads=head_count,
        hidden=hidden,
        causal=causal,
        masked=masked,
        pool=pool,
        norm_pooled=norm_pooled,
        post_norm=post_norm,
        norm_epsilon=norm_epsilon,
        activation=activation,
        dropout=dropout,
        token_dropout=token_dropout,
        remat=remat,
    )


class TextTransformer(nn.Module):
    """See `make`. Initial values: OpenAI CLIP's."""

    FREE = frozenset({"context_length", "dropout", "token_dropout", "remat"})
    # The token that is appended has parameters and a position of its own.
    FREE_ALONE = {"pool": tuple(pool for pool in POOLS if pool != "appended")}
    OPTIONS = {"hidden": "mlp_dim"}

    vocab_size: int
    context_length: int
    width: int
    depth: int
    heads: int
    hidden: int
    causal: bool
    masked: bool
    pool: str
    norm_pooled: bool
    post_norm: bool
    norm_epsilon: float
    activation: str
    dropout: float
    token_dropout: float
    remat: bool
    dtype: DTypeLike | None = None

    @property
    def padding_invariant(self) -> bool:
        """Whether padding after the text leaves the pooled features as they are."""
        unseen = self.masked or (self.causal and self.pool != "mean")
        return self.pool not in ("last", "appended") and unseen

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
        normal = nn.initializers.normal
        shape = (self.vocab_size, self.width)
        table = self.param("token_embedding", normal(0.02), shape)
        appended = self.pool == "appended"
        shape = (self.context_length + appended, self.width)
        positions = self.param("positions", normal(0.01), shape)
        table, positions = promote_dtype(table, positions, dtype=self.dtype)
        x = jnp.take(table, text, axis=0)
        drop_tokens = nn.Dropout(self.token_dropout, (2,), deterministic=not train)
        x = drop_tokens(x)
        if appended:
            token = self.param("class_token", normal(0.01), (self.width,))
            token = jnp.broadcast_to(token.astype(x.dtype)[None, None], x[:, :1].shape)
            x = jnp.concatenate([x, token], axis=1)
            # One position late, as the published weights were trained: the token sees
            # the position after a text, and sees itself only after a full text.
            seen = jnp.pad(mask, ((0, 0), (1, 0)), constant_values=True)
        else:
            seen = None if self.causal else mask
        x = x + positions[None, : x.shape[1]]
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        x = layers.Transformer(
            self.depth,
            self.heads,
            self.hidden,
            causal=self.causal,
            activation=self.activation,
            dropout=self.dropout,
            remat=self.remat,
            post_norm=self.post_norm,
            epsilon=self.norm_epsilon,
            dtype=self.dtype,
            name="transformer",
        )(x, seen if self.masked else None, train)
        norm = layers.LayerNorm(self.norm_epsilon, self.dtype, name="post_norm")
        tokens = norm(x[:, :length])
        if self.pool == "mean":
            counted = mask if self.masked else jnp.ones_like(mask)
            if self.norm_pooled:
                pooled = norm(layers.masked_mean(x, counted))
            else:
                pooled = layers.masked_mean(tokens, counted)
        else:
            index = jnp.zeros((b,), jnp.int32)
            if self.pool == "last" or appended:
                index = index + x.shape[1] - 1
            elif self.pool == "eot":
                index = text_lengths.last_token(mask)
            # Normalised apart from the tokens, which compile away if unused.
            chosen = jnp.take_along_axis(x, index[:, None, None], axis=1)
            pooled = norm(chosen[:, 0])
        return {"pooled": pooled, "tokens": tokens}
