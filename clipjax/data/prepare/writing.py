"""Fits images to an output form, and writes shards in two forms.

Shards are written atomically: under another name, synced to disk, then renamed. So a
file with a shard's name is complete.
"""

from __future__ import annotations

import dataclasses
import io
import json
import pathlib
import tarfile
from collections.abc import Callable, Iterable
from typing import Protocol

import numpy as np
from PIL import Image

from clipjax import atomic_files
from clipjax.data.containers import record_shards
from clipjax.data.images import decoding
from clipjax.types import Example, UserError

# Pillow's format -> suffix, for the formats that every source reads.
SUFFIXES = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp"}


@dataclasses.dataclass(frozen=True)
class Fit:
    """How images are written.

    resize: larger images become JPEGs with this shortest side; 0: no resizing.
    quality: those JPEGs' quality, from 1 to 95.
    decode: also decode images that are copied unchanged, to find broken ones.
    everywhere: write formats other than JPEG, PNG and WebP as PNG.
    """

    resize: int = 0
    quality: int = 95
    decode: bool = True
    everywhere: bool = False

    def __post_init__(self):
        if self.resize < 0:
            raise UserError(f"--resize={self.resize}: give pixels, or 0 for none")
        if not 1 <= self.quality <= 95:
            raise UserError(f"--quality={self.quality}: must be from 1 to 95")

    def __call__(self, example: Example) -> Example:
        """The example with its image as encoded bytes; raises BadExample."""
        return dataclasses.replace(example, image=self._image(example.image))

    def _image(self, image: bytes | np.ndarray) -> bytes:
        wide, high = decoding.size(image)
        if self.resize and min(wide, high) > self.resize:
            scale = self.resize / min(wide, high)
            size = max(1, round(wide * scale)), max(1, round(high * scale))
            small = decoding.decode(image).resize(size, Image.Resampling.BICUBIC)
            return encode(small, "JPEG", quality=self.quality)
        if isinstance(image, np.ndarray):
            return encode(decoding.decode(image), "PNG")
        if self.everywhere and decoding.format_of(image) not in SUFFIXES:
            return encode(decoding.decode(image), "PNG")
        if self.decode:
            decoding.decode(image)
        return image


def encode(picture: Image.Image, form: str, **options: int) -> bytes:
    """Encodes a picture in a format that Pillow writes ("JPEG", "PNG")."""
    stream = io.BytesIO()
    picture.save(stream, form, **options)
    return stream.getvalue()


class Writer(Protocol):
    """Writes the examples of one shard."""

    def write(self, index: int, example: Example) -> None: ...

    def close(self) -> None: ...


class RecordWriter:
    """An ArrayRecord file; see clipjax/data/containers/record_shards.py."""

    def __init__(self, path: pathlib.Path):
        self._writer = record_shards.writer(path)

    def write(self, index: int, example: Example) -> None:
        self._writer.write(record_shards.encode(example))

    def close(self) -> None:
        """Raises OSError if something could not be written."""
        try:
            self._writer.close()
        except RuntimeError as error:
            raise OSError(str(error).partition(";")[0]) from error


class TarWriter:
    """A webdataset shard: INDEX.jpg, INDEX.json and, for one label set, INDEX.cls.

    The JSON has `captions`, `key` (the example's key in its source) and `labels`. Equal
    examples give equal bytes.
    """

    def __init__(self, path: pathlib.Path, label_set: str = ""):
        self._tar = tarfile.open(path, "w", format=tarfile.USTAR_FORMAT)
        self._label_set = label_set

    def write(self, index: int, example: Example) -> None:
        assert isinstance(example.image, bytes)
        suffix = SUFFIXES[decoding.format_of(example.image)]
        fields = {"captions": list(example.captions), "key": example.key}
        if example.labels:
            fields["labels"] = dict(example.labels)
        self._add(f"{index:09d}{suffix}", example.image)
        text = json.dumps(fields, ensure_ascii=False)
        self._add(f"{index:09d}.json", text.encode("utf-8", "backslashreplace"))
        if self._label_set in example.labels:
            label = example.labels[self._label_set]
            self._add(f"{index:09d}.cls", str(label).encode())

    def close(self) -> None:
        self._tar.close()

    def _add(self, name: str, data: bytes) -> None:
        member = tarfile.TarInfo(name)
        member.size = len(data)
        self._tar.addfile(member, io.BytesIO(data))


def write_shard(
    path: pathlib.Path,
    make: Callable[[pathlib.Path], Writer],
    examples: Iterable[tuple[int, Example]],
) -> record_shards.Shard | None:
    """Writes (index, example) pairs into a shard atomically.

    Returns its metadata; without examples, writes no file and returns None.
    """
    scratch = path.with_name(path.name + ".tmp")
    counts = []
    writer: Writer | None = None
    try:
        for index, example in examples:
            if writer is None:
                writer = make(scratch)
            writer.write(index, example)
            counts.append(len(example.captions))
    finally:
        if writer is not None:
            writer.close()
    if writer is None:
        return None
    atomic_files.sync(scratch)
    digest = atomic_files.digest(scratch)
    scratch.replace(path)
    size = path.stat().st_size
    return record_shards.Shard(
        path.name, len(counts), record_shards.runs(counts), size, digest
    )
