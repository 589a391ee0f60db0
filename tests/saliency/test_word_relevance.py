"""Relevances of words: where a word's tokens are, and what they add up to."""

import numpy as np
import pytest
from saliency_tools import LENGTH, directions, model, variables

from clipjax import registry
from clipjax.saliency.word_relevance import TextRelevance, spans
from clipjax.types import UserError


def words(context_length=LENGTH):
    return registry.load("tokenizer", "words")(
        lambda: iter(["a red star, above the blue ring"]),
        None,
        context_length=context_length,
    )


def char(context_length=40):
    return registry.load("tokenizer", "char")(None, None, context_length=context_length)


class Reader:
    """Ids of two letters, with an end that is also the padding, as SigLIP's is."""

    vocab_size, context_length, pad_id = 1000, 12, 1

    def __call__(self, texts):
        ids = np.full((len(texts), 12), 1, np.int32)
        for row, text in zip(ids, texts, strict=True):
            parts = [
                word[i : i + 2] for word in text.split() for i in range(0, len(word), 2)
            ][:11]
            row[: len(parts)] = [2 + sum(part.encode()) for part in parts]
        lengths = (ids != 1).sum(axis=1, keepdims=True) + 1
        return ids, np.arange(12)[None] < lengths


@pytest.mark.parametrize(
    ("tokenizer", "text", "ends"),
    [
        # Start, then a token per word and mark; the end is no word's.
        (words(20), "a red star, above", [1, 2, 3, 5, 6]),
        (words(20), "", [0]),
        # Room for four tokens between start and end.
        (words(), "a red star, above the ring", [1, 2, 3, 5, 5, 5, 5]),
        (words(), "  a   red ", [1, 2, 3]),
        # A white space belongs to the word after it.
        (char(), "ab c def", [1, 3, 5, 9]),
        (Reader(), "abc d efghi", [0, 2, 3, 6]),
        (Reader(), "abcdefghijklmnop qrstuvwxyz x", [0, 8, 11, 11]),
    ],
)
def test_spans(tokenizer, text, ends):
    found, places = spans(tokenizer, text)
    assert found == text.split() and places == ends
    ids, mask = tokenizer([text])
    assert places[-1] <= mask.sum()


@pytest.fixture(scope="module")
def relevance():
    made = model(text={"depth": 2})
    return TextRelevance(made, variables(made), words())


def test_words_share_the_relevance_of_their_tokens(relevance):
    texts, images = ["a red star, above the ring", "blue", ""], directions(2)
    for method in ("grad_eclip", "chefer"):
        tokens, _, mask = relevance.tokens(texts, images, method)
        assert tokens.shape == (2, 3, LENGTH) and (tokens[:, ~mask] == 0).all()
        found = relevance.words(texts, images, method)
        parts, shares = found[0]
        assert parts == ["a", "red", "star,", "above", "the", "ring"]
        own = tokens[:, 0]
        sums = np.stack(
            [own[:, 1], own[:, 2], own[:, 3] + own[:, 4], *3 * [0 * own[:, 0]]], axis=1
        )
        expected = sums / np.maximum(sums.sum(axis=1, keepdims=True), 1e-30)
        np.testing.assert_allclose(shares, expected, atol=1e-6)
        np.testing.assert_allclose(found[1][1], 1, atol=1e-6)
        assert found[2][0] == [] and found[2][1].shape == (2, 0)


def test_relevance_differs_by_image(relevance):
    (_, shares), *_ = relevance.words(["a red star above"], directions(2))
    assert np.abs(shares[0] - shares[1]).max() > 0.01


@pytest.mark.thorough
@pytest.mark.parametrize(
    "options",
    [
        {"pool": "mean", "causal": False},
        {"pool": "last", "causal": False, "masked": False},
        {"pool": "appended"},
        {"pool": "cls", "causal": False},
    ],
    ids=lambda options: options["pool"],
)
def test_every_pool(options):
    made = model(text=options)
    found = TextRelevance(made, variables(made), words())
    for method in ("grad_eclip", "chefer"):
        tokens, _, mask = found.tokens(["a red star", "blue"], directions(2), method)
        assert tokens.shape == (2, 2, LENGTH) and np.isfinite(tokens).all()
        assert tokens[:, mask].max() > 0
        # An appended token sees one position after the text.
        if options.get("masked", True) and options["pool"] != "appended":
            assert (tokens[:, ~mask] == 0).all()


def test_an_unknown_method(relevance):
    with pytest.raises(UserError, match="'chefers': must be one of .* Did you mean"):
        relevance.words(["a"], directions(1), "chefers")
