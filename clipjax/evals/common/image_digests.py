"""Digests of images as their source gives them, which tell copies of one file."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from clipjax.types import BadExample, Example, Source

_THREADS = 8  # that read at once


def digest(example: Example) -> str:
    """The same for two images of the same bytes, or of the same pixels in an array."""
    image = example.image
    if isinstance(image, np.ndarray):
        head = f"{image.dtype.str} {image.shape} ".encode()
        return _hash(head, np.ascontiguousarray(image).tobytes())
    return _hash(b"", bytes(image))


def read(source: Source, indices: Sequence[int]) -> list[str | BadExample]:
    """The digests of examples, which are read for them but not decoded; an error takes
    the place of one that cannot be read.
    """

    def one(index: int) -> str | BadExample:
        try:
            return digest(source[index])
        except BadExample as error:
            return error

    with ThreadPoolExecutor(_THREADS) as threads:
        return list(threads.map(one, indices))


def _hash(*parts: bytes) -> str:
    found = hashlib.blake2b(digest_size=16)
    for part in parts:
        found.update(part)
    return found.hexdigest()
