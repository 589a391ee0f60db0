"""Images read and decoded ahead by threads, and put together to batches."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from clipjax.data.batching.prefetch import PATIENCE, Ahead, Late, name_of
from clipjax.pulse import pulse
from clipjax.types import BadExample, UserError

AHEAD = 2  # batches that the threads may be in front of the device
TAKEN = 2  # elements for each thread, taken from what is given one by one


class Note(NamedTuple):
    """What became of an image: its place, (what was kept, None) or (key, reason)."""

    place: int
    value: Any
    reason: str | None


class ImageBatches:
    """The batches of some images: uint8 [b h w 3], iterated over once.

    Args:
      examples, indices, keep, skip_broken: see Encoder.images.
      shape: [h w 3], of what `preprocess` gives.
      rows: of each batch, that are to be filled; the others stay 0.
      threads: that read and decode. timeout: seconds, as of Encoder.

    expected: how many images there are, 0 if that is not known before.
    total: how many there were, and notes: of those in `rows`; whole at the end.
    """

    def __init__(
        self,
        examples: Any,
        indices: Sequence[int] | None,
        keep: Callable[[Any], Any] | None,
        preprocess: Callable[[Any], np.ndarray],
        *,
        shape: tuple[int, ...],
        batch_size: int,
        rows: Sequence[int],
        threads: int,
        timeout: float,
        skip_broken: bool,
    ):
        self._examples = examples
        self._keep = keep
        self._preprocess = preprocess
        self._shape = shape
        self._batch_size = batch_size
        self._rows = frozenset(rows)
        self._threads = threads
        self._timeout = timeout
        self._skip_broken = skip_broken
        # Not by [i] in all cases: a table's [i] may be a label or a column.
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

    def __iter__(self) -> Iterator[tuple[np.ndarray]]:
        """At least one batch, for the width of what is made of it.

        Raises UserError for an image that does not come in time, BadExample for a
        broken one that is not to be skipped.
        """
        read = Ahead(self._read, self._own(), threads=self._threads, depth=self._depth)
        patience, given, batch = PATIENCE, 0, self._blank()
        last = max(self._rows)
        try:
            while (found := self._take(read)) is not None:
                pixels, note = found
                if note.reason is not None and not self._skip_broken:
                    raise BadExample(note.reason, note.value)
                self.notes.append(note)
                row = note.place % self._batch_size
                if pixels is not None:
                    batch[row] = pixels
                if row == last:
                    yield (batch,)
                    given, batch = given + 1, self._blank()
            while given * self._batch_size < max(self.total, 1):
                yield (batch,)
                given, batch = given + 1, self._blank()
        except Late:
            patience = 0.0
            raise UserError(
                f"{self._awaited()} has not been read for {self._timeout:g} s "
                f"(data.timeout): see whether the place of the data answers and start "
                f"again, or give a longer data.timeout (0: no limit)"
            ) from None
        finally:
            read.close(patience)

    def _own(self) -> Iterator[tuple[int, Any]]:
        """(place, element or number) of the images in `rows`; counts all."""
        for place, job in enumerate(self._jobs):
            self.total = place + 1
            if place % self._batch_size in self._rows:
                yield place, job

    def _take(self, read: Ahead) -> tuple[np.ndarray | None, Note] | None:
        try:
            with pulse.bounded():
                return read.take(self._timeout)
        except StopIteration:
            return None

    def _awaited(self) -> str:
        """What to call the first image of `rows` that no note is of."""
        place = self.notes[-1].place + 1 if self.notes else 0
        while place % self._batch_size not in self._rows:
            place += 1
        if self._in_turn:
            return f"example {place}"
        return name_of(self._examples, self._jobs[place])

    def _blank(self) -> np.ndarray:
        return np.zeros((self._batch_size, *self._shape), np.uint8)

    def _read(self, own: tuple[int, Any]) -> tuple[np.ndarray | None, Note]:
        """The pixels, None of a broken image, and what became of it."""
        place, job = own
        key = f"example {place if self._in_turn else job}"
        try:
            example = job if self._in_turn else self._examples[job]
            key = getattr(example, "key", "") or key
            value = None if self._keep is None else self._keep(example)
            pixels = self._preprocess(getattr(example, "image", example))
        except BadExample as error:
            return None, Note(place, error.key or key, error.reason)
        if pixels.shape != self._shape or pixels.dtype != np.uint8:
            raise ValueError(
                f"preprocess gave {pixels.dtype} {list(pixels.shape)} for {key}, not "
                f"uint8 {list(self._shape)}"
            )
        return pixels, Note(place, value, None)
