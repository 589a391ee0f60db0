"""Tokenizes texts a batch at a time, and pads them to few sizes and lengths."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from clipjax import batch_sizes
from clipjax.data.text.cleaning import check
from clipjax.types import BadExample, Tokenizer


class TextBatches:
    """The batches of some texts: ids int32 [b l], mask bool [b l]; iterated over once.

    Args:
      texts: taken a batch at a time, so that a generator may yield any number. One that
        is a BadExample, or not a str, is broken.
      sizes: of a batch, ascending. lengths: of its texts, ascending; the last is the
        tokenizer's context_length, and the only one if there are none.
      rows: the rows of each batch that this process tokenizes; the others are padding.
      skip_broken: False ends the iteration before the first broken text.

    expected: the number of texts, 0 if it is not known in advance.
    total: the number of texts taken; broken: place -> the reason; error: what
      ended the iteration. They are complete after it.
    """

    def __init__(
        self,
        texts: Iterable[Any],
        tokenizer: Tokenizer,
        *,
        sizes: Sequence[int],
        lengths: Sequence[int],
        rows: Sequence[int],
        skip_broken: bool,
    ):
        self._texts = texts
        self._tokenizer = tokenizer
        self._sizes = sizes
        self._lengths = lengths
        self._rows = rows
        self._skip_broken = skip_broken
        self.expected = operator.length_hint(texts)
        self.total = 0
        self.broken: dict[int, BadExample] = {}
        self.error: BadExample | None = None

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        texts = iter(self._texts)
        while self.error is None:
            chunk = self._checked(itertools.islice(texts, self._sizes[-1]))
            if not chunk:
                return
            self.total += len(chunk)
            own = [row for row in self._rows if row < len(chunk)]
            tokens = self._tokenizer([chunk[row] for row in own]) if own else None
            for start, size in batch_sizes.split(len(chunk), self._sizes):
                ids, mask = self.blank(size)
                inside = [i for i, row in enumerate(own) if start <= row < start + size]
                if tokens is not None:
                    places = [own[i] - start for i in inside]
                    ids[places], mask[places] = tokens[0][inside], tokens[1][inside]
                length = self._length(mask)
                yield ids[:, :length], mask[:, :length]

    def blank(self, size: int) -> tuple[np.ndarray, np.ndarray]:
        """A batch of padding.

        An empty text has a valid token; a row of padding alone might divide by 0.
        """
        ids, mask = self._tokenizer([""])
        return ids.repeat(size, 0), mask.repeat(size, 0)

    def _checked(self, texts: Iterable[Any]) -> list[str]:
        """The texts, "" for broken ones, up to the one that ends the iteration."""
        found = []
        for place, text in enumerate(texts, self.total):
            try:
                if isinstance(text, BadExample):
                    raise text
                check(text)
            except BadExample as error:
                self.broken[place] = error
                if not self._skip_broken:
                    self.error = error
                    break
                text = ""
            found.append(text)
        return found

    def _length(self, mask: np.ndarray) -> int:
        """The shortest length that loses no token of these."""
        if not self._lengths:
            return mask.shape[1]
        used = np.flatnonzero(mask.any(axis=0))
        longest = int(used[-1]) + 1 if len(used) else 1
        return next(length for length in self._lengths if length >= longest)
