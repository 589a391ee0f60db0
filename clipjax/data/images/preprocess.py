"""Fixed image transforms for evaluation: `name(image_size)` -> callable -> uint8 array.

Every public function is a component. The callable takes encoded bytes, a uint8 array or
a PIL image and returns uint8 [s s 3]. It can be pickled and shared by threads. The
model normalises on the device.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from PIL import Image

from clipjax.data.images import decoding
from clipjax.types import BadExample, UserError

BICUBIC = Image.Resampling.BICUBIC
INTERPOLATIONS = {"bicubic": BICUBIC, "bilinear": Image.Resampling.BILINEAR}

# The largest long side / short side. Above it, resizing the short side to `image_size`
# could make the long side fill the memory.
MAX_ASPECT = 200


def clip(image_size: int) -> Shortest:
    """CLIP's transform, upright: resizes the shortest side, then crops the centre.

    Pillow bicubic, rounding as torchvision does: on upright RGB images it equals
    open_clip's evaluation transform bit for bit. Others become upright RGB first.
    """
    return Shortest(_checked(image_size), exif=True, convert_first=True)


def openai(image_size: int) -> Shortest:
    """CLIP's exact transform (Radford et al. 2021, arXiv:2103.00020).

    It ignores EXIF orientation and converts to RGB last, which matters for palettes
    (resized by nearest pixels) and transparency. Only 16-bit grey images differ from
    the original, which clips them to white.
    """
    return Shortest(_checked(image_size), exif=False, convert_first=False)


def squash(
    image_size: int, *, interpolation: str = "bicubic", exif: bool = True
) -> Squash:
    """Resizes both sides to `image_size`, whatever the aspect ratio; crops nothing.

    For images that are already squashed, for images whose borders matter, and for
    SigLIP, whose second generation (arXiv:2502.14786) in Hugging Face's form resizes
    "bilinear".

    Options:
      interpolation: the resize's filter, "bicubic" or "bilinear".
      exif: turn the image upright first.
    """
    if interpolation not in INTERPOLATIONS:
        raise UserError(
            f"data.preprocess.interpolation={interpolation!r}: must be one of "
            f"{', '.join(INTERPOLATIONS)}"
        )
    return Squash(_checked(image_size), interpolation, exif=exif)


@dataclasses.dataclass(frozen=True)
class Shortest:
    """Resizes the shortest side, then crops the centre; see `clip` and `openai`."""

    image_size: int
    exif: bool
    convert_first: bool

    def __call__(self, image: decoding.Picture) -> np.ndarray:
        """Returns uint8 [s s 3]; raises BadExample for an unusable image."""
        read = decoding.decode if self.convert_first else decoding.read
        picture = read(image, exif=self.exif)
        width, height = picture.size
        short, long = min(width, height), max(width, height)
        if long > MAX_ASPECT * short:
            raise BadExample(f"the image is too narrow: {width} x {height} pixels")
        size = self.image_size
        fitted = int(size * long / short)
        picture = picture.resize(
            (size, fitted) if width <= height else (fitted, size), BICUBIC
        )
        left = int(round((picture.width - size) / 2.0))
        top = int(round((picture.height - size) / 2.0))
        picture = picture.crop((left, top, left + size, top + size))
        return np.array(picture if picture.mode == "RGB" else picture.convert("RGB"))


@dataclasses.dataclass(frozen=True)
class Squash:
    """Resizes to a square; see `squash`."""

    image_size: int
    interpolation: str
    exif: bool

    def __call__(self, image: decoding.Picture) -> np.ndarray:
        """Returns uint8 [s s 3]; raises BadExample for an unusable image."""
        picture = decoding.decode(image, exif=self.exif)
        size, resample = self.image_size, INTERPOLATIONS[self.interpolation]
        return np.array(picture.resize((size, size), resample))


def _checked(image_size: int) -> int:
    if image_size < 1:
        raise UserError(f"data.image_size={image_size}: it must be 1 pixel or more")
    return image_size
