"""Text buckets: each global batch is padded to the shortest bucket that holds it.

Captions are far shorter than most text towers' context, and a step computes padding
too. `make` counts all captions' tokens once, before training, so that a step's bucket
is a function of its plan and all hosts agree on it.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from clipjax.types import BadExample, Source, Tokenizer, UserError

LEAST = 4  # the frame and one or two tokens
AT_ONCE = 1024  # captions tokenized together


@dataclasses.dataclass(frozen=True)
class Buckets:
    """The buckets and all captions' lengths; see `make`.

    sizes: bucket lengths, ascending. tokens: length per caption of the source. first:
    index in `tokens` of each example's first caption.
    """

    sizes: tuple[int, ...]
    first: np.ndarray
    tokens: np.ndarray

    def size(self, chosen: Iterable[tuple[int, int]]) -> int:
        """The smallest bucket that holds a global batch's (example, caption) pairs."""
        longest = max(int(self.tokens[self.first[i] + c]) for i, c in chosen)
        return next(size for size in self.sizes if size >= longest)

    def shorten(
        self, rows: Iterable[dict[str, Any]], chosen: Iterable[tuple[int, int]]
    ) -> None:
        """Truncates "text" and "text_mask" [l] in rows to the bucket of `chosen`.

        A text that replaced a shorter one may lose ids, but never its last.
        """
        size = self.size(chosen)
        for row in rows:
            ids, length = row["text"], int(row["text_mask"].sum())
            if length > size:
                ids = np.concatenate([ids[: size - 1], ids[length - 1 : length]])
            row["text"], row["text_mask"] = ids[:size], row["text_mask"][:size]


def check(sizes: Sequence[int], context_length: int) -> tuple[int, ...]:
    """Returns the sizes in data.text_buckets, followed by the context_length.

    Raises UserError unless they are ascending integers below the context_length.
    """
    if any(not isinstance(size, int) for size in sizes):
        raise UserError(f"data.text_buckets={sizes}: give numbers of tokens")
    all_sizes = (*sizes, context_length)
    ascending = all(a < b for a, b in itertools.pairwise(all_sizes))
    if sizes[0] < LEAST or not ascending:
        raise UserError(
            f"data.text_buckets={tuple(sizes)}: give ascending lengths from {LEAST} to "
            f"below the tokenizer's context_length={context_length}"
        )
    return all_sizes


def make(sizes: Sequence[int], source: Source, tokenizer: Tokenizer) -> Buckets:
    """Counts the tokens in all captions of a source; reads no image.

    Raises UserError for bad sizes, and for a source that cannot give captions alone.
    """
    all_sizes = check(sizes, tokenizer.context_length)
    read = getattr(source, "captions_of", None)
    if read is None:
        raise UserError(
            f"data.text_buckets: {type(source).__module__} cannot give captions "
            "without their images; leave it empty"
        )
    counts = np.asarray(source.caption_counts, np.int64)
    first = np.cumsum(counts) - counts
    # Broken examples count as 0 tokens; their replacements are truncated to the bucket.
    tokens = np.zeros(int(counts.sum()), np.uint16)
    texts: list[str] = []
    positions: list[int] = []

    def count() -> None:
        if texts:
            tokens[positions] = tokenizer(texts)[1].sum(axis=1)
        texts.clear()
        positions.clear()

    for i in np.flatnonzero(counts):
        try:
            captions = read(int(i))
        except BadExample:
            continue
        for number, caption in enumerate(captions[: counts[i]]):
            if isinstance(caption, str):
                texts.append(caption)
                positions.append(int(first[i]) + number)
        if len(texts) >= AT_ONCE:
            count()
    count()
    return Buckets(all_sizes, first, tokens)
