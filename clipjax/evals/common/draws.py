"""Random parts of labelled images, the same for every model."""

from __future__ import annotations

import numpy as np


def held_out(labels: np.ndarray, share: float, seed: int) -> np.ndarray:
    """bool [n]: a share of each class, by a seed.

    Of a class of several images at least one is held out and one is not; of a class of
    one image none is.

    Args:
      labels: int [n] from 0.
    """
    ranks, counts = _places_in_class(labels, np.random.default_rng(seed))
    numbers = np.clip(np.rint(counts * share), 1, np.maximum(counts - 1, 1))
    numbers[counts < 2] = 0
    return ranks < numbers[labels]


def shots(labels: np.ndarray, seed: int) -> np.ndarray:
    """int [n]: each image's place in a random order of its class.

    The images below s are a draw of s per class, or of all of a class that has fewer;
    larger draws hold the smaller ones.

    Args:
      labels: int [n] from 0.
    """
    return _places_in_class(labels, np.random.default_rng(seed))[0]


def _places_in_class(
    labels: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    order = rng.permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    counts = np.bincount(labels)
    starts = np.repeat(np.cumsum(counts) - counts, counts)
    places = np.empty(len(labels), np.int64)
    places[order] = np.arange(len(labels)) - starts
    return places, counts
