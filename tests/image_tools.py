"""Small pictures for the tests of images, and their encoding."""

import io
import struct
import zlib

import numpy as np
from PIL import Image


def pixels(height, width, seed=0, channels=3):
    """Smooth colour with some noise, so that resampling and JPEG have work to do."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = [127 + 90 * np.sin(x / (3 + c) + y / 5) for c in range(channels)]
    noisy = np.stack(waves, -1) + rng.normal(0, 12, (height, width, channels))
    return noisy.clip(0, 255).astype(np.uint8)


def encoded(picture, format="PNG", **options):
    stream = io.BytesIO()
    picture.save(stream, format, **options)
    return stream.getvalue()


def picture(height=40, width=60, seed=0):
    return Image.fromarray(pixels(height, width, seed))


def motif(seed, size=(120, 90)):
    """Large soft shapes, another picture for each seed."""
    coarse = np.random.default_rng(seed).integers(0, 256, (9, 12, 3)).astype(np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def bomb():
    """A PNG header that claims 60,000 x 60,000 pixels."""
    body = b"IHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    header = struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))
    return b"\x89PNG\r\n\x1a\n" + header + struct.pack(">I", 9) + b"IDAT" + bytes(9)


def jpeg_bomb():
    """A JPEG whose header claims 60,000 x 60,000 pixels."""
    data = encoded(picture(), "JPEG")
    at = data.index(b"\xff\xc0") + 5
    return data[:at] + struct.pack(">HH", 60_000, 60_000) + data[at + 4 :]


BROKEN = {
    "empty": (b"", "empty"),
    "html": (b"<!DOCTYPE html><html>404</html>", "not an image.*DOCTYPE"),
    "eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
    "bomb": (bomb(), "too large"),
    "jpeg bomb": (jpeg_bomb(), "too large"),
    "cut jpeg": (encoded(picture(), "JPEG")[:700], "cannot be decoded"),
    "cut png": (encoded(picture())[:700], "cannot be decoded"),
    "cut webp": (encoded(picture(), "WEBP")[:300], "cannot be|not an image"),
    "header only": (encoded(picture(), "JPEG")[:20], "cannot be|not an image"),
}
