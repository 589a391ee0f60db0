"""OpenCV for training crops: faster than Pillow, with slightly different pixels.

Decoded pixels equal decoding.py's bit for bit, and the same examples are bad for the
same reasons. OpenCV decodes complete RGB and grey JPEGs only (progressive ones too);
Pillow decodes everything else, because modes, frames and damage matter there. Resized
pixels differ: see `resize`.
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

# EXIF orientation -> the operation that turns an array upright; decoding.UPRIGHT has
# those for pictures.
UPRIGHT = {
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
    8: lambda pixels: np.rot90(pixels),
}

# The largest reduction that a Gaussian softens; and its sigma where reduction^2 - 1 is
# 1, which on photographs came nearest to Pillow's bicubic.
SOFT, SIGMA = 2.25, 0.5

START_OF_SCAN, END_OF_IMAGE = 0xDA, 0xD9
# In entropy-coded data, 0, a restart marker or another FF follows FF.
NEXT_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")


@functools.cache
def library() -> ModuleType:
    """OpenCV, limited to one thread per call in this process, because workers are many.

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
    """Like `decoding.decode`, but returns uint8 [h w 3], not always contiguous."""
    if not isinstance(image, (np.ndarray, Image.Image)):
        opened = decoding.open_picture(
            image
        )  # checks its limits before a pixel is decoded
        if (pixels := _jpeg(image, opened)) is not None:
            turn = UPRIGHT.get(decoding.orientation(opened)) if exif else None
            return pixels if turn is None else turn(pixels)
    return np.asarray(decoding.decode(image, exif=exif))


def resize(pixels: np.ndarray, box: Box, image_size: int) -> np.ndarray:
    """Crops uint8 [h w 3] to the box and resizes it to uint8 [s s 3].

    If a side shrinks by up to SOFT times, a narrow Gaussian softens the box first, so
    that bicubic interpolation does not alias. This takes half the time of averaging
    over areas (INTER_AREA), which larger boxes get, and is as near to Pillow's bicubic
    or nearer. Unlike Pillow's, these filters read nothing outside the box.
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


def _sigma(reduction: float) -> float:
    """The Gaussian's sigma in pixels, above 0, for which OpenCV picks its own."""
    return max(SIGMA * math.sqrt(max(reduction, 1.0) ** 2 - 1), 0.01)


def _jpeg(data: bytes, opened: Image.Image) -> np.ndarray | None:
    """The pixels as stored, not turned; None if Pillow must decode them."""
    usual = opened.format in ("JPEG", "MPO") and opened.mode in ("RGB", "L")
    if not usual or not is_whole(data):
        return None
    cv2 = library()
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:
        return None
    usable = pixels is not None and pixels.shape[1::-1] == opened.size
    return pixels if usable else None


def is_whole(jpeg: bytes) -> bool:
    """Whether a JPEG's segments are contiguous up to its end-of-image marker.

    Behind a damaged marker OpenCV fills in grey, but Pillow raises an error.
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
            marker = NEXT_MARKER.search(jpeg, at)
            if marker is None:
                return False
            at = marker.start()
    return False
