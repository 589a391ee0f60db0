import io

import numpy as np
import pytest
from PIL import Image

from clipjax.report_parts import thumbnails
from clipjax.report_parts.thumbnails import SIZES, Pictures


def decoded(content):
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"), int)


def test_a_key_is_one_picture():
    pictures = Pictures()
    red = np.full((8, 8, 3), (200, 0, 0), np.uint8)
    assert pictures.add("a", red) == pictures.add("a", red) == pictures.known("a")
    assert pictures.add("b", red) != pictures.known("a") and len(pictures) == 2
    assert pictures.known("c") == ""


def test_pictures_keep_their_shape_and_colour():
    pictures = Pictures()
    wide = np.full((50, 200, 3), (0, 160, 0), np.uint8)
    found = decoded(pictures.encode(pictures.add("a", wide)))
    assert found.shape == (thumbnails.SIDE, thumbnails.SIDE, 3)
    assert np.abs(found[72, 72] - (0, 160, 0)).max() < 12
    assert np.abs(found[10, 72] - 128).max() < 12  # above and below it


def test_smaller_sizes_take_less():
    pictures = Pictures()
    noise = np.random.default_rng(0).integers(0, 256, (300, 300, 3), np.uint8)
    name = pictures.add("a", noise)
    lengths = [len(pictures.encode(name, size)) for size in SIZES]
    assert lengths == sorted(lengths, reverse=True) and lengths[-1] < lengths[0] / 3


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n" + b"0" * 9])
def test_a_broken_image_is_a_grey_square(content):
    pictures = Pictures()
    name = pictures.add("a", content)
    assert pictures.broken[name]
    assert np.abs(decoded(pictures.encode(name)) - 128).max() < 6
