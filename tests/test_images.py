"""Decoding, preprocessing and augmentation: equal to Pillow, deaf to broken bytes."""

import concurrent.futures
import io
import math
import pickle
import struct
import warnings
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from clipjax.data import augment, images, preprocess
from clipjax.types import BadExample, UserError

BICUBIC = Image.Resampling.BICUBIC


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
    got = images.decode(data)
    assert got.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(got), np.asarray(expected))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGBA", "CMYK", "YCbCr"])
def test_decode_converts_every_mode_as_pillow_does(mode):
    given = picture().convert(mode)
    np.testing.assert_array_equal(
        np.asarray(images.decode(given)), np.asarray(given.convert("RGB"))
    )


def test_alpha_is_dropped_not_composited():
    rgba = np.dstack([pixels(8, 8), np.zeros((8, 8), np.uint8)])
    got = images.decode(encoded(Image.fromarray(rgba)))
    np.testing.assert_array_equal(np.asarray(got), rgba[..., :3])


def test_cmyk_jpeg_decodes():
    got = images.decode(encoded(picture().convert("CMYK"), "JPEG", quality=95))
    assert got.mode == "RGB" and got.size == (60, 40)
    assert np.abs(np.asarray(got).astype(int) - pixels(40, 60)).mean() < 12


def test_16_bit_grey_keeps_its_upper_bits_instead_of_clipping_to_white():
    wide = np.linspace(0, 65535, 48).astype(np.uint16).reshape(6, 8)
    got = np.asarray(images.decode(encoded(Image.fromarray(wide))))
    np.testing.assert_array_equal(got[..., 0], (wide >> 8).astype(np.uint8))
    np.testing.assert_array_equal(got[..., 0], got[..., 2])


def test_float_pixels_are_refused():
    data = encoded(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF")
    with pytest.raises(BadExample, match="float pixels"):
        images.decode(data)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_exif_orientation_is_applied_only_on_request(orientation, format):
    exif = Image.Exif()
    exif[images.ORIENTATION_TAG] = orientation
    data = encoded(picture(), format, exif=exif)
    stored = Image.open(io.BytesIO(data))
    upright = ImageOps.exif_transpose(stored).convert("RGB")
    np.testing.assert_array_equal(np.asarray(images.decode(data)), np.asarray(upright))
    np.testing.assert_array_equal(
        np.asarray(images.decode(data, exif=False)), np.asarray(stored.convert("RGB"))
    )


def test_damaged_exif_leaves_the_pixels_usable():
    data = encoded(picture(), "JPEG", exif=b"Exif\0\0II*\0garbage, not a directory")
    got = images.decode(data)
    plain = encoded(picture(), "JPEG")
    np.testing.assert_array_equal(np.asarray(got), np.asarray(images.decode(plain)))


@pytest.mark.parametrize("shape", [(5, 7, 3), (5, 7), (5, 7, 1), (5, 7, 4)])
def test_arrays(shape):
    array = np.arange(math.prod(shape), dtype=np.uint8).reshape(shape)
    got = np.asarray(images.decode(array))
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
        images.decode(array)


def bomb():
    """A PNG header that claims 60,000 x 60,000 pixels."""
    body = b"IHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    header = struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))
    return b"\x89PNG\r\n\x1a\n" + header + struct.pack(">I", 9) + b"IDAT" + bytes(9)


BROKEN = {
    "empty": (b"", "empty"),
    "html": (b"<!DOCTYPE html><html>404</html>", "not an image.*DOCTYPE"),
    "eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
    "bomb": (bomb(), "too large"),
    "cut jpeg": (encoded(picture(), "JPEG")[:700], "cannot be decoded"),
    "cut png": (encoded(picture())[:700], "cannot be decoded"),
    "cut webp": (encoded(picture(), "WEBP")[:300], "cannot be|not an image"),
    "header only": (encoded(picture(), "JPEG")[:20], "cannot be|not an image"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_bytes_are_bad_examples_with_a_short_reason(case):
    data, reason = BROKEN[case]
    with pytest.raises(BadExample, match=reason) as caught:
        images.decode(data)
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
        assert images.decode(bytes(raw)).mode == "RGB"
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
            images.decode(b"not an image")
        images.decode(data)
        images.decode(paletted)
        warnings.warn("ours", stacklevel=1)
    assert [str(w.message) for w in seen] == ["ours"]


def test_a_jpeg_is_decoded_smaller_but_not_below_what_is_wanted():
    exif = Image.Exif()
    exif[images.ORIENTATION_TAG] = 6
    plain = encoded(picture(400, 645), "JPEG")
    turned = encoded(picture(400, 645), "JPEG", exif=exif)
    assert images.size(plain) == (645, 400) and images.size(turned) == (400, 645)
    assert images.size(turned, exif=False) == (645, 400)
    assert images.decode(plain, at_least=(215, 133)).size == (323, 200)
    assert images.decode(plain, at_least=(324, 100)).size == (645, 400)
    assert images.decode(turned, at_least=(100, 161)).size == (100, 162)
    assert images.decode(encoded(picture()), at_least=(1, 1)).size == (60, 40)


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
    exif[images.ORIENTATION_TAG] = 6
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


# Augmentation


def make_rng(seed=0):
    return np.random.default_rng(seed)


@pytest.mark.parametrize(
    "options", [{}, {"flip": 0.5, "color_jitter": 0.4, "hue": 0.1}, {"draft": True}]
)
def test_draws_do_not_depend_on_image_or_options(options):
    left = []
    for shape in ((40, 60), (300, 20), (5, 5)):
        rng = make_rng()
        out = augment.crop(24, **options)(encoded(picture(*shape), "JPEG"), rng)
        assert out.shape == (24, 24, 3) and out.dtype == np.uint8
        left.append(rng.random())
    expected = make_rng()
    augment.crop(24)(picture(), expected)
    assert set(left) == {expected.random()}


def test_the_same_draws_give_the_same_crop_and_others_another():
    transform = augment.crop(24)
    one, same, other = (transform(picture(), make_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()


def test_full_scale_and_ratio_one_is_the_whole_square():
    given = picture(64, 64)
    got = augment.crop(24, scale=(1.0, 1.0), ratio=(1.0, 1.0))(given, make_rng())
    np.testing.assert_array_equal(got, np.asarray(given.resize((24, 24), BICUBIC)))


def crop_box(transform, width, height, seed):
    """The crop taken, read off an image whose colours are its coordinates."""
    ramp = np.zeros((height, width, 3), np.uint8)
    ramp[..., 0] = np.arange(width) * 255 // (width - 1)
    ramp[..., 1] = (np.arange(height) * 255 // (height - 1))[:, None]
    out = transform(ramp, make_rng(seed)).astype(float)
    size = out.shape[0]
    span_x = (out[:, -1, 0] - out[:, 0, 0]).mean() / 255 * width * size / (size - 1)
    span_y = (out[-1, :, 1] - out[0, :, 1]).mean() / 255 * height * size / (size - 1)
    return abs(span_x), abs(span_y)


@pytest.mark.parametrize("scale", [(0.2, 0.3), (0.5, 0.9)])
def test_area_and_ratio_stay_in_their_ranges(scale):
    transform = augment.crop(32, scale=scale, ratio=(0.75, 1.3333))
    boxes = [crop_box(transform, 200, 200, seed) for seed in range(60)]
    shares = np.array([x * y / 200**2 for x, y in boxes])
    ratios = np.array([x / y for x, y in boxes])
    assert scale[0] - 0.04 < shares.min() and shares.max() < scale[1] + 0.06
    assert 0.68 < ratios.min() < 0.9 and 1.1 < ratios.max() < 1.45
    assert abs(shares.mean() - sum(scale) / 2) < 0.05


def test_a_crop_that_never_fits_is_the_largest_permitted():
    transform = augment.crop(24, scale=(1.0, 1.0), ratio=(0.9, 1.1))
    tries = make_rng().random(2 * augment.TRIES)
    assert transform._crop_size(400, 100, tries) == (110, 100)
    assert transform._crop_size(90, 400, tries) == (90, 100)
    assert transform._crop_size(1, 400, tries) == (1, 1)


def test_flip_is_a_probability():
    given = picture(64, 64)
    whole = dict(scale=(1.0, 1.0), ratio=(1.0, 1.0))
    plain = augment.crop(24, **whole)(given, make_rng())
    always = augment.crop(24, **whole, flip=1.0)(given, make_rng())
    np.testing.assert_array_equal(always, plain[:, ::-1])
    half = augment.crop(24, **whole, flip=0.5)
    flipped = sum((half(given, make_rng(s)) == always).all() for s in range(200))
    assert 70 < flipped < 130
    never = augment.crop(24, **whole)
    assert all((never(given, make_rng(s)) == plain).all() for s in range(20))


def test_jitter_changes_colours_within_its_strength():
    whole = dict(scale=(1.0, 1.0), ratio=(1.0, 1.0))
    grey = np.full((32, 32, 3), 100, np.uint8)
    means = [
        augment.crop(16, **whole, color_jitter=0.3)(grey, make_rng(s)).mean()
        for s in range(60)
    ]
    assert 69 <= min(means) < 78 and 122 < max(means) <= 131
    red = np.full((8, 8, 3), (200, 0, 0), np.uint8)
    hues = [
        augment.crop(8, **whole, hue=0.2)(red, make_rng(s))[0, 0] for s in range(40)
    ]
    assert {tuple(h) for h in hues} != {(200, 0, 0)}
    # A fifth of the circle either way reaches yellow (and green) or magenta (blue).
    assert all(max(h) == 200 and min(h) == 0 for h in hues)
    assert any(h[1] > 50 for h in hues) and any(h[2] > 50 for h in hues)


def test_draft_is_near_the_exact_crop():
    large = picture(40, 60).reduce(5).resize((1200, 800), BICUBIC)
    data = encoded(large, "JPEG", quality=95)
    exact = augment.crop(32)(data, make_rng()).astype(int)
    draft = augment.crop(32, draft=True)(data, make_rng()).astype(int)
    assert 0 < np.abs(exact - draft).mean() < 3


def test_none_is_the_evaluation_transform_and_draws_nothing():
    rng = make_rng()
    data = encoded(picture(40, 60), "JPEG")
    np.testing.assert_array_equal(
        augment.none(32)(data, rng), preprocess.clip(32)(data)
    )
    assert rng.random() == make_rng().random()


@pytest.mark.parametrize(
    "options",
    [
        {"scale": (0.0, 1.0)},
        {"scale": (0.9, 0.5)},
        {"ratio": (2.0, 1.0)},
        {"flip": 1.5},
        {"color_jitter": -0.1},
        {"hue": 0.6},
    ],
)
def test_options_out_of_range_name_themselves(options):
    with pytest.raises(UserError, match=f"augment {next(iter(options))}="):
        augment.crop(32, **options)


def test_transforms_pickle_and_work_from_many_threads():
    data = [encoded(picture(40 + i, 60, seed=i), "JPEG") for i in range(12)]
    fixed = pickle.loads(pickle.dumps(preprocess.clip(32)))
    random = pickle.loads(pickle.dumps(augment.crop(32, flip=0.5, color_jitter=0.2)))

    def both(i):
        return fixed(data[i]), random(data[i], make_rng(i))

    alone = [both(i) for i in range(12)]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for one, other in zip(alone, pool.map(both, range(12)), strict=True):
            np.testing.assert_array_equal(one, other)
