"""What is written: images fitted to an output form, and shards of two forms.

A shard is written under another name, forced to the disk, and then renamed, so that a
file of a shard's name is whole.
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

SUFFIXES = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp"}  # read by every source


@dataclasses.dataclass(frozen=True)
class Fit:
    """How images are written.

    resize: the shortest side of larger ones, which become JPEG; 0: as they are.
    quality: of that JPEG, from 1 to 95.
    decode: decode also what is copied as it is, to find what is broken.
    everywhere: make PNG of formats other than JPEG, PNG and WebP.
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
    """A picture in a format that Pillow writes ("JPEG", "PNG")."""
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
    """A webdataset shard: INDEX.jpg, INDEX.json and, of one label set, INDEX.cls.

    The JSON holds `captions`, `key` (the example's in its source) and `labels`. The
    same examples make the same bytes.
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
    """Writes (index, example) into a shard, whole or not at all.

    Returns its metadata, None (and no file) if there are no examples.
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
