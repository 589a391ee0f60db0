"""Stored embeddings as evaluators take them: of examples, and of known texts."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from clipjax.embeddings.stored import LABEL, Embeddings, Rows
from clipjax.types import UserError

_NORMED = 4096  # rows at once


class Examples(NamedTuple):
    """embed: float32 [n e]. pooled: float32 [n d], None if not asked for or not stored.
    facts: as inputs.facts_of, None of a broken example. why: its key and the reason.
    """

    embed: np.ndarray
    pooled: np.ndarray | None
    facts: list[dict[str, Any] | None]
    why: list[tuple[str, str]]


class StoredRows:
    """Rows of stored embeddings as float32, of unit norm again if they are embeddings.

    folder: where they are, for messages.
    """

    def __init__(self, stored: Embeddings, folder: str):
        self._stored = stored
        self._folder = folder
        self._unit = stored.header.image_output == "image_embed"

    def check_pooled(self, side: str) -> None:
        """Raises UserError if a side's embeddings are stored without pooled features.

        side: "image" or "text".
        """
        embeds = getattr(self._stored, f"{side}s")
        if embeds is not None and getattr(self._stored, f"{side}_features") is None:
            raise UserError(
                f"{self._folder} has no features before the projection of its {side}s, "
                "which an evaluator needs: make it with --outputs embed,features"
            )

    def examples(self, indices: Sequence[int], pooled: bool = False) -> Examples:
        """The stored rows of these examples of the source.

        pooled: whether to read the features before projection too.
        """
        assert self._stored.images is not None  # texts alone are refused before
        places = np.asarray(indices, np.int64)
        labels = [n for n in self._stored.table.column_names if n.startswith(LABEL)]
        columns = ["key", "captions", "valid", "reason", *labels]
        table = self._stored.table.select(columns).take(places).to_pylist()
        facts = [
            {
                "captions": row["captions"],
                "labels": {
                    name.removeprefix(LABEL): row[name]
                    for name in labels
                    if row[name] is not None
                },
                "key": row["key"],
            }
            if row["valid"]
            else None
            for row in table
        ]
        return Examples(
            _float32(self._stored.images, places, self._unit),
            _features(self._stored.image_features if pooled else None, places),
            facts,
            [(row["key"], row["reason"]) for row in table],
        )

    def texts(
        self, texts: Sequence[str], pooled: bool = False
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """(bool [m], which texts are stored; the embeddings and, if `pooled`, features
        before projection of those, float32 [k e] and [k d]).
        """
        found = [self._places.get(text, -1) for text in texts]
        places = np.array(found, np.int64)
        known = places >= 0
        if self._stored.texts is None:
            return known, np.zeros((0, 0), np.float32), None
        embed = _float32(self._stored.texts, places[known], True)
        features = self._stored.text_features if pooled else None
        return known, embed, _features(features, places[known])

    @functools.cached_property
    def _places(self) -> dict[str, int]:
        """Each stored caption -> its row."""
        if self._stored.texts is None:
            return {}
        captions = self._stored.table["captions"].combine_chunks().flatten()
        places = {text: place for place, text in enumerate(captions.to_pylist())}
        places.pop(None, None)  # of what is no text
        return places


def _features(rows: Rows | None, places: np.ndarray) -> np.ndarray | None:
    return None if rows is None else _float32(rows, places, False)


def _float32(rows: Rows, places: np.ndarray, unit: bool) -> np.ndarray:
    found = rows[places].astype(np.float32, copy=False)
    for start in range(0, len(found) * unit, _NORMED):
        part = found[start : start + _NORMED]
        norms = np.linalg.norm(part, axis=-1, keepdims=True)
        part /= np.where(norms > 0, norms, 1)
    return found
