"""Decoding and preprocessing: equal to Pillow, deaf to broken bytes."""

import io
import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from image_tools import BROKEN, encoded, picture, pixels
from PIL import Image, ImageOps

from clipjax.data.images import decoding, preprocess
from clipjax.types import BadExample, UserError

BICUBIC = Image.Resampling.BICUBIC


def reference(data, size):
    """CLIP's transform written from its definition, for an RGB image."""
    source = Image.open(io.BytesIO(data))
    width, height = source.size
    if width <= height:
        resized = source.resize((size, int(size * height / width)), BICUBIC)
    else:
        resized = source.resize((int(size * width / height), size), BICUBIC)
    x0 = int(round((resized.size[0] - size) / 2.0))
    y0 = int(round((resized.size[1] - size) / 2.0))
    return np.asarray(resized)[y0 : y0 + size, x0 : x0 + size]


# Decoding


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF"])
def test_decode_gives_what_pillow_gives(format):
    data = encoded(picture(), format)
    expected = Image.open(io.BytesIO(data)).convert("RGB")
    got = decoding.decode(data)
    assert got.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(got), np.asarray(expected))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGBA", "CMYK", "YCbCr"])
def test_decode_converts_every_mode_as_pillow_does(mode):
    given = picture().convert(mode)
    np.testing.assert_array_equal(
        np.asarray(decoding.decode(given)), np.asarray(given.convert("RGB"))
    )


def test_alpha_is_dropped_not_composited():
    rgba = np.dstack([pixels(8, 8), np.zeros((8, 8), np.uint8)])
    got = decoding.decode(encoded(Image.fromarray(rgba)))
    np.testing.assert_array_equal(np.asarray(got), rgba[..., :3])


def test_cmyk_jpeg_decodes():
    got = decoding.decode(encoded(picture().convert("CMYK"), "JPEG", quality=95))
    assert got.mode == "RGB" and got.size == (60, 40)
    assert np.abs(np.asarray(got).astype(int) - pixels(40, 60)).mean() < 12


def test_16_bit_grey_keeps_its_upper_bits_instead_of_clipping_to_white():
    wide = np.linspace(0, 65535, 48).astype(np.uint16).reshape(6, 8)
    got = np.asarray(decoding.decode(encoded(Image.fromarray(wide))))
    np.testing.assert_array_equal(got[..., 0], (wide >> 8).astype(np.uint8))
    np.testing.assert_array_equal(got[..., 0], got[..., 2])


def test_float_pixels_are_refused():
    data = encoded(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF")
    with pytest.raises(BadExample, match="float pixels"):
        decoding.decode(data)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_exif_orientation_is_applied_only_on_request(orientation, format):
    exif = Image.Exif()
    exif[decoding.ORIENTATION_TAG] = orientation
    data = encoded(picture(), format, exif=exif)
    stored = Image.open(io.BytesIO(data))
    upright = ImageOps.exif_transpose(stored).convert("RGB")
    np.testing.assert_array_equal(
        np.asarray(decoding.decode(data)), np.asarray(upright)
    )
    np.testing.assert_array_equal(
        np.asarray(decoding.decode(data, exif=False)), np.asarray(stored.convert("RGB"))
    )


def test_of_several_frames_the_first_is_used():
    frames = [picture(seed=seed).quantize(64) for seed in range(3)]
    for format in ("GIF", "WEBP", "TIFF"):
        rest = [frame.convert("RGB") for frame in frames[1:]]
        first = frames[0].convert("RGB")
        options = {"lossless": True} if format == "WEBP" else {}
        data = encoded(first, format, save_all=True, append_images=rest, **options)
        assert Image.open(io.BytesIO(data)).n_frames == 3
        got = np.asarray(decoding.decode(data)).astype(int)
        assert np.abs(got - np.asarray(first)).mean() < 3
        assert np.abs(got - np.asarray(rest[0])).mean() > 9


def test_damaged_exif_leaves_the_pixels_usable():
    data = encoded(picture(), "JPEG", exif=b"Exif\0\0II*\0garbage, not a directory")
    got = decoding.decode(data)
    plain = encoded(picture(), "JPEG")
    np.testing.assert_array_equal(np.asarray(got), np.asarray(decoding.decode(plain)))


@pytest.mark.parametrize("shape", [(5, 7, 3), (5, 7), (5, 7, 1), (5, 7, 4)])
def test_arrays(shape):
    array = np.arange(math.prod(shape), dtype=np.uint8).reshape(shape)
    got = np.asarray(decoding.decode(array))
    assert got.shape == (5, 7, 3)
    np.testing.assert_array_equal(got[..., 0], array.reshape(5, 7, -1)[..., 0])


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 4, 3), np.float32),
        np.zeros((4, 4, 2), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros((2, 4, 4, 3), np.uint8),
    ],
)
def test_other_arrays_are_bad_examples(array):
    with pytest.raises(BadExample, match=r"uint8 \[h w 3\], got"):
        decoding.decode(array)


@pytest.mark.parametrize("case", BROKEN)
def test_broken_bytes_are_bad_examples_with_a_short_reason(case):
    data, reason = BROKEN[case]
    with pytest.raises(BadExample, match=reason) as caught:
        decoding.decode(data)
    assert len(str(caught.value)) < 200 and "\n" not in str(caught.value)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damaged_bytes_give_a_picture_or_a_bad_example(data):
    format = data.draw(st.sampled_from(["JPEG", "PNG", "WEBP", "GIF", "TIFF"]))
    raw = bytearray(encoded(picture(12, 16), format))
    for at in data.draw(st.lists(st.integers(0, len(raw) - 1), max_size=6)):
        raw[at] = data.draw(st.integers(0, 255))
    raw = raw[: data.draw(st.integers(0, len(raw)))]
    try:
        assert decoding.decode(bytes(raw)).mode == "RGB"
    except BadExample as error:
        assert str(error)


def test_pillow_warnings_do_not_leak(monkeypatch):
    """Pillow warns about a large image and about bytes for a palette's transparency."""
    paletted = picture().convert("P")
    paletted.info["transparency"] = bytes(range(200))
    data = encoded(paletted, transparency=bytes(range(200)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40 * 60 - 1)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        with pytest.raises(BadExample):
            decoding.decode(b"not an image")
        decoding.decode(data)
        decoding.decode(paletted)
        warnings.warn("ours", stacklevel=1)
    assert [str(w.message) for w in seen] == ["ours"]


def test_a_jpeg_is_decoded_smaller_but_not_below_what_is_wanted():
    exif = Image.Exif()
    exif[decoding.ORIENTATION_TAG] = 6
    plain = encoded(picture(400, 645), "JPEG")
    turned = encoded(picture(400, 645), "JPEG", exif=exif)
    assert decoding.size(plain) == (645, 400) and decoding.size(turned) == (400, 645)
    assert decoding.size(turned, exif=False) == (645, 400)
    assert decoding.decode(plain, at_least=(215, 133)).size == (323, 200)
    assert decoding.decode(plain, at_least=(324, 100)).size == (645, 400)
    assert decoding.decode(turned, at_least=(100, 161)).size == (100, 162)
    assert decoding.decode(encoded(picture()), at_least=(1, 1)).size == (60, 40)


# Preprocessing


SIZES = [(40, 60), (60, 40), (41, 97), (97, 41), (32, 32), (33, 32), (7, 5), (64, 65)]


@pytest.mark.parametrize("name", ["clip", "openai"])
@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize("format", ["PNG", "JPEG"])
def test_clip_equals_the_reference_bit_for_bit(name, shape, format):
    data = encoded(picture(*shape), format)
    got = getattr(preprocess, name)(32)(data)
    assert got.shape == (32, 32, 3) and got.dtype == np.uint8
    np.testing.assert_array_equal(got, reference(data, 32))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 80), st.integers(1, 80), st.integers(1, 40))
def test_any_size_equals_the_reference(height, width, size):
    data = encoded(picture(height, width))
    got = preprocess.clip(size)(data)
    np.testing.assert_array_equal(got, reference(data, size))


def test_real_photographs_equal_the_reference(shared_data):
    folder = shared_data / "flickr8k_original_200" / "Images"
    for path in sorted(folder.iterdir())[:20]:
        data = path.read_bytes()
        np.testing.assert_array_equal(
            preprocess.openai(224)(data), reference(data, 224)
        )


def test_clip_turns_upright_and_openai_does_not():
    exif = Image.Exif()
    exif[decoding.ORIENTATION_TAG] = 6
    data = encoded(picture(40, 60), exif=exif)
    stored = Image.open(io.BytesIO(data))
    upright = encoded(stored.transpose(Image.Transpose.ROTATE_270))
    np.testing.assert_array_equal(preprocess.openai(32)(data), reference(data, 32))
    np.testing.assert_array_equal(preprocess.clip(32)(data), reference(upright, 32))


def test_openai_converts_last_and_clip_first():
    paletted = picture(50, 50).convert("P")
    last = paletted.resize((32, 32), BICUBIC).convert("RGB")
    first = paletted.convert("RGB").resize((32, 32), BICUBIC)
    assert (np.asarray(first) != np.asarray(last)).any()
    np.testing.assert_array_equal(preprocess.openai(32)(paletted), np.asarray(last))
    np.testing.assert_array_equal(preprocess.clip(32)(paletted), np.asarray(first))


def test_squash_keeps_everything():
    data = encoded(picture(40, 90))
    expected = Image.open(io.BytesIO(data)).resize((32, 32), BICUBIC)
    np.testing.assert_array_equal(preprocess.squash(32)(data), np.asarray(expected))
    bilinear = Image.Resampling.BILINEAR
    expected = Image.open(io.BytesIO(data)).resize((32, 32), bilinear)
    found = preprocess.squash(32, interpolation="bilinear")(data)
    np.testing.assert_array_equal(found, np.asarray(expected))
    with pytest.raises(UserError, match="interpolation='nearest': must be one of"):
        preprocess.squash(32, interpolation="nearest")


def test_bytes_arrays_and_pictures_are_alike():
    given = picture(40, 60)
    one = preprocess.clip(32)(encoded(given))
    np.testing.assert_array_equal(one, preprocess.clip(32)(np.asarray(given)))
    np.testing.assert_array_equal(one, preprocess.clip(32)(given))


def test_a_thread_of_pixels_is_a_bad_example_and_not_a_gigabyte():
    with pytest.raises(BadExample, match="too narrow: 1 x 3000"):
        preprocess.clip(224)(np.zeros((3000, 1, 3), np.uint8))
    with pytest.raises(UserError, match="image_size=0"):
        preprocess.clip(0)


@pytest.mark.parity
@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "LA", "CMYK"])
def test_openai_equals_open_clip(mode, open_clip_transform):
    transform = open_clip_transform(48)
    for seed, shape in enumerate(SIZES):
        given = picture(*shape, seed=seed).convert(mode)
        theirs = np.rint(transform(given).numpy() * 255).astype(np.uint8)
        ours = preprocess.openai(48)(given)
        np.testing.assert_array_equal(ours, theirs.transpose(1, 2, 0))


@pytest.fixture(scope="module")
def open_clip_transform():
    """open_clip's evaluation transform without normalisation, as image_size -> it."""
    torch = pytest.importorskip("torch")
    # A torchvision built for CUDA lacks its operators beside a CPU torch and then
    # fails to import; its transforms need none of them, so their names are enough.
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, name):
            library.define(f"{name}(Tensor x, Tensor y, float z) -> Tensor")
    pytest.importorskip("torchvision")
    transform = pytest.importorskip("open_clip.transform").image_transform
    zeros, ones = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    yield lambda size: transform(size, is_train=False, mean=zeros, std=ones)
    del library
