"""Answers a query from an open index."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from clipjax.loaded import Loaded
from clipjax.search_index import photo_reading, vector_file
from clipjax.search_index.nearest_photos import Limit, nearest
from clipjax.search_index.photo_table import Photos, Row
from clipjax.search_index.query_parts import Part
from clipjax.search_index.vector_file import Vectors
from clipjax.types import BadExample, UserError


class Hit(NamedTuple):
    """A photo, its cosine to the query, and the least match probability of the query's
    positive texts; None without a cut-off, and for a query that is not of texts.
    """

    row: Row
    cosine: float
    probability: float | None

    @property
    def there(self) -> bool:
        return os.path.lexists(self.row.path)


class Answer(NamedTuple):
    """hits: the best first. best: without the threshold, if that left none. searched:
    how many photos.
    """

    hits: list[Hit]
    best: Hit | None
    searched: int


def embed(clip: Loaded, parts: Sequence[Part]) -> np.ndarray:
    """float64 [parts e], of unit norm. Raises UserError for an image that is broken."""
    found = np.zeros((len(parts), clip.embed_dim))
    texts = [at for at, part in enumerate(parts) if part.image is None]
    if texts:
        found[texts] = clip.encode_text([parts[at].words for at in texts])
    for at, part in enumerate(parts):
        if part.image is None:
            continue
        try:
            row, data = photo_reading.read(os.fsencode(part.image))
            picture = photo_reading.picture(row.name, data)
            found[at] = clip.encode_image(picture)
        except (BadExample, OSError) as error:
            why = getattr(error, "reason", None) or getattr(error, "strerror", error)
            raise UserError(f"{part.image} cannot be used: {why}") from error
    return found


def combined(embeds: np.ndarray, parts: Sequence[Part]) -> np.ndarray:
    """float64 [e], the parts' weighted sum, of unit norm.

    Raises UserError if they cancel out.
    """
    total = np.array([part.weight for part in parts]) @ embeds
    norm = np.linalg.norm(total)
    if not norm > 1e-6:
        raise UserError("the query's parts cancel out: nothing is left to look for")
    return total / norm


def answer(
    table: Photos,
    clip: Loaded,
    parts: Sequence[Part],
    *,
    top: int,
    threshold: float | None = None,
    prior: float = 0.5,
) -> Answer:
    """The photos most like a query.

    Args:
      clip: the index's model.
      threshold: only photos that match each positive text with at least this
        probability, and each negative one with less.
      prior: as `Loaded.match_probability` takes it.

    Raises UserError if a threshold is given and the model has no cut-off or a part is
    an image, and as `embed` and `combined` do.
    """
    words_only = all(part.image is None for part in parts)
    if threshold is not None:
        clip.cutoff.checked(prior)
        if not words_only:
            raise UserError(
                "--threshold judges texts, and the query has an image: leave it out"
            )
    judged = words_only and clip.cutoff.sigmoid is not None
    embeds = embed(clip, parts)
    query = combined(embeds, parts)

    def probability(vector: np.ndarray) -> float | None:
        if not judged:
            return None
        likely = [
            float(clip.cutoff.checked(prior).probability(vector @ one, prior))
            for one, part in zip(embeds, parts, strict=True)
            if part.weight > 0
        ]
        return min(likely, default=None)

    def hits(count: int, limits: Sequence[Limit]) -> list[Hit]:
        found = find(table, query, count, limits)
        return [Hit(row, cosine, probability(vector)) for row, cosine, vector in found]

    limits = []
    if threshold is not None:
        limits = _limits(clip, embeds, parts, threshold, prior)
    found = hits(top, limits)
    best = None if found or not limits else next(iter(hits(1, ())), None)
    return Answer(found, best, table.counts()[0])


class Found(NamedTuple):
    """A photo, its cosine to a query, and its vector, float64 [e]."""

    row: Row
    cosine: float
    vector: np.ndarray


def find(
    table: Photos, query: np.ndarray, count: int, limits: Sequence[Limit] = ()
) -> list[Found]:
    """The photos nearest to a vector of unit norm, the best first.

    Raises UserError if vectors are missing.
    """
    place = vector_file.beside(table.place)
    with Vectors(place, len(query)) as vectors, table.snapshot():
        end, holes = table.end(), table.holes()
        if len(vectors) < end:
            raise UserError(
                f"{place} has {len(vectors):,} of {end:,} vectors: index the photos "
                "again, which makes the others anew"
            )
        mapped = vectors.mapped(end)
        found = nearest(mapped, query, count, holes=holes, limits=limits)
        slots = found.slots.tolist()
        rows = table.of_slots(slots)
        return [
            Found(rows[slot], cosine, mapped[slot].astype(np.float64))
            for slot, cosine in zip(slots, found.cosines.tolist(), strict=True)
        ]


def _limits(
    clip: Loaded,
    embeds: np.ndarray,
    parts: Sequence[Part],
    threshold: float,
    prior: float,
) -> list[Limit]:
    """A threshold as limits of cosines.

    Raises UserError for a cut-off by which likelier pairs are less alike.
    """
    fit = clip.cutoff.checked(prior)
    if not fit.slope > 0:
        raise UserError(
            f"the cut-off of {clip.cutoff.origin} has no use: with it, pairs of larger "
            "cosine match less often"
        )
    odds = np.log(threshold / (1 - threshold)) - np.log(prior / (1 - prior))
    cosine = float((odds - fit.intercept) / fit.slope)
    return [
        Limit(one, low=cosine) if part.weight > 0 else Limit(one, high=cosine)
        for one, part in zip(embeds, parts, strict=True)
    ]
