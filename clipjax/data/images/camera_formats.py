"""Photos as phones and cameras store them: HEIC by pillow-heif, RAW by rawpy.

Both libraries are optional (the extra `photos`). RAW files are told by their suffix,
because their header is that of a TIFF, whose first picture is a small preview.
"""

from __future__ import annotations

import functools
import io

from PIL import Image

from clipjax.types import BadExample

HEIF_SUFFIXES = (".heic", ".heif", ".hif")
RAW_SUFFIXES = (
    *(".dng", ".nef", ".nrw", ".cr2", ".cr3", ".crw", ".arw", ".sr2", ".srf"),
    *(".orf", ".rw2", ".raf", ".pef", ".srw", ".3fr", ".erf", ".kdc", ".mrw"),
)
SUFFIXES = (*HEIF_SUFFIXES, *RAW_SUFFIXES)
# The brands of ISO 23008-12 (HEIF) whose pictures are coded by HEVC.
_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"}
_FLAT = 2  # of Pillow: this times MAX_IMAGE_PIXELS is a decompression bomb


class NotInstalled(BadExample):
    """A library is missing, with which the image could be read."""


def is_heif(data: bytes) -> bool:
    """Whether encoded bytes are a HEIC picture, by the brands in their first box."""
    if data[4:8] != b"ftyp":
        return False
    box = data[8 : min(int.from_bytes(data[:4], "big"), 256)] or data[8:12]
    return not _BRANDS.isdisjoint(box[at : at + 4] for at in range(0, len(box), 4))


def open_heif(data: bytes) -> Image.Image:
    """Opens a HEIC picture, which libheif has turned upright.

    Raises NotInstalled, and as Pillow does.
    """
    _register()
    return Image.open(io.BytesIO(data), formats=("HEIF",))


def decode_raw(data: bytes) -> Image.Image:
    """The upright RGB picture of a RAW file: at half its size, which a demosaic without
    interpolation gives, with the camera's white balance.

    Raises BadExample if it cannot be decoded, NotInstalled without rawpy.
    """
    try:
        import rawpy
    except ImportError as error:
        raise NotInstalled(
            "a RAW photo needs rawpy: pip install -e '.[photos]'"
        ) from error
    try:
        with rawpy.imread(io.BytesIO(data)) as raw:
            wide, high = raw.sizes.raw_width, raw.sizes.raw_height
            most = (Image.MAX_IMAGE_PIXELS or 2**40) * _FLAT
            if wide * high > most:
                raise BadExample(f"the image is too large: {wide} x {high} pixels")
            return Image.fromarray(raw.postprocess(half_size=True, use_camera_wb=True))
    except rawpy.LibRawError as error:  # pyright: ignore
        words = " ".join(str(error.args[0] if error.args else error).split())
        reason = words.removeprefix("b'").removesuffix("'")
        raise BadExample(f"the RAW photo cannot be decoded: {reason}") from error


@functools.cache
def _register() -> None:
    try:
        import pillow_heif
    except ImportError as error:
        raise NotInstalled(
            "a HEIC photo needs pillow-heif: pip install -e '.[photos]'"
        ) from error
    pillow_heif.register_heif_opener()
