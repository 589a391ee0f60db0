"""A report's pictures: small, each kept once, under a name."""

from __future__ import annotations

import base64
import io
from typing import Any

from PIL import Image

from clipjax.data.images import decoding
from clipjax.types import BadExample

SIDE = 144  # pixels; shown at about two thirds, for sharp screens
# Smaller and smaller pictures, for a report that is to be smaller: (side, quality).
SIZES = ((144, 78), (96, 65), (64, 50))


class Pictures:
    """Pictures by name, in the order in which they came.

    A picture that cannot be decoded is a grey square, and `broken` says why.
    """

    def __init__(self) -> None:
        self._pictures: dict[str, Image.Image] = {}
        self._names: dict[Any, str] = {}
        self.broken: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self._pictures)

    def __iter__(self):
        return iter(self._pictures)

    def add(self, key: Any, image: Any) -> str:
        """Keeps an example's image, encoded or as an array; returns its name.

        key: what the image is of; the same key is the same picture.
        """
        if key in self._names:
            return self._names[key]
        name = f"p{len(self._pictures)}"
        try:
            picture = decoding.decode(image, at_least=(SIDE, SIDE))
        except BadExample as error:
            picture = Image.new("RGB", (SIDE, SIDE), (128, 128, 128))
            self.broken[name] = error.reason
        self._names[key] = name
        self._pictures[name] = _square(picture)
        return name

    def known(self, key: Any) -> str:
        """The name of a picture that was added; "" if it was not."""
        return self._names.get(key, "")

    def encode(self, name: str, size: tuple[int, int] = SIZES[0]) -> bytes:
        """The picture as WebP; size: one of SIZES."""
        side, quality = size
        picture = self._pictures[name]
        if picture.width > side:
            picture = picture.resize((side, side), Image.Resampling.LANCZOS)
        file = io.BytesIO()
        picture.save(file, "WEBP", quality=quality, method=4)
        return file.getvalue()


def data_uri(content: bytes, kind: str = "webp") -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _square(picture: Image.Image) -> Image.Image:
    """The picture on a square of SIDE: whole, between grey bands if it is none."""
    scale = SIDE / max(picture.size)
    size = tuple(max(1, round(side * scale)) for side in picture.size)
    small = picture.size[0] < SIDE / 2
    how = Image.Resampling.NEAREST if small else Image.Resampling.LANCZOS
    made = picture.resize((size[0], size[1]), how)
    if size == (SIDE, SIDE):
        return made
    square = Image.new("RGB", (SIDE, SIDE), (128, 128, 128))
    square.paste(made, ((SIDE - size[0]) // 2, (SIDE - size[1]) // 2))
    return square
