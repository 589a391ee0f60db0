"""Which words of a text its similarity with an image depends on.

Dimensions in shape comments: b images, t texts, l tokens, e embedding.
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Bool, Float32, Int

from clipjax import option_checks
from clipjax.saliency import relevance, tower_inside
from clipjax.saliency.image_maps import plain
from clipjax.types import Model, Tokenizer, UserError, Variables

METHODS = ("chefer", "grad_eclip")  # the first is the default; docs/maps.md says why


class TextRelevance:
    """Relevances of one model's tokens and words.

    Raises UserError for a model that is not of two towers, and for a text tower without
    attention.
    """

    def __init__(self, model: Model, variables: Variables, tokenizer: Tokenizer):
        self._model, self._variables = plain(model, variables)
        self._tokenizer = tokenizer
        self._run = jax.jit(self._make, static_argnums=0)
        encode = self._encoder(self._variables, *tokenizer(["a"]))
        if not tower_inside.attention_shapes(encode):
            raise UserError("this model's text tower has no attention to look into")

    def tokens(
        self,
        texts: list[str],
        images: Float32[np.ndarray, "b e"],
        method: str = METHODS[0],
    ) -> tuple[
        Float32[np.ndarray, "b t l"], Int[np.ndarray, "t l"], Bool[np.ndarray, "t l"]
    ]:
        """The relevance of each token, its id, and whether it is one (not padding).

        images: unit-norm embeddings. method: one of METHODS.
        """
        option_checks.one_of("method", method, METHODS)
        ids, mask = self._tokenizer(texts)
        images = np.asarray(images, np.float32)
        found = self._run(method, self._variables, ids, mask, images)
        return np.asarray(found, np.float32), ids, mask

    def words(
        self,
        texts: list[str],
        images: Float32[np.ndarray, "b e"],
        method: str = METHODS[0],
    ) -> list[tuple[list[str], Float32[np.ndarray, "b w"]]]:
        """Each text's words and their shares of the words' relevance, of sum 1.

        A word's relevance is the sum over its tokens. Words beyond the context length
        have none. If no word has any, all are 0. Else as `tokens`.
        """
        values, _, _ = self.tokens(texts, images, method)
        found = []
        for text, own in zip(texts, values.swapaxes(0, 1), strict=True):
            words, ends = spans(self._tokenizer, text)
            totals = np.pad(np.cumsum(own, axis=1), ((0, 0), (1, 0)))
            shares = np.diff(totals[:, ends], axis=1)
            whole = shares.sum(axis=1, keepdims=True)
            found.append((words, shares / np.where(whole > 0, whole, 1)))
        return found

    def _make(
        self, method: str, variables: Variables, ids: Array, mask: Array, images: Array
    ) -> Array:
        encode = self._encoder(variables, ids, mask)
        targets = jax.numpy.broadcast_to(
            images[:, None], (len(images), len(ids), images.shape[-1])
        )
        _, found = tower_inside.attentions(encode, targets)
        keys = slice(0, ids.shape[1])  # before a token that the tower appends
        if method == "chefer":
            return relevance.chefer(found, keys)
        return relevance.grad_eclip(found[-1], keys)

    def _encoder(
        self, variables: Variables, ids: Any, mask: Any
    ) -> tower_inside.Encode:
        return lambda: self._model.encode_text(variables, ids, mask)["text_embed"]


def spans(tokenizer: Tokenizer, text: str) -> tuple[list[str], list[int]]:
    """A text's words, and where their tokens end: word i has the tokens from ends[i]
    to ends[i + 1].

    Words are what white space separates. Tokens that no word begins with, such as a
    start token, come before ends[0].
    """
    words = text.split()
    begun = [" ".join(words[:count]) for count in range(len(words) + 1)]
    ids, mask = tokenizer(begun)
    rows = [row[valid] for row, valid in zip(ids, mask, strict=True)]
    whole = rows[-1]
    ends = []
    for row in rows[:-1]:
        shared = min(len(row), len(whole))
        differs = np.flatnonzero(row[:shared] != whole[:shared])
        ends.append(int(differs[0]) if len(differs) else shared)
    if not ends:  # no words
        return [], [0]
    suffix = rows[0][ends[0] :]
    last = len(whole)
    if len(suffix) and np.array_equal(whole[-len(suffix) :], suffix):
        last -= len(suffix)
    ends.append(last)
    # A later word may have changed an earlier one's tokens: spans never overlap.
    ends = np.minimum(np.maximum.accumulate(ends), last).tolist()
    return words, ends
