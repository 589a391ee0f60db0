"""Crops by OpenCV: Pillow's decoded pixels and errors, and nearly its crops."""

import concurrent.futures
import functools
import pickle
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from image_tools import BROKEN, encoded, picture
from PIL import Image

from clipjax.data.images import augment, decoding, opencv
from clipjax.types import BadExample, UserError

cv2 = pytest.importorskip("cv2")


def smooth(height, width, seed=0):
    """A picture with the detail of a photograph: little of it at single pixels."""
    small = picture(height // 4, width // 4, seed)
    return small.resize((width, height), Image.Resampling.BICUBIC)


def jpeg(mode="RGB", **options):
    return encoded(smooth(80, 120).convert(mode), "JPEG", quality=90, **options)


def turned(orientation):
    exif = Image.Exif()
    exif[decoding.ORIENTATION_TAG] = orientation
    return jpeg(exif=exif)


def several(format):
    rest = [picture(seed=1).convert("RGB")]
    return encoded(picture(), format, save_all=True, append_images=rest)


BY_OPENCV = {
    "plain": jpeg(),
    "progressive": jpeg(progressive=True),
    "grey": jpeg("L"),
    "no subsampling": jpeg(subsampling=0),
    "restarts": jpeg(restart_marker_blocks=2),
    "optimised": jpeg(optimize=True),
    "more behind": jpeg() + b"\0\0more",
    "several": several("MPO"),
    **{f"orientation {n}": turned(n) for n in range(1, 9)},
}
WIDE = np.linspace(0, 65535, 48).astype(np.uint16).reshape(6, 8)
BY_PILLOW = {
    "cmyk": jpeg("CMYK"),
    "png": encoded(picture()),
    "alpha": encoded(picture().convert("RGBA")),
    "palette": encoded(picture().convert("P")),
    "16 bit": encoded(Image.fromarray(WIDE)),
    "webp": encoded(picture(), "WEBP"),
    "gif": several("GIF"),
    "tiff": encoded(picture(), "TIFF"),
    "array": np.asarray(picture()),
    "grey array": np.asarray(picture().convert("L")),
    "picture": picture().convert("CMYK"),
}


@pytest.mark.parametrize("exif", [True, False])
@pytest.mark.parametrize("case", [*BY_OPENCV, *BY_PILLOW])
def test_decoded_pixels_equal_pillows(case, exif):
    data = {**BY_OPENCV, **BY_PILLOW}[case]
    np.testing.assert_array_equal(
        opencv.decode(data, exif=exif), np.asarray(decoding.decode(data, exif=exif))
    )


def test_jpegs_are_decoded_by_opencv_and_nothing_else_is(monkeypatch):
    def refuse(*args, **options):
        raise AssertionError

    with monkeypatch.context() as patch:
        patch.setattr(decoding, "decode", refuse)
        for data in BY_OPENCV.values():
            opencv.decode(data)
    monkeypatch.setattr(cv2, "imdecode", refuse)
    for data in BY_PILLOW.values():
        opencv.decode(data)
    for data, _ in BROKEN.values():  # the bomb with them
        with pytest.raises(BadExample):
            opencv.decode(data)


@pytest.mark.parametrize("case", BROKEN)
def test_broken_bytes_have_pillows_reasons(case):
    data, reason = BROKEN[case]
    with pytest.raises(BadExample, match=reason):
        augment.crop(16, decoder="opencv")(data, np.random.default_rng(0))


@pytest.mark.parametrize("kind", ["plain", "progressive", "grey", "restarts"])
def test_a_jpeg_is_whole_only_with_its_end(kind):
    data = BY_OPENCV[kind]
    assert opencv.is_whole(data)
    assert not any(opencv.is_whole(data[:cut]) for cut in range(0, len(data) - 1, 7))
    assert not opencv.is_whole(data[:-1])


def outcome(decode, data):
    try:
        return np.asarray(decode(data)).tobytes()
    except BadExample as error:
        return str(error)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_damaged_jpeg_has_pillows_pixels_or_its_reason(data):
    raw = bytearray(data.draw(st.sampled_from([*BY_OPENCV.values()])))
    # Half of the damage becomes a marker, which ends what follows.
    values = st.integers(0, 255) | st.just(0xFF)
    for at in data.draw(st.lists(st.integers(0, len(raw) - 1), max_size=4)):
        raw[at] = data.draw(values)
    damaged = bytes(raw[: data.draw(st.just(len(raw)) | st.integers(0, len(raw)))])
    assert outcome(opencv.decode, damaged) == outcome(decoding.decode, damaged)


def test_a_damaged_marker_is_found_where_opencv_would_fill_with_grey():
    """With FF DB in its coded data Pillow gives an error, OpenCV a picture."""
    raw = bytearray(jpeg())
    at = raw.index(b"\xff\x00", raw.index(b"\xff\xda"))
    raw[at + 1] = 0xDB
    assert cv2.imdecode(np.frombuffer(raw, np.uint8), cv2.IMREAD_COLOR) is not None
    with pytest.raises(BadExample, match="cannot be decoded"):
        opencv.decode(bytes(raw))


SHAPES = [(300, 400), (400, 300), (100, 140), (60, 300), (300, 60), (64, 64)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("orientation", [1, 6])
def test_crops_are_near_pillows(shape, orientation):
    exif = Image.Exif()
    exif[decoding.ORIENTATION_TAG] = orientation
    data = encoded(smooth(*shape), "JPEG", quality=90, exif=exif)
    both = [
        augment.crop(64, decoder=decoder, scale=(0.2, 1.0), flip=0.5)
        for decoder in augment.DECODERS
    ]
    far = []
    for seed in range(8):
        rngs = [np.random.default_rng(seed) for _ in both]
        exact, fast = (
            transform(data, rng).astype(int)
            for transform, rng in zip(both, rngs, strict=True)
        )
        assert fast.shape == (64, 64, 3)
        assert rngs[0].random() == rngs[1].random()
        far.append(np.abs(exact - fast).mean())
        other = both[0](data, np.random.default_rng(seed + 100)).astype(int)
        assert np.abs(other - exact).mean() > 5 * far[-1]
    assert 0 < np.mean(far) < 3


@pytest.mark.parametrize("side", [16, 32, 64, 96])
def test_shrinking_averages_and_nothing_shares_memory(side):
    given = np.arange(64 * 64 * 3, dtype=np.uint8).reshape(64, 64, 3) // 2
    out = opencv.resize(given, (0, 0, 64, 64), side)
    assert out.shape == (side, side, 3) and out.dtype == np.uint8
    assert out.flags.writeable and not np.may_share_memory(out, given)
    if side == 16:
        means = given.reshape(16, 4, 16, 4, 3).mean((1, 3))
        assert np.abs(out - means).max() <= 0.5
    if side == 64:
        np.testing.assert_array_equal(out, given)


def test_the_box_is_the_part():
    given = np.asarray(smooth(60, 80))
    one = opencv.resize(given, (10, 20, 50, 56), 24)
    other = opencv.resize(given[20:56, 10:50].copy(), (0, 0, 40, 36), 24)
    np.testing.assert_array_equal(one, other)


def test_threads_and_copies_of_it_give_the_same_pixels():
    transform = augment.crop(32, decoder="opencv", flip=0.5, color_jitter=0.4)
    cases = [*BY_OPENCV.values()] * 4
    copy = pickle.loads(pickle.dumps(transform))
    run = functools.partial(make, copy)
    expected = [make(transform, i, data) for i, data in enumerate(cases)]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        found = list(pool.map(run, range(len(cases)), cases))
    np.testing.assert_array_equal(found, expected)
    assert cv2.getNumThreads() == 1


def make(transform, seed, data):
    return transform(data, np.random.default_rng(seed))


def test_colours_and_steps_follow_as_after_pillow():
    data = jpeg()
    plain = augment.crop(32, decoder="opencv")(data, np.random.default_rng(3))
    flipped = augment.crop(32, decoder="opencv", flip=1.0)
    np.testing.assert_array_equal(
        flipped(data, np.random.default_rng(3)), plain[:, ::-1]
    )
    chain = augment.Chain((augment.crop(32, decoder="opencv"), augment.blur(32, p=1.0)))
    rng = np.random.default_rng(3)
    expected = augment.crop(32, decoder="opencv")(data, rng)
    expected = augment.blur(32, p=1.0)(expected, rng)
    np.testing.assert_array_equal(chain(data, np.random.default_rng(3)), expected)


def test_mistakes_are_told_before_training(monkeypatch):
    with pytest.raises(UserError, match="decoder='cv2': use pillow or opencv"):
        augment.crop(32, decoder="cv2")
    with pytest.raises(UserError, match="draft=True goes with decoder='pillow' only"):
        augment.crop(32, decoder="opencv", draft=True)
    opencv.library.cache_clear()
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(UserError, match=r"needs OpenCV .*pip install -e '\.\[images"):
        augment.crop(32, decoder="opencv")
    augment.crop(32)


def test_opencv_is_imported_only_where_chosen():
    code = "import sys, clipjax.data.images.augment; sys.exit('cv2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_what_shrinks_a_little_does_not_alias():
    """Stripes of a pixel each are grey at half the size, whatever pixels are taken."""
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    for drawn in (stripes, stripes.swapaxes(0, 1)):
        out = opencv.resize(np.ascontiguousarray(drawn), (1, 1, 63, 63), 31)
        assert 115 <= out[2:-2, 2:-2].min() and out[2:-2, 2:-2].max() <= 140


@pytest.mark.parametrize("side", [30, 40, 50, 58])
def test_what_shrinks_a_little_is_near_pillows(side):
    given = np.asarray(smooth(60, 60))
    exact = Image.fromarray(given).resize((side, side), Image.Resampling.BICUBIC)
    off = np.abs(opencv.resize(given, (0, 0, 60, 60), side) - np.asarray(exact, int))
    assert off.mean() < 1
