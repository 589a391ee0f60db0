"""Decodes encoded bytes and arrays to RGB pictures; no other module decodes images.

Training and evaluation call `decode`. `read` stops before the conversion to RGB, for
preprocessing that converts last. Both are thread-safe.
"""

from __future__ import annotations

import io
import re
import warnings
from typing import BinaryIO

import numpy as np
from PIL import Image, features

from clipjax.data.images import camera_formats
from clipjax.types import BadExample

# Pillow tries these plugins only, because others (EPS) start external programs.
FORMATS = (
    *("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000"),
    *(name for name in ("AVIF",) if name.lower() in features.modules),  # Pillow 11.3
)

ORIENTATION_TAG = 0x0112
# EXIF orientation -> the operation that turns the picture upright (JEITA CP-3451, tag
# 274).
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

SIDEWAYS = (5, 6, 7, 8)

PILLOW_MODULES = re.compile(r"PIL\.")

Picture = bytes | np.ndarray | Image.Image


def decode(
    image: Picture, *, exif: bool = True, at_least: tuple[int, int] | None = None
) -> Image.Image:
    """Returns the image as an RGB picture.

    Args:
      image: encoded bytes, uint8 [h w 3] (also [h w], [h w 1] and [h w 4]), or a PIL
        image. If it has several frames, the first is used.
      exif: turn the picture upright by its EXIF orientation; an unreadable EXIF block
        is ignored. Arrays have none.
      at_least: the smallest (width, height) of the upright picture that is enough. A
        JPEG is decoded at 1/2, 1/4 or 1/8 of its size (rounded up) unless that is
        smaller: faster, and slightly different pixels.

    Transparency is dropped, not composited, as `convert("RGB")` does (and with it
    OpenAI's CLIP); 16-bit grey keeps its upper 8 bits.

    Raises BadExample with a short reason if the image cannot be used: empty, truncated,
    not an image, a decompression bomb (Pillow's limit), an array of another shape or
    dtype.
    """
    picture = read(image, exif=exif, at_least=at_least)
    return picture if picture.mode == "RGB" else picture.convert("RGB")


def read(
    image: Picture, *, exif: bool = True, at_least: tuple[int, int] | None = None
) -> Image.Image:
    """Like `decode`, but keeps the image's 8-bit mode (RGB, L, P, RGBA, CMYK, ...)."""
    picture = open_picture(image)
    try:
        if at_least is not None and picture is not image:
            turned = exif and orientation(picture) in SIDEWAYS
            wide, high = at_least
            picture.draft("RGB", (high, wide) if turned else (wide, high))
        picture.load()
        if exif and (turn := UPRIGHT.get(orientation(picture))) is not None:
            picture = picture.transpose(turn)
        return _to_8_bit(picture)
    except (BadExample, MemoryError):
        raise
    except Exception as error:  # on broken bytes the plugins raise nearly anything
        raise BadExample(f"the image cannot be decoded: {_reason(error)}") from error


def size(image: Picture, *, exif: bool = True) -> tuple[int, int]:
    """(width, height) of the upright picture, from its header; raises BadExample."""
    picture = open_picture(image)
    wide, high = picture.size
    turned = exif and orientation(picture) in SIDEWAYS
    return (high, wide) if turned else (wide, high)


def format_of(image: Picture) -> str:
    """Pillow's name for the format of encoded bytes ("JPEG", "PNG"), else "".

    Raises BadExample.
    """
    name = open_picture(image).format or ""
    return "JPEG" if name == "MPO" else name  # a JPEG followed by further pictures


def is_known(file: BinaryIO) -> bool:
    """Whether a file's header is that of an image in one of FORMATS."""
    _silence_pillow()
    try:
        Image.open(file, formats=FORMATS)
    except Image.DecompressionBombError:
        return True
    except MemoryError:
        raise
    except Exception:  # on foreign bytes the plugins raise nearly anything
        return False
    return True


def open_picture(image: Picture) -> Image.Image:
    """Opens a picture: reads the header, checks Pillow's size limit.

    Raises BadExample.
    """
    if isinstance(image, np.ndarray):
        return _from_array(image)
    _silence_pillow()
    if isinstance(image, Image.Image):
        if not all(image.size):
            raise BadExample(f"the image has no pixels: {image.width} x {image.height}")
        return image
    if not isinstance(image, bytes | bytearray | memoryview):
        raise BadExample(
            "give encoded bytes, a uint8 array [h w 3] or a PIL image, not "
            f"{type(image).__name__}"
        )
    if not len(image):
        raise BadExample("the image is empty (0 bytes)")
    data = bytes(image)
    try:
        if camera_formats.is_heif(data):
            return camera_formats.open_heif(data)
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.UnidentifiedImageError as error:
        raise BadExample(
            f"not an image of a known format; it starts with {data[:12]!r}"
        ) from error
    except Image.DecompressionBombError as error:
        raise BadExample(f"the image is too large: {_reason(error)}") from error
    except (BadExample, MemoryError):
        raise
    except Exception as error:  # as above
        raise BadExample(f"the image cannot be opened: {_reason(error)}") from error


def _from_array(array: np.ndarray) -> Image.Image:
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    usual = array.ndim == 2 or (array.ndim == 3 and array.shape[-1] in (3, 4))
    if array.dtype != np.uint8 or not usual or 0 in array.shape:
        raise BadExample(
            f"an image array must be uint8 [h w 3], got {array.dtype} "
            f"{list(array.shape)}"
        )
    return Image.fromarray(array)


def orientation(picture: Image.Image) -> int:
    """The EXIF orientation; 1 if it is missing or unreadable."""
    try:
        value = picture.getexif().get(ORIENTATION_TAG)
    except MemoryError:
        raise
    except Exception:  # a damaged EXIF block does not make the pixels bad
        return 1
    return value if isinstance(value, int) else 1


def _to_8_bit(picture: Image.Image) -> Image.Image:
    """Keeps the upper 8 of 16 bits, because Pillow's conversion clips to white."""
    if picture.mode.startswith("I"):  # mode "I" also holds 16-bit PNG and PGM files
        grey = np.clip(np.asarray(picture), 0, 0xFFFF) >> 8
        return Image.fromarray(grey.astype(np.uint8))
    if picture.mode == "F":
        raise BadExample("the image has float pixels, whose range is unknown")
    return picture


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 120 else text[:117] + "..."


def _silence_pillow() -> None:
    """Ignores warnings from Pillow's modules, because they concern an image's bytes.

    `warnings.catch_warnings` is not thread-safe. Every call checks the filter, because
    other code may put its own first or drop this one.
    """
    first = warnings.filters[0] if warnings.filters else None
    if first is None or first[0] != "ignore" or first[3] != PILLOW_MODULES:
        warnings.filterwarnings("ignore", module=PILLOW_MODULES.pattern)
