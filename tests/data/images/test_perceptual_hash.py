"""Perceptual hashes: those of ImageHash, and which pictures have near ones."""

import numpy as np
import pytest
import scipy.fft
from image_tools import encoded, motif, picture
from PIL import Image, ImageEnhance

from clipjax.data.images import decoding, perceptual_hash


def differing(first, second):
    here, there = map(perceptual_hash.of_picture, (first, second))
    assert here is not None and there is not None
    return (here ^ there).bit_count()


@pytest.mark.parametrize(
    "seed, by_imagehash", [(0, 0xFC07FEF8017803F0), (3, 0xFE07FEF8017001F8)]
)
def test_the_hash_is_imagehash_s(seed, by_imagehash):
    """The values are those of `imagehash.phash`, version 4.3.2."""
    assert perceptual_hash.of_picture(picture(40, 60, seed)) == by_imagehash


def test_the_hash_is_of_the_low_frequencies_against_their_median():
    grey = np.random.default_rng(1).integers(0, 256, (32, 32)).astype(np.uint8)
    low = np.asarray(scipy.fft.dctn(grey.astype(float), type=2))[:8, :8]
    bits = "".join("01"[int(x > np.median(low))] for x in low.ravel())
    assert perceptual_hash.of_picture(Image.fromarray(grey)) == int(bits, 2)


def test_an_altered_picture_has_a_near_hash_and_another_a_far_one():
    made = motif(0)
    again = decoding.decode(encoded(made, "JPEG", quality=50))
    assert differing(made, again) <= 4
    assert differing(made, made.resize((60, 45), Image.Resampling.BICUBIC)) <= 4
    assert differing(made, ImageEnhance.Brightness(made).enhance(0.8)) <= 4
    assert differing(made, made.crop((1, 1, 119, 89))) <= 4
    assert differing(made, made.transpose(Image.Transpose.FLIP_LEFT_RIGHT)) > 16
    apart = [differing(made, motif(seed)) for seed in range(1, 6)]
    assert min(apart) > 16


def test_plain_pictures_have_no_hash():
    assert perceptual_hash.of_picture(Image.new("RGB", (80, 60), (9, 99, 200))) is None
    noise = np.random.default_rng(0).normal(128, 2, (200, 200, 3)).round()
    assert perceptual_hash.of_picture(Image.fromarray(noise.astype(np.uint8))) is None
    slope = np.repeat(np.linspace(0, 255, 90, dtype=np.uint8)[None], 90, 0)
    assert perceptual_hash.of_picture(Image.fromarray(slope)) is None
    white = np.full((100, 100, 3), 255, np.uint8)
    white[40:60, 45:55] = 0
    assert perceptual_hash.of_picture(Image.fromarray(white)) is None
    white[10:30, 70:95] = 90
    white[65:90, 5:35] = 160
    assert perceptual_hash.of_picture(Image.fromarray(white)) is not None


@pytest.mark.parametrize("cells", [2**18, 100, 1])
def test_near_pairs_are_those_of_a_brute_force(cells, monkeypatch):
    monkeypatch.setattr(perceptual_hash, "_CELLS", cells)
    rng = np.random.default_rng(0)
    first = rng.integers(2**64, size=23, dtype=np.uint64)
    second = rng.integers(2**64, size=40, dtype=np.uint64)
    second[5] = first[7]
    second[6] = first[7] ^ np.uint64(2**63 + 1)
    second[9] = first[22] ^ np.uint64(0b11111)
    expected = [
        (i, j, bits)
        for i, a in enumerate(first.tolist())
        for j, b in enumerate(second.tolist())
        if (bits := bin(a ^ b).count("1")) <= 26
    ]
    found = perceptual_hash.near(first, second, 26)
    assert [tuple(pair) for pair in found.tolist()] == expected
    assert len(expected) > 20
    close = perceptual_hash.near(first, second, 4)
    assert close.tolist() == [[7, 5, 0], [7, 6, 2]]


def test_no_hashes_have_no_pairs():
    none, one = np.zeros(0, np.uint64), np.ones(1, np.uint64)
    for hashes, others in ((none, one), (one, none), (none, none)):
        assert perceptual_hash.near(hashes, others, 64).shape == (0, 3)
