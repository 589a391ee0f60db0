"""HEIC and RAW photos, written here and read by the optional libraries."""

import io
import struct
import sys

import numpy as np
import pytest
from image_tools import motif
from PIL import Image

from clipjax.data.images import camera_formats, decoding
from clipjax.types import BadExample


def heic(orientation=None):
    heif = pytest.importorskip("pillow_heif")
    picture = motif(3, (96, 64))
    stream = io.BytesIO()
    exif = Image.Exif()
    if orientation:
        exif[decoding.ORIENTATION_TAG] = orientation
    heif.from_pillow(picture).save(stream, quality=95, exif=exif.tobytes())
    return stream.getvalue(), picture


def test_heic_is_read_as_any_image():
    data, picture = heic()
    assert camera_formats.is_heif(data)
    found = decoding.decode(data)
    assert found.mode == "RGB" and found.size == (96, 64)
    error = np.abs(np.asarray(found, float) - np.asarray(picture, float)).mean()
    assert error < 12  # of 60 or more if it were another picture
    assert decoding.size(data) == (96, 64) and decoding.format_of(data) == "HEIF"


def test_heic_is_turned_once():
    data, picture = heic(orientation=6)
    found = decoding.decode(data)
    upright = picture.transpose(Image.Transpose.ROTATE_270)
    assert found.size == upright.size == (64, 96)
    assert np.abs(np.asarray(found, float) - np.asarray(upright, float)).mean() < 12


def test_other_files_are_no_heic():
    mp4 = struct.pack(">I", 24) + b"ftypmp42" + bytes(4) + b"mp42isom"
    avif = struct.pack(">I", 24) + b"ftypavif" + bytes(4) + b"mif1avif"
    for data in (b"", b"ftyp", mp4, avif, b"....ftyp", b"\xff\xd8\xff" + bytes(30)):
        assert not camera_formats.is_heif(data)
    mif1 = struct.pack(">I", 24) + b"ftypmif1" + bytes(4) + b"mif1heic"
    assert camera_formats.is_heif(mif1)
    pytest.importorskip("pillow_heif")
    with pytest.raises(BadExample, match="not an image"):
        decoding.decode(mif1 + bytes(50))


@pytest.mark.parametrize("name", ["pillow_heif", "rawpy"])
def test_a_missing_library_is_named(name, monkeypatch):
    camera_formats._register.cache_clear()
    monkeypatch.setitem(sys.modules, name, None)
    heic_header = struct.pack(">I", 16) + b"ftypheic" + bytes(4)
    with pytest.raises(camera_formats.NotInstalled) as error:
        if name == "rawpy":
            camera_formats.decode_raw(b"II*\0")
        else:
            decoding.decode(heic_header)
    assert "pip install -e '.[photos]'" in error.value.reason


def dng(orientation=1, size=(64, 48)):
    """A RAW file (RGGB, 16 bits): the left half is red, the right half green."""
    wide, high = size
    mosaic = np.zeros((high, wide), "<u2")
    mosaic[0::2, 0 : wide // 2 : 2] = 30_000  # under red filters
    mosaic[0::2, wide // 2 + 1 :: 2] = 30_000  # under green ones
    mosaic[1::2, wide // 2 :: 2] = 30_000
    pixels = mosaic.tobytes()
    rational = struct.pack(
        "<" + "ii" * 9, *sum(([int(x), 1] for x in np.eye(3).flat), [])
    )
    tags = {
        254: ("I", [0]),
        256: ("I", [wide]),
        257: ("I", [high]),
        258: ("H", [16]),
        259: ("H", [1]),
        262: ("H", [32803]),  # CFA
        271: ("s", b"clipjax\0"),
        272: ("s", b"test\0"),
        273: ("I", [8]),
        274: ("H", [orientation]),
        277: ("H", [1]),
        278: ("I", [high]),
        279: ("I", [len(pixels)]),
        284: ("H", [1]),
        33421: ("H", [2, 2]),
        33422: ("B", [0, 1, 1, 2]),
        50706: ("B", [1, 4, 0, 0]),
        50708: ("s", b"clipjax test\0"),
        50714: ("H", [0]),
        50717: ("I", [65_535]),
        50721: ("r", rational),
        50728: ("R", struct.pack("<IIIIII", 1, 1, 1, 1, 1, 1)),
    }
    kinds = {"B": 1, "s": 2, "H": 3, "I": 4, "R": 5, "r": 10}
    sizes = {"B": 1, "s": 1, "H": 2, "I": 4, "R": 8, "r": 8}
    start = 8 + len(pixels)
    beyond = start + 2 + 12 * len(tags) + 4
    entries, more = b"", b""
    for tag, (kind, value) in tags.items():
        data = (
            value
            if isinstance(value, bytes)
            else struct.pack(f"<{len(value)}{kind}", *value)
        )
        count = len(data) // sizes[kind]
        if len(data) > 4:
            field = struct.pack("<I", beyond + len(more))
            more += data + bytes(len(data) % 2)
        else:
            field = data.ljust(4, b"\0")
        entries += struct.pack("<HHI", tag, kinds[kind], count) + field
    head = b"II*\0" + struct.pack("<I", start)
    directory = struct.pack("<H", len(tags)) + entries + bytes(4)
    return head + pixels + directory + more


def test_raw_photos_are_developed_and_turned():
    pytest.importorskip("rawpy")
    found = camera_formats.decode_raw(dng())
    assert found.mode == "RGB" and found.size == (32, 24)
    pixels = np.asarray(found, float)
    left, right = pixels[4:-4, 4:12].mean((0, 1)), pixels[4:-4, 20:28].mean((0, 1))
    assert left.argmax() == 0 and right.argmax() == 1
    turned = camera_formats.decode_raw(dng(orientation=6))
    assert turned.size == (24, 32)
    top = np.asarray(turned, float)[4:12, 4:-4].mean((0, 1))
    assert top.argmax() == 0  # what was left is on top


def test_raw_photos_that_cannot_be_used(monkeypatch):
    pytest.importorskip("rawpy")
    with pytest.raises(BadExample, match="the RAW photo cannot be decoded: "):
        camera_formats.decode_raw(b"no photo")
    with pytest.raises(BadExample, match="the RAW photo cannot be decoded: "):
        camera_formats.decode_raw(dng()[:3000])
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(BadExample, match="too large: 64 x 48 pixels"):
        camera_formats.decode_raw(dng())
