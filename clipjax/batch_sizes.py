"""The few sizes that batches are padded to, each of which is compiled once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

STEP = 8
TEXT_LENGTHS = 8, 16, 32


def below(batch_size: int) -> tuple[int, ...]:
    """The smaller sizes for what does not fill a batch: 1, 8, 64, ...

    >>> below(64)
    (1, 8)
    """
    sizes = []
    size = 1
    while size < batch_size:
        sizes.append(size)
        size *= STEP
    return tuple(sizes)


def split(count: int, sizes: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yields (first row, size) of the batches that hold `count` rows; only the last is
    padded.

    sizes: ascending; the last is at least `count`. A batch that would be less than half
    full is split into smaller ones, because its padding would cost more than they do.

    >>> list(split(20, (1, 8, 64)))
    [(0, 8), (8, 8), (16, 8)]
    """
    start = 0
    while start < count:
        left = count - start
        place = next(i for i, size in enumerate(sizes) if size >= left)
        if place and 2 * left < sizes[place]:
            place -= 1
        yield start, sizes[place]
        start += sizes[place]


def lengths(longest: int) -> tuple[int, ...]:
    """The lengths that texts are padded to: 8, 16, 32 and the longest.

    >>> lengths(77)
    (8, 16, 32, 77)
    """
    return (*(length for length in TEXT_LENGTHS if length < longest), longest)
