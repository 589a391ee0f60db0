"""Winoground's three scores of a pair of images and captions (arXiv 2204.03162).

Similarities are [n 2 2]: of n pairs, each caption (first axis) with each image.
"""

from __future__ import annotations

import itertools

import numpy as np

TEXT, IMAGE, GROUP = "text_score", "image_score", "group_score"
# Of similarities in a random order: the right ones are the larger of either two, or the
# two largest of four.
CHANCES = {TEXT: 1 / 4, IMAGE: 1 / 4, GROUP: 1 / 6}

Scores = dict[str, np.ndarray]  # name -> float64 [n] in [0, 1]


def strict(similarities: np.ndarray) -> Scores:
    """The scores as published: each right similarity is larger than the wrong one.

    text_score: each image is more similar to its own caption than to the other one.
    image_score: each caption is more similar to its own image. group_score: both.
    A similarity that is not finite is below all others, and a pair with a right one
    that is not finite has no score.
    """
    values, usable = _usable(similarities)
    return _scores(values[:, :, :, None, None] > values[:, None, None], usable)


def random_ties(similarities: np.ndarray) -> Scores:
    """The expected scores if similarities that tie are put in a random order.

    A model that scores all alike gets CHANCES.
    """
    values, usable = _usable(similarities)
    larger = values[:, :, :, None, None] > values[:, None, None]
    alike = values[:, :, :, None, None] == values[:, None, None]
    orders = [np.reshape(x, (2, 2)) for x in itertools.permutations(range(4))]
    each = [
        _scores(larger | (alike & (order[:, :, None, None] > order)), usable)
        for order in orders
    ]
    return {name: np.mean([found[name] for found in each], axis=0) for name in CHANCES}


def _usable(similarities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    finite = np.isfinite(similarities)
    usable = finite[:, 0, 0] & finite[:, 1, 1]
    return np.where(finite, similarities, -np.inf), usable


def _scores(above: np.ndarray, usable: np.ndarray) -> Scores:
    """above: bool [n 2 2 2 2], whether the similarity of the first caption and image
    is larger than that of the second.
    """
    text = usable & above[:, 0, 0, 1, 0] & above[:, 1, 1, 0, 1]
    image = usable & above[:, 0, 0, 0, 1] & above[:, 1, 1, 1, 0]
    found = {TEXT: text, IMAGE: image, GROUP: text & image}
    return {name: values.astype(np.float64) for name, values in found.items()}
