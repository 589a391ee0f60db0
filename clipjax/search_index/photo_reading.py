"""Reads photos: for the encoder each file once, for its digest and its picture."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from typing import NamedTuple

from PIL import Image

from clipjax import paths
from clipjax.data.images import camera_formats, decoding, perceptual_hash
from clipjax.data.storage import file_contents
from clipjax.search_index.photo_table import Row
from clipjax.types import BadExample

MOST_BYTES = 2**30  # of a file: a larger one is no photo


class Photo(NamedTuple):
    """A decoded photo, as the encoder takes it."""

    image: Image.Image
    key: str


class _Unread(BadExample):
    """The disk or the permissions keep a file from being read."""


class PhotoSource(Sequence[Photo]):
    """The photos of some files, read when they are taken; threads may share it.

    `outcome` gives, once, what became of a file that was taken.
    """

    def __init__(self, names: Sequence[bytes]):
        self._names = names
        self._rows: dict[int, Row | None] = {}

    def __len__(self) -> int:
        return len(self._names)

    def outcome(self, index: int) -> Row | None:
        """The file's row, without a slot; None if the file is gone."""
        return self._rows.pop(index)

    def __getitem__(self, index: int) -> Photo:  # pyright: ignore
        """Raises BadExample for a photo that cannot be used."""
        path = self._names[index]
        row = Row(path, 0, 0)
        try:
            try:
                row, data = read(path)
            except FileNotFoundError:
                self._rows[index] = None
                raise BadExample("the file is gone") from None
            except OSError as error:
                raise _Unread(f"the file cannot be read: {error.strerror}") from error
            if not row.digest:
                raise BadExample(
                    f"the file is too large for a photo: {row.size:,} bytes"
                )
            image = picture(row.name, data)
            width, height = decoding.size(image)
        except BadExample as error:
            retry = isinstance(error, _Unread | camera_formats.NotInstalled)
            if index not in self._rows:
                self._rows[index] = row._replace(reason=error.reason, retry=retry)
            raise
        self._rows[index] = row._replace(width=width, height=height)
        return Photo(image, paths.readable(row.name))


def read(path: bytes) -> tuple[Row, bytes]:
    """A file's row with size, mtime and digest, and its content.

    A file above MOST_BYTES is not read, and has no digest. Raises OSError.
    """
    with open(path, "rb") as file:
        stat = os.fstat(file.fileno())
        row = Row(path, stat.st_size, stat.st_mtime_ns)
        if stat.st_size > MOST_BYTES:
            return row, b""
        data = file.read()
    return row._replace(digest=hashlib.blake2b(data, digest_size=16).digest()), data


def picture(name: str, data: bytes) -> Image.Image:
    """The picture of a file, decoded, its EXIF orientation not yet applied.

    Raises BadExample.
    """
    if is_raw(name):
        return camera_formats.decode_raw(data)
    found = decoding.open_picture(data)
    decoding.read(found, exif=False)  # which decodes it, and words its errors
    return found


def is_raw(name: str) -> bool:
    """Whether a file is a camera's RAW photo, by its suffix."""
    return file_contents.suffix_of(name) in camera_formats.RAW_SUFFIXES


def hashed(row: Row) -> Row:
    """The row with its photo's perceptual hash; as it is if the file has changed."""
    try:
        now, data = read(row.path)
        if now.digest != row.digest:
            return row
        value = perceptual_hash.of_picture(decoding.decode(picture(row.name, data)))
    except (BadExample, OSError):
        return row
    if value is not None and value >= 2**63:  # SQLite's integers have a sign
        value -= 2**64
    return row._replace(hash=value, hashed=True)
