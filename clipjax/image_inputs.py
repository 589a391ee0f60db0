"""Turns the images of a call into the encoder's Examples, one after another."""

from __future__ import annotations

import io
import operator
import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, BinaryIO

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image, ImageFile

from clipjax import paths
from clipjax.data.images import decoding
from clipjax.types import BadExample, Example, UserError

ImageLike = (
    Image.Image
    | bytes
    | np.ndarray
    | jax.Array
    | str
    | os.PathLike
    | BinaryIO
    | Example
)
SINGLE = (
    *(Image.Image, bytes, bytearray, memoryview, str, os.PathLike, io.IOBase),
    Example,
)
# Held while a picture or file that threads may share is read: reading changes it.
_SHARED = threading.Lock()


class Images:
    """The examples of some images, each read when it is taken; iterated over once.

    images: one image, or several: a list, a generator, an array [n h w c], or anything
    with a length and numbered elements. Files are read in the thread that iterates,
    because two images may be one object, and open files may share one position (members
    of a tar do).

    single: whether `images` is one image.

    An example's key has its number and path. In place of an image that cannot be read,
    the iterator gives a BadExample.

    Raises UserError if `images` is not a collection of images.
    """

    def __init__(self, images: Any):
        if isinstance(images, jax.Array):
            images = np.asarray(images)
        is_array = isinstance(images, np.ndarray)
        numbers = is_array and images.dtype.kind not in "OUS"
        if numbers and images.ndim not in (2, 3, 4):
            raise UserError(
                f"an array of shape {list(images.shape)} is no image [h w 3] and no "
                "images [n h w 3]"
            )
        self.single = (
            isinstance(images, SINGLE)
            or hasattr(images, "read")
            or (numbers and images.ndim < 4)
            or (is_array and images.ndim == 0)
        )
        if self.single:
            images = [images.item() if is_array and not numbers else images]
        if isinstance(images, Mapping):
            raise UserError("give a list of images, not a dict: list(images.values())")
        if not isinstance(images, Iterable):
            if not (hasattr(images, "__getitem__") and hasattr(images, "__len__")):
                raise UserError(
                    f"give an image or a list of images, not {type(images).__name__}"
                )
            images = _Numbered(images)
        self._images = images

    def __length_hint__(self) -> int:
        return operator.length_hint(self._images)

    def __iter__(self) -> Iterator[Example | BadExample]:
        for number, image in enumerate(self._images):
            key = "the image" if self.single else f"image {number}"
            if isinstance(image, str | os.PathLike):
                key += f" ({str(os.fsdecode(image))!r})"
            try:
                found = _example(image, key)
            except BadExample as error:
                found = BadExample(error.reason, key)
            yield found
            del image, found  # frees them before the next is taken


class _Numbered:
    """Iterates over what has a length and numbered elements, and no iterator."""

    def __init__(self, images: Any):
        self._images = images

    def __len__(self) -> int:
        return len(self._images)

    def __iter__(self) -> Iterator[Any]:
        for i in range(len(self._images)):
            yield self._images[i]


def _example(image: Any, key: str) -> Example:
    if isinstance(image, Example):
        return image
    if isinstance(image, str | os.PathLike):
        return Example(_file(image), key=key)
    if isinstance(image, jax.Array):
        image = np.asarray(image)
    if isinstance(image, Image.Image):
        _load(image)
    elif isinstance(image, np.ndarray):
        image = _pixels(image)
    elif callable(read := getattr(image, "read", None)):
        return Example(_rest(image, read), key=key)
    elif not isinstance(image, bytes | bytearray | memoryview):
        raise BadExample(
            "give a path, encoded bytes, an open file, a PIL image or an array "
            f"[h w 3], not {type(image).__name__}"
        )
    return Example(image, key=key)  # pyright: ignore[reportArgumentType]


def _load(image: Image.Image) -> None:
    """Reads a picture's pixels and EXIF, so that later reads do not change it."""
    with _SHARED:
        if isinstance(image, ImageFile.ImageFile):
            try:
                decoding.read(image, exif=False)  # which also closes its file
            except BadExample:
                image.close()
                raise
        else:
            image.load()
        decoding.orientation(image)


def _pixels(array: np.ndarray) -> np.ndarray:
    """Floats in [0, 1] as uint8; other arrays as they are, for `decoding` to judge."""
    # The floats of jax's own types have the kind "V".
    if array.dtype.kind not in "fV" or not array.size or array.ndim not in (2, 3):
        return array
    try:
        values = np.rint(array.astype(np.float32) * 255)
    except (TypeError, ValueError):  # a record
        return array
    low, high = values.min() / 255, values.max() / 255
    if not (low >= 0 and high <= 1):  # also if it is NaN
        raise BadExample(
            f"an image's floats must be in [0, 1], and these are from {low:g} to "
            f"{high:g}: scale them, or give uint8"
        )
    return values.astype(np.uint8)


def _file(path: str | os.PathLike) -> bytes:
    name = os.fsdecode(path)
    try:
        return paths.expand(name).read_bytes()
    except FileNotFoundError as error:
        raise BadExample("there is no such file") from error
    except (OSError, UserError) as error:  # a folder; NUL; no home
        reason = getattr(error, "strerror", None) or error
        raise BadExample(f"the file cannot be read: {reason}") from error


def _rest(file: Any, read: Any) -> bytes:
    """The content of an open file, from its beginning if it can be rewound."""
    if isinstance(file, io.TextIOBase):
        raise BadExample("the file is not open for bytes: open it with mode 'rb'")
    try:
        with _SHARED:  # never for long: what can be rewound does not wait for others
            if file.seekable():
                file.seek(0)
                return _content(read)
    except (AttributeError, OSError, ValueError):
        pass  # reads from the current position, as Pillow does
    return _content(read)


def _content(read: Any) -> bytes:
    try:
        data = read()
    except io.UnsupportedOperation as error:
        raise BadExample("the file is not open for reading: mode 'rb'") from error
    except (OSError, ValueError) as error:
        raise BadExample(f"the open file cannot be read: {error}") from error
    if not isinstance(data, bytes):
        raise BadExample("the file is not open for bytes: open it with mode 'rb'")
    return data


def pixels(given: Any, shape: tuple[int, ...]) -> jax.Array:
    """Preprocessed images for jax, [s s 3] or [n s s 3]; also a tracer.

    shape: the model's [s s 3]. Raises UserError for another shape, and for what is no
    array of uint8 or floats.
    """
    try:
        found = jnp.asarray(given)
    except (TypeError, ValueError) as error:
        raise UserError(
            f"pixels are an array, such as clip.preprocess gives, not "
            f"{type(given).__name__}"
        ) from error
    if found.ndim not in (3, 4) or found.shape[-3:] != shape:
        raise UserError(
            f"pixels have shape {list(found.shape)}: this model takes {list(shape)}, "
            "or several of these; see clip.preprocess"
        )
    if found.dtype != jnp.uint8 and not jnp.issubdtype(found.dtype, jnp.floating):
        raise UserError(f"pixels are {found.dtype}: give uint8, or floats in [0, 1]")
    return found
