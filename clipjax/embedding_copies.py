"""Images of one folder of stored embeddings that are like those of another."""

from __future__ import annotations

import os
from typing import NamedTuple

import numpy as np

from clipjax import identity
from clipjax.embeddings import header as headers
from clipjax.embeddings.stored import Embeddings, read_embeddings
from clipjax.evals.common.neighbours import unit
from clipjax.evals.common.ranking import MAX_SIMILARITIES
from clipjax.types import UserError

MOST_PAIRS = 1_000_000
_ROWS = 8192  # of the other folder at once


class SimilarPair(NamedTuple):
    """An image, one like it in the other folder, and their cosine."""

    key: str
    other_key: str
    cosine: float


def find_similar(
    embeddings: str | os.PathLike,
    against: str | os.PathLike,
    *,
    min_cosine: float,
) -> list[SimilarPair]:
    """The pairs of images whose embeddings have at least this cosine.

    Unlike the hashes of `prepare verify --against`, embeddings may find mirrored and
    cropped copies, if the model takes these for alike, but also different images of
    like content. Broken images, and embeddings that are not finite, are in no pair.

    Args:
      embeddings, against: folders that `python -m clipjax.embed` has written, such as
        of test and of training images.
      min_cosine: above 0 and below 1. What copies have depends on the model: look at
        the pairs. Cosines of float16 embeddings err by about 0.001.

    Returns the pairs in the order of the first folder, an image's most similar first.
    Only the first folder's embeddings are held in memory.

    Raises UserError for folders of other models or of the same data, for texts and
    logits, and for more than a million pairs.

    >>> clipjax.find_similar("embedded", "embedded", min_cosine=0.9)
    Traceback (most recent call last):
    clipjax.types.UserError: embedded and embedded are of the same data...
    """
    if not 0 < min_cosine < 1:
        raise UserError(f"min_cosine={min_cosine}: use a number above 0 and below 1")
    ours, theirs = _open(embeddings), _open(against)
    identity.check(theirs.header.model, ours.header.model, os.fspath(against))
    if not headers.data_differences(theirs.header.data, ours.header.data):
        raise UserError(
            f"{embeddings} and {against} are of the same data: give those of training "
            "data as `against`"
        )
    assert ours.images is not None and theirs.images is not None
    mine, kept = unit(np.asarray(ours.images, np.float32)), _usable(ours)
    mine, places = mine[kept], np.flatnonzero(kept)
    other_kept, found, count = _usable(theirs), [], 0
    rows = max(1, min(_ROWS, MAX_SIMILARITIES // max(len(mine), 1)))
    for start in range(0, len(theirs.images), rows):
        block = unit(theirs.images[start : start + rows].astype(np.float32))
        similar = mine @ block.T
        similar[:, ~other_kept[start : start + rows]] = -1
        here, there = np.nonzero(similar >= min_cosine)  # NaN is in no pair
        count += len(here)
        if count > MOST_PAIRS:
            raise UserError(
                f"min_cosine={min_cosine}: more than {MOST_PAIRS:,} pairs have it: "
                "give a higher one"
            )
        found.append((places[here], there + start, similar[here, there]))
    here, there, cosines = (np.concatenate(part) for part in zip(*found, strict=True))
    order = np.lexsort((there, -cosines, here))
    names = [stored.table["key"].to_pylist() for stored in (ours, theirs)]
    return [
        SimilarPair(names[0][here[at]], names[1][there[at]], float(cosines[at]))
        for at in order.tolist()
    ]


def _open(folder: str | os.PathLike) -> Embeddings:
    """Raises UserError unless a folder has embeddings of images."""
    stored = read_embeddings(folder)
    if stored.images is None or stored.header.image_output != "image_embed":
        what = "a file of texts" if stored.images is None else "a classifier (logits)"
        raise UserError(
            f"{folder} is of {what}: make embeddings of images by python -m "
            "clipjax.embed --data=NAME with a model of images and texts"
        )
    return stored


def _usable(stored: Embeddings) -> np.ndarray:
    """bool [n], whether an example could be read."""
    return stored.table["valid"].to_numpy()
