"""Reads and checks examples in threads, for the preparation commands."""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from clipjax import paths
from clipjax.types import BadExample, Example, Source, UserError

T = TypeVar("T")
AHEAD = 8  # examples per thread that may be read ahead


@dataclasses.dataclass(frozen=True)
class Broken:
    """An unusable example, and the reason."""

    key: str
    reason: str

    def line(self) -> str:
        """`KEY<TAB>REASON` on one printable line."""
        parts = (" ".join(part.split()) for part in (self.key, self.reason))
        return paths.readable("\t".join(parts))


def each(
    source: Source,
    indices: Iterable[int],
    make: Callable[[int, Example], T],
    threads: int,
) -> Iterator[tuple[int, T | Broken]]:
    """Yields (index, make(index, example)) in the given order; threads read ahead.

    If `source` or `make` raises BadExample, a `Broken` takes the result's place.
    """

    def one(index: int) -> T | Broken:
        key = f"example {index}"
        try:
            example = source[index]
            key = example.key or key
            check(source, index, example)
            return make(index, example)
        except BadExample as error:
            return Broken(error.key or key, error.reason)

    if threads < 1:
        raise UserError(f"--threads={threads}: use 1 or more")
    waiting: collections.deque = collections.deque()
    pool = concurrent.futures.ThreadPoolExecutor(threads)
    try:
        for index in indices:
            waiting.append((index, pool.submit(one, index)))
            if len(waiting) > AHEAD * threads:
                first, future = waiting.popleft()
                yield first, future.result()
        while waiting:
            first, future = waiting.popleft()
            yield first, future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def check(source: Source, index: int, example: Example) -> None:
    """Raises BadExample if captions or labels differ from the source's declaration."""
    if not all(isinstance(caption, str) for caption in example.captions):
        raise BadExample("a caption is not text")
    declared = int(source.caption_counts[index])
    if len(example.captions) != declared:
        raise BadExample(f"it has {len(example.captions)} captions, not {declared}")
    for name, label in example.labels.items():
        known = len(source.class_names.get(name, ()))
        if not 0 <= label < known:
            raise BadExample(f"{name}={label}, but there are {known} class names")
