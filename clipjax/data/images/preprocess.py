"""Fixed image transforms for evaluation: `name(image_size)` -> callable -> uint8 array.

Every public function is a component. What it returns takes encoded bytes, a uint8 array
or a PIL image, gives uint8 [s s 3], can be pickled, and can be shared by threads.
Normalisation is not here: the model does it on the device.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from PIL import Image

from clipjax.data.images import decoding
from clipjax.types import BadExample, UserError

BICUBIC = Image.Resampling.BICUBIC
INTERPOLATIONS = {"bicubic": BICUBIC, "bilinear": Image.Resampling.BILINEAR}

# Beyond this a picture's long side would fill the memory once its short side fits.
MAX_ASPECT = 200


def clip(image_size: int) -> Shortest:
    """CLIP's transform, upright: shortest side to `image_size`, then the centre.

    Pillow bicubic, rounding as torchvision does: equal bit for bit to open_clip's
    evaluation transform on upright RGB images. Others become upright RGB first.
    """
    return Shortest(_checked(image_size), exif=True, convert_first=True)


def openai(image_size: int) -> Shortest:
    """CLIP's transform to the letter (Radford et al. 2021, arXiv:2103.00020).

    EXIF orientation is ignored and the conversion to RGB comes last, which matters for
    palettes (resized to the nearest colour) and transparency. Wide grey images alone
    differ from the original, which clips them to white.
    """
    return Shortest(_checked(image_size), exif=False, convert_first=False)


def squash(
    image_size: int, *, interpolation: str = "bicubic", exif: bool = True
) -> Squash:
    """Both sides to `image_size`, whatever the aspect: nothing is cut away.

    For images already squashed, where the borders matter, and SigLIP, whose second
    generation (arXiv:2502.14786) in Hugging Face's form resizes "bilinear".

    Options:
      interpolation: of the resize, "bicubic" or "bilinear" among others.
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
        """Returns uint8 [s s 3]; raises BadExample for an image that is no use."""
        take = decoding.decode if self.convert_first else decoding.read
        picture = take(image, exif=self.exif)
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
        """Returns uint8 [s s 3]; raises BadExample for an image that is no use."""
        picture = decoding.decode(image, exif=self.exif)
        size, how = self.image_size, INTERPOLATIONS[self.interpolation]
        return np.array(picture.resize((size, size), how))


def _checked(image_size: int) -> int:
    if image_size < 1:
        raise UserError(f"data.image_size={image_size}: it must be 1 pixel or more")
    return image_size
