"""Encodes a range of examples, or of texts, to the arrays and table of a part."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from clipjax import paths
from clipjax.data.images import decoding
from clipjax.data_wait import DataWait
from clipjax.embeddings.stored import LABEL
from clipjax.embeddings.text_file import TextFile
from clipjax.encoder import Encoder
from clipjax.evals.common.inputs import facts_of
from clipjax.types import Example, Source, UserError, Variables

if TYPE_CHECKING:
    import pyarrow

Progress = Callable[[int], None]  # called with the examples of the part that are done


class Part(NamedTuple):
    """What is written of a range of examples.

    arrays: by the names of embeddings.stored.array_names. table: a row per example.
    """

    arrays: dict[str, np.ndarray]
    table: pyarrow.Table


@dataclasses.dataclass(frozen=True)
class PartEncoder:
    """Encodes parts, whose bytes do not depend on what was encoded before.

    dtype: of the arrays. features: whether to keep the towers' pooled features.
    captions: whether to encode the examples' captions. label_sets: the source's.
    """

    encoder: Encoder
    variables: Variables
    dtype: str
    features: bool
    captions: bool
    label_sets: tuple[str, ...] = ()

    def compile(self, images: bool) -> None:
        """Compiles what parts need, so that it takes none of their time."""
        if images:
            blank = np.zeros(self.encoder.image_shape, np.uint8)
            self.encoder.images(self.variables, [blank], pooled=self.features)
        if self.captions:
            self.encoder.read_texts(self.variables, [""], pooled=self.features)

    def images(
        self, source: Source, rows: range, progress: Progress, wait: DataWait
    ) -> Part:
        """Encodes these examples, and their captions while images are being read.

        Raises UserError for an image that exceeds the timeout.
        """
        texts = _Texts(self)
        done = self.encoder.images(
            self.variables,
            source,
            rows,
            keep=_facts,
            progress=lambda count, _: progress(count),
            pooled=self.features,
            meanwhile=texts.add if self.captions else None,
            wait=wait,
        )
        reasons = iter(done.broken)
        found: list[dict[str, Any]] = []
        for index, facts in zip(rows, done.kept, strict=True):
            key, reason = ("", "") if facts is not None else next(reasons)
            facts = facts or {"captions": [], "labels": {}, "key": key}
            found.append({"index": index, "valid": not reason, **facts})
            found[-1]["reason"] = reason
        arrays = {"images": done.embed, "image_features": done.pooled}
        return self._part(arrays | texts.arrays(), found)

    def texts(self, file: TextFile, rows: range, progress: Progress) -> Part:
        """Encodes these lines of a file."""
        lines = [file.text_of(index) for index in rows]
        done = self.encoder.read_texts(
            self.variables,
            lines,
            skip_broken=True,
            progress=lambda count, _: progress(count),
            pooled=self.features,
        )
        found = [
            {
                "index": index,
                "key": file.key_of(index),
                "captions": [None if place in done.broken else line],
                "labels": {},
                "valid": place not in done.broken,
                "reason": done.broken.get(place, ""),
            }
            for place, (index, line) in enumerate(zip(rows, lines, strict=True))
        ]
        arrays = {"texts": done.embed, "text_features": done.pooled}
        return self._part(arrays, found)

    def _part(
        self, arrays: dict[str, np.ndarray | None], rows: list[dict[str, Any]]
    ) -> Part:
        stored = {
            name: self._stored(name, array)
            for name, array in arrays.items()
            if array is not None
        }
        return Part(stored, self._table(rows))

    def _stored(self, name: str, array: np.ndarray) -> np.ndarray:
        """The array in the dtype of the files.

        Raises UserError for numbers that float16 does not have.
        """
        if self.dtype == "float16" and (np.abs(array) > np.finfo(np.float16).max).any():
            raise UserError(
                f"--dtype=float16: {name} have numbers above 65504, its largest: use "
                "--dtype=float32"
            )
        return np.ascontiguousarray(array, self.dtype)

    def _table(self, rows: Sequence[dict[str, Any]]) -> pyarrow.Table:
        import pyarrow

        def column(of: Callable[[dict[str, Any]], Any], kind: Any) -> pyarrow.Array:
            return pyarrow.array([of(row) for row in rows], kind)

        labels = {
            f"{LABEL}{name}": column(lambda row, name=name: row["labels"].get(name), n)
            for n in (pyarrow.int64(),)
            for name in self.label_sets
        }
        text, size = pyarrow.string(), pyarrow.int32()
        return pyarrow.table(
            {
                "index": column(lambda row: row["index"], pyarrow.int64()),
                "key": column(lambda row: _unicode(row["key"]), text),
                "captions": column(
                    lambda row: [_unicode(one) for one in row["captions"]],
                    pyarrow.list_(text),
                ),
                **labels,
                "width": column(lambda row: row.get("width"), size),
                "height": column(lambda row: row.get("height"), size),
                "valid": column(lambda row: row["valid"], pyarrow.bool_()),
                "reason": column(lambda row: _unicode(row["reason"]), text),
            }
        )


class _Texts:
    """Encodes captions in full batches, as soon as there are enough of them."""

    def __init__(self, of: PartEncoder):
        self._of = of
        self._waiting: list[str | None] = []
        self._done: list[tuple[np.ndarray, np.ndarray | None]] = []

    def add(self, kept: list[dict[str, Any] | None]) -> None:
        """Takes the facts of the next examples."""
        for facts in kept:
            self._waiting += facts["captions"] if facts is not None else ()
        size = self._of.encoder.batch_size
        self._encode(len(self._waiting) // size * size)

    def arrays(self) -> dict[str, np.ndarray | None]:
        """What all captions have become."""
        if not self._of.captions:
            return {}
        if self._waiting or not self._done:  # of no captions the width is needed
            self._encode(len(self._waiting), always=True)
        embeds, pooled = zip(*self._done, strict=True)
        features = np.concatenate(pooled) if self._of.features else None
        return {"texts": np.concatenate(embeds), "text_features": features}

    def _encode(self, count: int, always: bool = False) -> None:
        if not (count or always):
            return
        now, self._waiting = self._waiting[:count], self._waiting[count:]
        found = self._of.encoder.read_texts(
            self._of.variables, now, skip_broken=True, pooled=self._of.features
        )
        self._done.append((found.embed, found.pooled))


def _facts(example: Example) -> dict[str, Any]:
    """An example's captions, labels, key and the size of its image as stored."""
    wide, high = decoding.size(example.image, exif=False)
    return {**facts_of(example), "width": wide, "height": high}


def _unicode(text: str | None) -> str | None:
    return text and paths.readable(text)
