"""Right and wrong pairs of images and captions, in two halves of the images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

HALVES = ("fit", "measured")


class Pairs(NamedTuple):
    """n pairs of an image and a caption, ordered by image.

    image, caption: int [n], their places. match: bool [n], whether the caption is the
    image's own. half: int [n], of HALVES; no image, nor its captions, are in both.
    cell: int [n] from 0, the group of images that the pair is made of. Pairs of
    different cells share neither image nor caption.
    """

    image: np.ndarray
    caption: np.ndarray
    match: np.ndarray
    half: np.ndarray
    cell: np.ndarray

    def of(self, taken: np.ndarray) -> Pairs:
        """Those that a bool [n] marks."""
        return Pairs(*(column[taken] for column in self))


def make_pairs(
    units: np.ndarray,
    owner: np.ndarray,
    captions: Sequence[str],
    others: int,
    seed: int,
) -> Pairs:
    """All right pairs, and each image with the captions of `others` images.

    The images are put in a random order, and its halves are cut into cells of
    others + 1 images, the last one of up to twice as many but one. All pairs inside a
    cell are taken, unless image and caption are of copies of one image, or the caption
    has the words of one of the image's own, whatever the white space.

    Args:
      units: int [n] from 0, each image's number, the same for copies of an image; each
        half of the distinct ones has others + 1 or more.
      owner: int [m], each caption's image, in order. captions: the m texts.
    """
    cell, half = _cells(int(units.max()) + 1, others + 1, seed)
    cell, half = cell[units], half[units]  # by image
    by_cell = np.argsort(cell[owner], kind="stable")  # captions
    sizes = np.bincount(cell[owner])
    starts = sizes.cumsum() - sizes
    counts = sizes[cell]  # captions of each image's cell
    image = np.repeat(np.arange(len(units)), counts)
    within = np.arange(len(image)) - np.repeat(counts.cumsum() - counts, counts)
    caption = by_cell[starts[cell[image]] + within]

    numbers: dict[str, int] = {}
    words = [" ".join(text.split()) for text in captions]
    text = np.array([numbers.setdefault(own, len(numbers)) for own in words])
    having = np.unique(units[owner] * len(numbers) + text)
    fits = np.isin(units[image] * len(numbers) + text[caption], having)
    match = owner[caption] == image
    kept = match | ~fits
    image, caption, match = image[kept], caption[kept], match[kept]
    return Pairs(image, caption, match, half[image], cell[image])


def _cells(count: int, size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """int [count] each: every image's cell, numbered through, and its half."""
    order = np.random.default_rng(seed).permutation(count)
    cell, half = np.empty((2, count), np.int64)
    first = 0
    for number, part in enumerate(np.array_split(order, len(HALVES))):
        cells = len(part) // size
        cell[part] = first + np.minimum(np.arange(len(part)) // size, cells - 1)
        half[part] = number
        first += cells
    return cell, half
