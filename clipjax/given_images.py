"""Turns users' images into the encoder's Examples, one after another."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, ImageFile

from clipjax import paths
from clipjax.data.images import decoding
from clipjax.types import BadExample, Example, UserError

ImageLike = Image.Image | bytes | np.ndarray | str | os.PathLike | BinaryIO | Example
SINGLE = Image.Image, bytes, bytearray, str, os.PathLike, io.IOBase, Example


def one_by_one(images: Any) -> Iterator[Example]:
    """Yields an example for each image, whose key has its number and path.

    images: a list, a generator, or anything with a length and numbered elements. Each
    is taken only when the next example is asked for. Files are read in this thread,
    because two images may be one object, and open files may share one position (members
    of a tar do).

    Raises UserError if `images` is not a collection of images; while iterating,
    BadExample, naming the number, for an element that is not an image or cannot be
    read.
    """
    if isinstance(images, np.ndarray) and (
        images.ndim == 4 or images.dtype.kind in "OUS"
    ):
        raise UserError("give a list of images, not an array of them: list(images)")
    if isinstance(images, (*SINGLE, np.ndarray)):
        raise UserError("give a list of images: [image]")
    if isinstance(images, Mapping):
        raise UserError("give a list of images, not a dict: list(images.values())")
    if isinstance(images, Iterable):
        return _examples(images)
    if hasattr(images, "__getitem__") and hasattr(images, "__len__"):
        return _examples(images[i] for i in range(len(images)))
    raise UserError(f"give a list of images, not {type(images).__name__}")


def _examples(images: Iterable[Any]) -> Iterator[Example]:
    for number, image in enumerate(images):
        key = f"image {number}"
        if isinstance(image, str | os.PathLike):
            key += f" ({os.fspath(image)!r})"
        try:
            yield _example(image, key)
        except BadExample as error:
            raise BadExample(error.reason, key) from error.__cause__
        del image  # frees it before the next is taken


def _example(image: Any, key: str) -> Example:
    if isinstance(image, Example):
        return image
    if isinstance(image, str | os.PathLike):
        return Example(_file(image), key=key)
    if isinstance(image, ImageFile.ImageFile):
        try:
            decoding.read(image, exif=False)  # which also closes its file
        except BadExample:
            image.close()
            raise
    elif callable(read := getattr(image, "read", None)):
        return Example(_rest(image, read), key=key)
    return Example(image, key=key)  # pyright: ignore[reportArgumentType]


def _file(path: str | os.PathLike) -> bytes:
    name = os.fspath(path)
    try:
        return paths.given(name).read_bytes()
    except FileNotFoundError as error:
        raise BadExample("there is no such file") from error
    except (OSError, UserError) as error:  # a folder; NUL; no home
        reason = getattr(error, "strerror", None) or error
        raise BadExample(f"the file cannot be read: {reason}") from error


def _rest(file: Any, read: Any) -> bytes:
    """The content of an open file, from its beginning if it can be rewound."""
    try:
        if file.seekable():
            file.seek(0)
    except (AttributeError, OSError, ValueError):
        pass  # reads from the current position, as Pillow does
    try:
        data = read()
    except (OSError, ValueError) as error:
        raise BadExample(f"the open file cannot be read: {error}") from error
    if not isinstance(data, bytes):
        raise BadExample("the file is not open for bytes: open it with mode 'rb'")
    return data
