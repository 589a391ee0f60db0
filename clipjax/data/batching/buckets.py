"""Texts padded to the shortest of a few lengths that holds a whole global batch.

Captions are far shorter than the context of most text towers, and a step computes what
padding it is given. The lengths of all captions are counted once, before training, so
that the bucket of a step is a function of its plan and all hosts agree on it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from clipjax.types import BadExample, Source, Tokenizer, UserError

LEAST = 4  # a frame and a token or two
AT_ONCE = 1024  # captions tokenized together


@dataclasses.dataclass(frozen=True)
class Buckets:
    """See `make`. sizes: ascending. first: where an example's captions begin in tokens,
    which has the length of each caption of the source.
    """

    sizes: tuple[int, ...]
    first: np.ndarray
    tokens: np.ndarray

    def size(self, chosen: Iterable[tuple[int, int]]) -> int:
        """The bucket that holds the captions (example, caption) of a global batch."""
        longest = max(int(self.tokens[self.first[i] + c]) for i, c in chosen)
        return next(size for size in self.sizes if size >= longest)

    def shorten(
        self, rows: Iterable[dict[str, Any]], chosen: Iterable[tuple[int, int]]
    ) -> None:
        """Cuts "text" and "text_mask" [l] of rows to the bucket of what was chosen.

        A text that replaced a shorter one loses ids, but not its last.
        """
        size = self.size(chosen)
        for row in rows:
            ids, length = row["text"], int(row["text_mask"].sum())
            if length > size:
                ids = np.concatenate([ids[: size - 1], ids[length - 1 : length]])
            row["text"], row["text_mask"] = ids[:size], row["text_mask"][:size]


def check(sizes: Sequence[int], context_length: int) -> tuple[int, ...]:
    """The buckets of data.text_buckets, the whole context among them.

    Raises UserError for sizes that are no ascending numbers within the context.
    """
    if any(not isinstance(size, int) for size in sizes):
        raise UserError(f"data.text_buckets={sizes}: give numbers of tokens")
    found = (*sizes, context_length)
    if sizes[0] < LEAST or any(a >= b for a, b in zip(found, found[1:], strict=False)):
        raise UserError(
            f"data.text_buckets={tuple(sizes)}: give ascending lengths from {LEAST} to "
            f"below the tokenizer's context_length={context_length}"
        )
    return found


def make(sizes: Sequence[int], source: Source, tokenizer: Tokenizer) -> Buckets:
    """Counts the tokens of all captions of a source; reads no image.

    Raises UserError for bad sizes, and a source that cannot give captions alone.
    """
    whole = check(sizes, tokenizer.context_length)
    read = getattr(source, "captions_of", None)
    if read is None:
        raise UserError(
            f"data.text_buckets: {type(source).__module__} cannot give captions "
            "without their images; leave it empty"
        )
    counts = np.asarray(source.caption_counts, np.int64)
    first = np.cumsum(counts) - counts
    # A broken example counts as short: what replaces it is cut to the bucket.
    tokens = np.zeros(int(counts.sum()), np.uint16)
    texts: list[str] = []
    places: list[int] = []

    def count() -> None:
        if texts:
            tokens[places] = tokenizer(texts)[1].sum(axis=1)
        texts.clear()
        places.clear()

    for i in np.flatnonzero(counts):
        try:
            captions = read(int(i))
        except BadExample:
            continue
        for number, caption in enumerate(captions[: counts[i]]):
            if isinstance(caption, str):
                texts.append(caption)
                places.append(int(first[i]) + number)
        if len(texts) >= AT_ONCE:
            count()
    count()
    return Buckets(whole, first, tokens)
