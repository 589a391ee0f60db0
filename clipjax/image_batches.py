"""Reads and decodes images ahead in threads, and joins them to batches."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from clipjax import batch_sizes
from clipjax.data.batching.prefetch import PATIENCE, Ahead, Late, name_of
from clipjax.pulse import pulse
from clipjax.types import BadExample, UserError

AHEAD = 2  # batches that the threads may be ahead of the device
TAKEN = 2  # elements per thread that are taken ahead from an iterable


class Note(NamedTuple):
    """The outcome of an image: its place, and (kept value, None) or (key, reason)."""

    place: int
    value: Any
    reason: str | None


class ImageBatches:
    """The batches of some images: uint8 [b h w 3], iterated over once.

    Args:
      examples, indices, keep, alter: see Encoder.images.
      shape: [h w 3], the shape that `preprocess` returns.
      sizes: of a batch, ascending. All batches have the last, but those that hold the
        last images.
      rows: the rows of each batch to fill; the others stay 0.
      threads: how many read and decode. timeout: seconds, as in Encoder.
      skip_broken: False ends the iteration before the first broken image.

    expected: the number of images, 0 if it is not known in advance.
    total: the number of images in the batches; notes: the outcomes of those in `rows`;
      error: the outcome that ended the iteration. They are complete after it.
    """

    def __init__(
        self,
        examples: Any,
        indices: Sequence[int] | None,
        keep: Callable[[Any], Any] | None,
        preprocess: Callable[[Any], np.ndarray],
        *,
        shape: tuple[int, ...],
        sizes: Sequence[int],
        rows: Sequence[int],
        threads: int,
        timeout: float,
        skip_broken: bool,
        alter: Callable[[str, np.ndarray], np.ndarray] | None = None,
    ):
        self._examples = examples
        self._keep = keep
        self._preprocess = preprocess
        self._shape = shape
        self._sizes = sizes
        self._batch_size = sizes[-1]
        self._rows = frozenset(rows)
        self._threads = threads
        self._timeout = timeout
        self._skip_broken = skip_broken
        self._alter = alter
        # Not always by [i], because a table's [i] may be a label or a column.
        self._in_turn = (
            indices is None
            and isinstance(examples, Iterable)
            and not isinstance(examples, Sequence)
        )
        self._jobs: Any = examples
        if self._in_turn:
            self.expected = operator.length_hint(examples)
            self._depth = TAKEN * threads  # elements may be large, or open files
        else:
            self._jobs = range(len(self._jobs)) if indices is None else list(indices)
            self.expected = len(self._jobs)
            self._depth = AHEAD * len(rows)
        self.total = 0
        self.notes: list[Note] = []
        self.error: Note | None = None

    def __iter__(self) -> Iterator[tuple[np.ndarray]]:
        """Raises UserError for an image that exceeds the timeout."""
        read = Ahead(
            self._read, self._own_jobs(), threads=self._threads, depth=self._depth
        )
        patience, yielded, batch = PATIENCE, 0, self.blank(self._batch_size)[0]
        last = max(self._rows)
        try:
            while (item := self._take(read)) is not None:
                pixels, note = item
                if note.reason is not None and not self._skip_broken:
                    self.error, self.total = note, note.place
                    break
                self.notes.append(note)
                row = note.place % self._batch_size
                if pixels is not None:
                    batch[row] = pixels
                if row == last:
                    yield (batch,)
                    yielded, batch = yielded + 1, self.blank(self._batch_size)[0]
            left = self.total - yielded * self._batch_size
            for start, size in batch_sizes.split(left, self._sizes):
                yield (batch[start : start + size],)
        except Late:
            patience = 0.0
            raise UserError(
                f"{self._awaited()} has not been read for {self._timeout:g} s "
                f"(data.timeout): check that the data can be read and start "
                "again, or set a longer data.timeout (0: no limit)"
            ) from None
        finally:
            read.close(patience)

    def _own_jobs(self) -> Iterator[tuple[int, Any]]:
        """Yields (place, element or number) of the images in `rows`; counts all."""
        for place, job in enumerate(self._jobs):
            self.total = place + 1
            if place % self._batch_size in self._rows:
                yield place, job

    def _take(self, read: Ahead) -> tuple[np.ndarray | None, Note] | None:
        try:
            with pulse.pause():
                return read.take(self._timeout)
        except StopIteration:
            return None

    def _awaited(self) -> str:
        """The name of the first image in `rows` that has no note yet."""
        place = self.notes[-1].place + 1 if self.notes else 0
        while place % self._batch_size not in self._rows:
            place += 1
        if self._in_turn:
            return f"example {place}"
        return name_of(self._examples, self._jobs[place])

    def blank(self, size: int) -> tuple[np.ndarray]:
        """A batch of padding."""
        return (np.zeros((size, *self._shape), np.uint8),)

    def _read(self, place_and_job: tuple[int, Any]) -> tuple[np.ndarray | None, Note]:
        """An image's pixels, None if it is broken, and its note."""
        place, job = place_and_job
        key = f"example {place if self._in_turn else job}"
        try:
            example = job if self._in_turn else self._examples[job]
            if isinstance(example, BadExample):
                return None, Note(place, example.key or key, example.reason)
            key = getattr(example, "key", "") or key
            value = None if self._keep is None else self._keep(example)
            pixels = self._preprocess(getattr(example, "image", example))
        except BadExample as error:
            return None, Note(place, error.key or key, error.reason)
        if pixels.shape != self._shape or pixels.dtype != np.uint8:
            raise ValueError(
                f"preprocess returned {pixels.dtype} {list(pixels.shape)} for {key}, "
                f"not uint8 {list(self._shape)}"
            )
        if self._alter is not None:
            pixels = self._alter(key, pixels)
        return pixels, Note(place, value, None)
