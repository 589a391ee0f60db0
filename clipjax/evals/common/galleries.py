"""Who searches what in a protocol of retrieval, and which answers are right."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from clipjax.evals.common.ranking import NEAREST, Ranks, chance, rank
from clipjax.types import UserError

MAX_ANSWERS = 2**25  # numbers in a table of right answers, 256 MiB
DIRECTIONS = ("image_to_text", "text_to_image")


class Published(NamedTuple):
    """A gallery that papers report: the images of a Karpathy test split
    (arXiv:1412.2306) in its order, each with its first captions.

    folds: the images are cut into so many runs of equal length, each a gallery of its
    own.
    """

    images: int
    folds: int = 1
    captions: int = 5


PUBLISHED = {
    "coco_5k": Published(5000),
    "coco_1k_5fold": Published(5000, folds=5),
    "flickr_1k": Published(1000),
}
PROTOCOLS = ("standard", "pair_diagonal", *PUBLISHED)


class Captioned(NamedTuple):
    """n images and their m captions, an image's captions together.

    images: float32 [n e]. texts: float32 [m e]. owner: int [m], each caption's image.
    number: int [m], the caption's number among its image's, from 0.
    position: int [n], the image's among the `total` that were asked for.
    """

    images: np.ndarray
    texts: np.ndarray
    owner: np.ndarray
    number: np.ndarray
    position: np.ndarray
    total: int


class Right(NamedTuple):
    """The places of right answers; -1 fills rows with fewer.

    captions: int [n p], each image's. images: int [m q], each caption's.
    """

    captions: np.ndarray
    images: np.ndarray


class Search(NamedTuple):
    """The q queries of one direction in one gallery.

    queries: int [q], places of images or captions. owner: int [q], each query's image.
    right: int [q p], places of its right answers, as in `Right`. ranks: theirs, the
    nearest as places in all images or captions. uninformed: the ranks of a model that
    scores all answers alike. images: how many the gallery has.
    """

    queries: np.ndarray
    owner: np.ndarray
    right: np.ndarray
    ranks: Ranks
    uninformed: Ranks
    images: int


def own(data: Captioned) -> Right:
    """An image's own captions, and a caption's own image."""
    places = np.arange(len(data.owner))
    return Right(_table(data.owner, places, len(data.images)), data.owner[:, None])


def same_caption(data: Captioned, captions: list[str]) -> Right:
    """A caption is right for all images that have its words, and the other way round.

    Captions are the same if they have the same words, whatever the white space.

    captions: m texts.

    Raises UserError if so many are the same that the answers would fill the memory.
    """
    numbers: dict[str, int] = {}
    words = [" ".join(text.split()) for text in captions]
    same = np.array([numbers.setdefault(text, len(numbers)) for text in words])
    _check_room("same_caption", int(np.bincount(same).max()), len(same))
    with_text = _table(same, np.arange(len(same)), len(numbers))  # captions
    images, texts = np.divmod(np.unique(data.owner * len(numbers) + same), len(numbers))
    having = _table(texts, images, len(numbers))  # images
    right = with_text[texts]
    rows = np.repeat(images, (right >= 0).sum(axis=1))
    return Right(_table(rows, right[right >= 0], len(data.images)), having[same])


def same_image(data: Captioned, digests: list[str]) -> Right:
    """The same with images of one digest: each has the captions of all, and is right
    for them.

    digests: of each image.

    Raises UserError as `same_caption`.
    """
    _, same = np.unique(digests, return_inverse=True)
    most = int(np.bincount(same[data.owner]).max())
    _check_room("same_image", most, len(data.owner))
    images, texts = np.arange(len(same)), np.arange(len(data.owner))
    count = int(same.max()) + 1
    alike = _table(same, images, count)
    captions = _table(same[data.owner], texts, count)
    return Right(captions[same], alike[same[data.owner]])


def _check_room(option: str, most: int, queries: int) -> None:
    """Raises UserError if tables of right answers, as wide as the most, do not fit."""
    if most * queries > MAX_ANSWERS:
        raise UserError(
            f"evals=retrieval: {option}: {most:,} answers are the same, too many to "
            f"list for each of {queries:,} queries: leave {option} out, or take fewer "
            "images by max_samples"
        )


def searches(
    protocol: str, data: Captioned, right: Right, block: int
) -> dict[str, list[Search]]:
    """By direction, the searches of a protocol: one per fold.

    right: of all images and captions. pair_diagonal has its own and ignores it.
    """
    if protocol == "pair_diagonal":
        return _pair_diagonal(data, block)
    published = PUBLISHED.get(protocol, Published(0, captions=len(data.owner)))
    fold = data.position * published.folds // data.total
    taken = data.number < published.captions
    found: dict[str, list[Search]] = {name: [] for name in DIRECTIONS}
    for number in range(published.folds):
        images = np.flatnonzero(fold == number)
        captions = np.flatnonzero(taken & (fold[data.owner] == number))
        if len(images) < 2:
            raise UserError(
                f"evals=retrieval: protocol {protocol!r} has {published.folds} parts, "
                f"and {len(images)} images of part {number + 1} can be read; mend the "
                "evaluation data"
            )
        sides = {
            "image_to_text": (data.images, images, data.texts, captions),
            "text_to_image": (data.texts, captions, data.images, images),
        }
        for name, (queries, asked, answers, gallery) in sides.items():
            by_image = name == "image_to_text"
            local = np.full(len(answers) + 1, -1)  # its last place is that of -1
            local[gallery] = np.arange(len(gallery))
            rights = (right.captions if by_image else right.images)[asked]
            inside = local[rights]
            ranks = rank(
                _part(queries, asked),
                _part(answers, gallery),
                inside,
                block=block,
                nearest=NEAREST,
            )
            found[name].append(
                Search(
                    asked,
                    asked if by_image else data.owner[asked],
                    np.where(inside >= 0, rights, -1),
                    _everywhere(ranks, gallery),
                    chance((inside >= 0).sum(axis=1), len(gallery)),
                    len(images),
                )
            )
    return found


def _pair_diagonal(data: Captioned, block: int) -> dict[str, list[Search]]:
    """A copy of its image for each caption; only the pair's own partner is right."""
    pairs = np.arange(len(data.owner))
    copies = np.bincount(data.owner, minlength=len(data.images))
    uninformed = chance(np.ones(len(pairs)), len(pairs))
    texts, images = pairs[:, None], data.owner[:, None]
    to_text = rank(
        data.images[data.owner], data.texts, texts, block=block, nearest=NEAREST
    )
    to_image = rank(
        data.texts, data.images, images, copies=copies, block=block, nearest=NEAREST
    )
    sides = {
        "image_to_text": (data.owner, texts, to_text),
        "text_to_image": (pairs, images, to_image),
    }
    return {
        name: [Search(asked, data.owner, right, ranks, uninformed, len(data.images))]
        for name, (asked, right, ranks) in sides.items()
    }


def _part(rows: np.ndarray, places: np.ndarray) -> np.ndarray:
    """rows[places], without a copy if these are all."""
    return rows if len(places) == len(rows) else rows[places]


def _everywhere(ranks: Ranks, gallery: np.ndarray) -> Ranks:
    """The same with the nearest as places in all, of which `gallery` is a part."""
    nearest = ranks.nearest
    assert nearest is not None  # asked for
    return ranks._replace(nearest=np.where(nearest >= 0, gallery[nearest], -1))


def _table(rows: np.ndarray, values: np.ndarray, count: int) -> np.ndarray:
    """int [count p]: each row's distinct values, in order, then -1.

    rows, values: int, pairs of a row from 0 to count - 1 and a value of it from 0 on.
    """
    span = int(values.max()) + 1
    rows, values = np.divmod(np.unique(rows * span + values), span)
    sizes = np.bincount(rows, minlength=count)
    table = np.full((count, int(sizes.max())), -1)
    table[rows, np.arange(len(rows)) - (sizes.cumsum() - sizes)[rows]] = values
    return table
