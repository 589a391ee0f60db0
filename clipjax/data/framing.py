"""What the readers of released tokenizers share: framing rows, texts as UTF-8."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from clipjax.data import text
from clipjax.types import UserError


@dataclasses.dataclass(frozen=True)
class Frame:
    """The ids that stand before, after and beyond those of a text."""

    prefix: tuple[int, ...]
    suffix: tuple[int, ...]
    pad: int

    def least(self) -> int:
        """The shortest context: the frame and one token."""
        return len(self.prefix) + len(self.suffix) + 1

    def pack(
        self, rows: Sequence[Sequence[int]], context_length: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Frames rows of ids, cuts and pads them.

        Returns ids int32 [b context_length] and the mask bool, true on a text and its
        frame. A row that is too long loses its last ids, never the suffix; of a row
        without any id the first padding counts as one, since a row may not be empty.
        """
        room = context_length - len(self.prefix) - len(self.suffix)
        ids = np.full((len(rows), context_length), self.pad, np.int32)
        mask = np.zeros((len(rows), context_length), bool)
        for i, row in enumerate(rows):
            framed = [*self.prefix, *row[:room], *self.suffix]
            ids[i, : len(framed)] = framed
            mask[i, : max(1, len(framed))] = True
        return ids, mask


def encodable(caption: str) -> str:
    """A caption as UTF-8 can hold it: halves of surrogate pairs become "?".

    Raises BadExample for what is no str.
    """
    text.check(caption)
    return caption.encode("utf-8", "replace").decode("utf-8")


def library(module: str, tokenizer: str) -> Any:
    """Imports a library of the `text` extra; raises UserError where it is missing."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(
            f"tokenizer {tokenizer} needs the {module} library: "
            f"pip install clipjax[text]"
        ) from error


def given(path: str, tokenizer: str, what: str) -> str:
    """The option `path`; raises UserError where it is not set."""
    if not path:
        raise UserError(
            f"tokenizer {tokenizer}: no file is given: set {what} with "
            f"--config.data.tokenizer.path=FILE"
        )
    return path


def damaged(tokenizer: str) -> str:
    """The complaint about a saved state, which the cause follows in brackets."""
    return (
        f"the saved state of tokenizer {tokenizer} is damaged: restore the run's "
        f"tokenizer.json"
    )
