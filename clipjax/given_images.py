"""What users give as images, made what the encoder takes, one after another."""

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


def one_by_one(given: Any) -> Iterator[Example]:
    """Yields an example for each image, whose key tells its number, and its path.

    given: a list, a generator, or anything with a length and numbered elements. An
    image is taken when the one before has been, and no sooner. Files are read here and
    not by threads, since two images may be one object, and open files may share one
    position (members of a tar do).

    Raises UserError for what is no collection of images; later BadExample, naming the
    number, for an image that is none and for a file that cannot be read.
    """
    if isinstance(given, np.ndarray) and (given.ndim == 4 or given.dtype.kind in "OUS"):
        raise UserError("give a list of images, not an array of them: list(images)")
    if isinstance(given, (*SINGLE, np.ndarray)):
        raise UserError("give a list of images: [image]")
    if isinstance(given, Mapping):
        raise UserError("give a list of images, not a dict: list(images.values())")
    if isinstance(given, Iterable):
        return _examples(given)
    if hasattr(given, "__getitem__") and hasattr(given, "__len__"):
        return _examples(given[i] for i in range(len(given)))
    raise UserError(f"give a list of images, not {type(given).__name__}")


def _examples(given: Iterable[Any]) -> Iterator[Example]:
    for number, image in enumerate(given):
        key = f"image {number}"
        if isinstance(image, str | os.PathLike):
            key += f" ({os.fspath(image)!r})"
        try:
            yield _example(image, key)
        except BadExample as error:
            raise BadExample(error.reason, key) from error.__cause__
        del image  # or it would live until the next is taken


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
        pass  # as it stands, as Pillow does
    try:
        data = read()
    except (OSError, ValueError) as error:
        raise BadExample(f"the open file cannot be read: {error}") from error
    if not isinstance(data, bytes):
        raise BadExample("the file is not open for bytes: open it with mode 'rb'")
    return data
