"""Choices between captions of an image, and who chooses the right one how often."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from clipjax.evals.common.caption_words import bag
from clipjax.evals.common.text_likelihood import Bigrams

_NUMBERS_AT_ONCE = 2**21  # float64 numbers of a block of embeddings, 16 MiB


class Choice(NamedTuple):
    """place: of the image among those that are evaluated. query: the choice's id.
    captions: two or more, the right one first. group, counted: as of OwnChoice.
    """

    place: int
    query: int
    captions: tuple[str, ...]
    group: str = ""
    counted: bool = False


class Flat(NamedTuple):
    """The captions of n choices, one after another.

    sizes, starts: int [n], how many each choice has, and where its right one is.
    owners: int [t], each caption's choice. texts: [t].
    """

    sizes: np.ndarray
    starts: np.ndarray
    owners: np.ndarray
    texts: list[str]


def flat(choices: Sequence[Choice]) -> Flat:
    """The captions of choices, one after another."""
    sizes = np.array([len(choice.captions) for choice in choices], np.int64)
    return Flat(
        sizes,
        sizes.cumsum() - sizes,
        np.repeat(np.arange(len(sizes)), sizes),
        [text for choice in choices for text in choice.captions],
    )


def hits(scores: np.ndarray, made: Flat) -> np.ndarray:
    """float64 [n] in [0, 1]: how likely each choice is right, if the caption of the
    highest score is taken, one of those that tie at random.

    A score that is not finite is below all others; a right caption without a finite
    score is never taken.

    Args:
      scores: float [t], of the captions.
    """
    scores = np.where(np.isfinite(scores), scores, -np.inf)
    right = scores[made.starts]
    count = len(made.sizes)
    above = np.bincount(made.owners, scores > right[made.owners], minlength=count)
    alike = np.bincount(made.owners, scores == right[made.owners], minlength=count)
    return np.where((above == 0) & np.isfinite(right), 1 / np.maximum(alike, 1), 0.0)


def similarities(
    images: np.ndarray, texts: np.ndarray, image_at: np.ndarray, text_at: np.ndarray
) -> np.ndarray:
    """float64 [t]: the inner products of images[image_at] and texts[text_at].

    Equal embeddings have equal products: the sums are in float64 and in one order.

    Args:
      images: float32 [n e]. texts: float32 [m e]. image_at, text_at: int [t].
    """
    found = np.empty(len(image_at))
    rows = max(1, _NUMBERS_AT_ONCE // max(images.shape[1], 1))
    with np.errstate(invalid="ignore", over="ignore"):  # NaN and inf stay
        for start in range(0, len(found), rows):
            part = slice(start, start + rows)
            products = images[image_at[part]].astype(np.float64)
            products *= texts[text_at[part]]
            found[part] = products.sum(axis=1)
    return found


def order_blind(choices: Sequence[Choice]) -> np.ndarray:
    """float64 [t], a score per caption: 1 if it has the words of the right one, as
    often, in any order, else 0. `hits` of it is the ceiling of a model that is blind to
    word order and otherwise always right.
    """
    found = []
    for choice in choices:
        right, *others = map(bag, choice.captions)
        found += [1.0, *(float(other == right) for other in others)]
    return np.array(found)


def likelihoods(
    choices: Sequence[Choice], pictures: np.ndarray, model: Bigrams
) -> np.ndarray:
    """float64 [t], a score per caption without the image: its log likelihood.

    pictures: int [n], of each place the number of its image in the model.
    """
    texts = [
        (int(pictures[own.place]), text) for own in choices for text in own.captions
    ]
    # Picture by picture, because the model counts a picture's own captions once then.
    asked = sorted(set(texts))
    found = {(at, text): model.log_likelihood(text, at) for at, text in asked}
    return np.array([found[key] for key in texts])
