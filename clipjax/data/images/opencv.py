"""OpenCV for the crops of training: faster than Pillow, and slightly other pixels.

What is decoded stays as in `images`: the same examples are bad for the same reasons,
and decoded pixels are equal bit for bit. Only JPEGs in RGB and grey that are whole are
left to OpenCV (progressive ones too); all else, where modes, frames and damage matter,
goes to Pillow. Resized pixels differ: see `resize`.
"""

from __future__ import annotations

import functools
import math
import re
from types import ModuleType

import numpy as np
from PIL import Image

from clipjax.data.images import decoding
from clipjax.types import UserError

Box = tuple[int, int, int, int]  # left, top, right, bottom in pixels

# EXIF orientation -> what brings an array upright, as images.UPRIGHT a picture.
UPRIGHT = {
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
    8: lambda pixels: np.rot90(pixels),
}

# By how many times a side shrinks at most; and the Gaussian's sigma where shrink^2 - 1
# is 1, found on photographs as nearest to Pillow's bicubic.
SOFT, SIGMA = 2.25, 0.5

START_OF_SCAN, END_OF_IMAGE = 0xDA, 0xD9
# In entropy-coded data FF is followed by 0, by a restart, or by another FF.
NEXT_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")


@functools.cache
def library() -> ModuleType:
    """OpenCV, with one thread a call in all of this process: workers are many.

    Raises UserError if it is not installed.
    """
    try:
        import cv2
    except ImportError as error:
        raise UserError(
            f"data.augment.decoder='opencv' needs OpenCV ({error}): "
            f"pip install -e '.[images]', or use decoder='pillow'"
        ) from error
    cv2.setNumThreads(0)
    return cv2


def decode(image: decoding.Picture, *, exif: bool = True) -> np.ndarray:
    """As `images.decode`, but uint8 [h w 3], not always in one piece of memory."""
    if not isinstance(image, (np.ndarray, Image.Image)):
        opened = decoding.opened(image)  # its limits hold before a pixel is decoded
        if (pixels := _jpeg(image, opened)) is not None:
            turn = UPRIGHT.get(decoding.orientation(opened)) if exif else None
            return pixels if turn is None else turn(pixels)
    return np.asarray(decoding.decode(image, exif=exif))


def resize(pixels: np.ndarray, box: Box, image_size: int) -> np.ndarray:
    """The box of uint8 [h w 3] as uint8 [s s 3].

    A box up to SOFT times as large is softened by a narrow Gaussian, so that bicubic
    interpolation does not alias: half the time of averaging over areas (INTER_AREA),
    which larger ones are, and as near to Pillow's bicubic or nearer. Unlike Pillow's
    these filters see nothing beyond the box.
    """
    cv2 = library()
    left, top, right, bottom = box
    part = pixels[top:bottom, left:right]
    size = (image_size, image_size)
    wide, high = (right - left) / image_size, (bottom - top) / image_size
    if max(wide, high) > SOFT:
        least = (min(right - left, image_size), min(bottom - top, image_size))
        part = cv2.resize(part, least, interpolation=cv2.INTER_AREA)
    elif max(wide, high) > 1:
        part = cv2.GaussianBlur(part, (3, 3), sigmaX=_sigma(wide), sigmaY=_sigma(high))
    if part.shape[1::-1] != size:
        part = cv2.resize(part, size, interpolation=cv2.INTER_CUBIC)
    return np.array(part) if np.may_share_memory(part, pixels) else part


def _sigma(shrink: float) -> float:
    """Of the Gaussian, in pixels; 0 would mean another choice to OpenCV."""
    return max(SIGMA * math.sqrt(max(shrink, 1.0) ** 2 - 1), 0.01)


def _jpeg(data: bytes, opened: Image.Image) -> np.ndarray | None:
    """The pixels as they are stored, or None if Pillow must decide."""
    usual = opened.format in ("JPEG", "MPO") and opened.mode in ("RGB", "L")
    if not usual or not is_whole(data):
        return None
    cv2 = library()
    how = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), how)
    except cv2.error:
        return None
    usable = pixels is not None and pixels.shape[1::-1] == opened.size
    return pixels if usable else None


def is_whole(jpeg: bytes) -> bool:
    """Whether a JPEG's segments follow one another up to its end-of-image marker.

    OpenCV fills with grey what a damaged marker hides, where Pillow gives an error.
    """
    jpeg, at = bytes(jpeg), 2
    while len(jpeg) >= at + 2 and jpeg[at] == 0xFF:
        code = jpeg[at + 1]
        if code == END_OF_IMAGE:
            return True
        if code != 0xFF:  # a fill byte
            at += 2 + int.from_bytes(jpeg[at + 2 : at + 4])
        else:
            at += 1
        if code == START_OF_SCAN:
            found = NEXT_MARKER.search(jpeg, at)
            if found is None:
                return False
            at = found.start()
    return False
