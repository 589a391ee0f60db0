"""A query's words -> its parts: "a dog on grass + 0.5*beach - people"."""

from __future__ import annotations

import math
import pathlib
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from clipjax import paths
from clipjax.data.images import camera_formats
from clipjax.data.storage import file_contents, local
from clipjax.types import UserError

_SIGN = re.compile(r"(?:^|(?<=\s))([+-])(?=\s|$)")
_WEIGHTED = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*\*\s*(.*)", re.DOTALL)
_SUFFIXES = {*local.IMAGE_SUFFIXES, *camera_formats.SUFFIXES}


class Part(NamedTuple):
    """What photos are to be like, or unlike if its weight is negative.

    words: a text, or the name of an image. image: its path, None for a text.
    """

    words: str
    weight: float = 1.0
    image: pathlib.Path | None = None

    @property
    def label(self) -> str:
        """The part as it could be written, without its sign."""
        size = abs(self.weight)
        return self.words if size == 1 else f"{size:g}*{self.words}"


def parse(words: Sequence[str]) -> list[Part]:
    """The parts of a query.

    + and - stand alone, between spaces or as a word of their own; NUMBER* weights a
    part. A word that names a file is an image; others side by side are one text.

    Raises UserError for a query without words, a sign or weight without a part, a
    weight of 0, and the name of an image that is not there.
    """
    parts: list[Part] = []
    sign, waiting = 1.0, False
    texts: list[str] = []

    def close() -> None:
        nonlocal sign, waiting
        text = " ".join(texts)
        texts.clear()
        if text:
            weight, rest = _weight(text)
            if not rest:
                raise UserError(f"{text!r} weights nothing: write NUMBER*WORDS")
            parts.append(Part(rest, sign * weight))
            sign, waiting = 1.0, False

    for piece in _pieces(words):
        if piece in ("+", "-"):
            close()
            if waiting:
                raise UserError(f"{piece!r} follows another sign: put words between")
            sign, waiting = (1.0 if piece == "+" else -1.0), True
        elif (image := _image(piece)) is not None:
            close()
            weight, name = image
            parts.append(Part(name.name, sign * weight, name))
            sign, waiting = 1.0, False
        else:
            texts.append(piece)
    close()
    if waiting:
        raise UserError("the query ends with a sign: put words after it")
    if not parts:
        raise UserError('no query given: words, such as "a dog on grass", or an image')
    return parts


def _pieces(words: Sequence[str]) -> Iterator[str]:
    """Signs, names of files, and texts without a sign."""
    for word in words:
        if _names_file(_weight(word)[1]):
            yield word
            continue
        yield from filter(None, (" ".join(x.split()) for x in _SIGN.split(word)))


def _weight(text: str) -> tuple[float, str]:
    """The number before a part's first *, and the rest.

    Raises UserError for 0.
    """
    found = _WEIGHTED.fullmatch(text)
    if not found:
        return 1.0, text
    value = float(found[1])
    if not (value > 0 and math.isfinite(value)):
        raise UserError(f"{text!r}: a weight is above 0; - makes it negative")
    return value, found[2]


def _image(piece: str) -> tuple[float, pathlib.Path] | None:
    weight, name = _weight(piece)
    if _names_file(name):
        return weight, paths.expand(name)
    if file_contents.suffix_of(name) in _SUFFIXES:
        raise UserError(f"{name}: there is no such file")
    return None


def _names_file(word: str) -> bool:
    try:
        return paths.expand(word).is_file()
    except (OSError, UserError):  # too long for a name; an address
        return False
