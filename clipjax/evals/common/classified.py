"""Labelled images and what their scores for classes are made of."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from clipjax.evals.common.inputs import Seen
from clipjax.evals.common.ranking import Ranks, finite, rank, rank_scores


@dataclasses.dataclass(frozen=True)
class Classified:
    """The n images that have a label in a set of c classes.

    names: of the classes. seen: the images read. places: int64 [n], theirs among these.
    labels: int [n], class numbers.
    outputs: float32 [m c], the scores of all images read, or embeddings [m e] whose
      products with `classes`, float32 [c e], are. Use `scores` and `ranks`.
    told: what else to say about the set.
    """

    label_set: str
    names: Sequence[str]
    seen: Seen
    places: np.ndarray
    labels: np.ndarray
    outputs: np.ndarray
    classes: np.ndarray | None = None
    told: str = ""

    @property
    def keys(self) -> list[str]:
        """Of the n images."""
        return [self.seen.keys[place] for place in self.places]

    @property
    def size(self) -> str:
        """How much there is, in words."""
        return f"{len(self.labels)} images, {len(self.names)} classes{self.told}"

    def finite(self) -> np.ndarray:
        """bool [n], whether all of an image's scores are finite."""
        if self.classes is not None and not finite(self.classes).all():
            return np.zeros(len(self.labels), bool)
        return finite(self.outputs[self.places])

    def scores(self, taken: np.ndarray) -> np.ndarray:
        """float32 [q c] of the images at these places, of int [q]."""
        outputs = self.outputs[self.places[taken]]
        return outputs if self.classes is None else outputs @ self.classes.T

    def ranks(self, nearest: int) -> Ranks:
        """The right classes', with `nearest` of the best."""
        outputs = self.outputs[self.places]
        if self.classes is None:
            return rank_scores(outputs, self.labels, nearest=nearest)
        return rank(outputs, self.classes, self.labels[:, None], nearest=nearest)


class Reading(NamedTuple):
    """seen: the images read. sets: by label set."""

    seen: Seen
    sets: list[Classified]
