"""What encoding returns: embeddings, and what could not be encoded."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from clipjax.types import BadExample


class Images(NamedTuple):
    """The result of encoding n images.

    embed: float32 [n e], of unit norm (of a classifier: logits), and zeros if not
      valid.
    valid: bool [n], false if the image could not be read or decoded.
    kept: n values of `keep`, None if not valid.
    broken: the key of each image that is not valid, and the reason.
    pooled: float32 [n d], the tower's features before projection, zeros if not valid;
      None unless requested.
    """

    embed: np.ndarray
    valid: np.ndarray
    kept: list[Any]
    broken: list[tuple[str, str]]
    pooled: np.ndarray | None = None


class Texts(NamedTuple):
    """What became of n texts.

    embed: float32 [n e], of unit norm, and zeros if broken.
    broken: place of each text that cannot be used -> the reason.
    pooled: float32 [n d], the tower's features before projection; None unless asked
      for.
    """

    embed: np.ndarray
    broken: dict[int, str]
    pooled: np.ndarray | None = None


class Stopped(BadExample):
    """An image or text is broken, and broken ones are not skipped.

    place: its number. rows: float32 [place e], what was encoded before it.
    """

    def __init__(self, reason: str, key: str, place: int, rows: np.ndarray):
        super().__init__(reason, key)
        self.place = place
        self.rows = rows
