"""Twelve of ImageNet-C's corruptions, at its five severities.

Hendrycks and Dietterich 2019, arXiv 1903.12261: those that need neither pictures of
frost nor ImageMagick. Their constants are for 224 x 224 pixels and are not scaled to
other sizes. Like the authors' program, all cut values down to whole levels of 255.
Three of its oddities are kept because the published images have them: glass_blur copies
pixels where a comment says that it swaps them, defocus_blur makes images 1 % brighter
at severities 4 and 5, and the lengths of elastic_transform are shares of 244 pixels.

Every function of KINDS takes an image uint8 [h w 3], a severity from 1 to 5 and a
generator, and returns uint8 [h w 3]. Those that are not random draw no numbers.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable

import numpy as np
import scipy.ndimage
from PIL import Image

from clipjax.data.images import image_warps

SEVERITIES = (1, 2, 3, 4, 5)
_BOX = Image.Resampling.BOX
_NOISE = 1e-3  # of a level: what arithmetic may lack of a whole one


def corrupt(
    image: np.ndarray, kind: str, severity: int, rng: np.random.Generator
) -> np.ndarray:
    """An image with one corruption, uint8 [h w 3].

    Args:
      image: uint8 [h w 3]. kind: of KINDS. severity: of SEVERITIES. rng: for the random
        kinds.

    Raises ValueError for another kind, severity or image.

    >>> grey = np.full((2, 2, 3), 100, np.uint8)
    >>> int(corrupt(grey, "brightness", 1, np.random.default_rng(0)).max())
    125
    """
    if kind not in KINDS or severity not in SEVERITIES:
        raise ValueError(f"there is no corruption {kind!r} of severity {severity!r}")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"{image.dtype} {list(image.shape)} is no uint8 [h w 3]")
    return KINDS[kind](image, severity, rng)


def generator(seed: int, kind: str, severity: int, key: str) -> np.random.Generator:
    """The generator of one image's corruption: the same in any order and process.

    key: the image's.
    """
    text = f"{seed} {kind} {severity} {key}".encode("utf-8", "surrogateescape")
    digest = hashlib.blake2b(text, digest_size=16).digest()
    return np.random.default_rng(int.from_bytes(digest))


def gaussian_noise(
    image: np.ndarray, severity: int, rng: np.random.Generator
) -> np.ndarray:
    """Normal noise, as of little light."""
    deviation = (0.08, 0.12, 0.18, 0.26, 0.38)[severity - 1]
    return _levels(image / 255 + rng.normal(0.0, deviation, image.shape))


def shot_noise(
    image: np.ndarray, severity: int, rng: np.random.Generator
) -> np.ndarray:
    """Poisson noise of so many photons at white."""
    photons = (60, 25, 12, 5, 3)[severity - 1]
    return _levels(rng.poisson(image / 255 * photons) / photons)


def impulse_noise(
    image: np.ndarray, severity: int, rng: np.random.Generator
) -> np.ndarray:
    """Salt and pepper: a share of the values becomes 0 or 255."""
    share = (0.03, 0.06, 0.09, 0.17, 0.27)[severity - 1]
    hit = rng.random(image.shape) <= share
    salt = rng.random(image.shape) <= 0.5
    return np.where(hit, np.where(salt, 255, 0), image).astype(np.uint8)


def defocus_blur(
    image: np.ndarray, severity: int, rng: np.random.Generator
) -> np.ndarray:
    """A mean over a disk, of so many pixels' radius and with an edge so soft."""
    del rng
    radius, softness = ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5))[severity - 1]
    kernel = image_warps.disk(radius, softness)
    return _levels(image_warps.filtered(image / 255, kernel))


def glass_blur(
    image: np.ndarray, severity: int, rng: np.random.Generator
) -> np.ndarray:
    """A Gaussian blur, copies of pixels nearby `rounds` times, and the blur again."""
    sigma, reach, rounds = (
        (0.7, 1, 2),
        (0.9, 2, 1),
        (1, 2, 3),
        (1.1, 3, 2),
        (1.5, 4, 2),
    )[severity - 1]
    blurred = _levels(_blurred(image / 255, sigma))
    height, width = image.shape[:2]
    for _ in range(rounds):
        taken = image_warps.neighbour_copies(height, width, reach, rng)
        blurred = blurred.reshape(-1, 3)[taken].reshape(image.shape)
    return _levels(_blurred(blurred / 255, sigma))


def zoom_blur(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """The mean of the image and of enlargements of its middle."""
    del rng
    end, step = ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03))[
        severity - 1
    ]
    factors = np.arange(1, end, step).tolist()
    plain = (image / 255).astype(np.float32)
    total = plain.copy()
    for factor in factors:
        total += image_warps.zoomed(plain, factor)
    return _levels(total / (len(factors) + 1))


def fog(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """A plasma fractal of so much weight on the image, which darkens to make room.

    A larger decay makes the fog smoother.
    """
    weight, decay = ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4))[severity - 1]
    height, width = image.shape[:2]
    # As the authors' 256 for 224 pixels: clouds of the image's size.
    side = max(2, 1 << (max(height, width) - 1).bit_length())
    plasma = image_warps.plasma(side, decay, rng)[:height, :width, None]
    brightest = image.max() / 255
    return _levels((image / 255 + weight * plasma) * brightest / (brightest + weight))


def brightness(
    image: np.ndarray, severity: int, rng: np.random.Generator
) -> np.ndarray:
    """Adds to the value of hue, saturation and value, which keeps the other two."""
    del rng
    value = image.max(axis=2, keepdims=True) / 255
    brighter = np.minimum(value + (0.1, 0.2, 0.3, 0.4, 0.5)[severity - 1], 1)
    black = value == 0  # no hue: it becomes grey
    return _levels(
        np.where(black, brighter, image / 255 * brighter / np.where(black, 1, value))
    )


def contrast(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Keeps a share of the distance to each channel's mean."""
    del rng
    share = (0.4, 0.3, 0.2, 0.1, 0.05)[severity - 1]
    means = (image / 255).mean(axis=(0, 1), keepdims=True)
    return _levels((image / 255 - means) * share + means)


def elastic_transform(
    image: np.ndarray, severity: int, rng: np.random.Generator
) -> np.ndarray:
    """A random affine map, then random displacements of smooth fields."""
    shares = ((2, 0.7, 0.1), (2, 0.08, 0.2), (0.05, 0.01, 0.02), (0.07, 0.01, 0.02))
    strength, sigma, shift = (
        244 * share for share in (*shares, (0.12, 0.01, 0.02))[severity - 1]
    )
    height, width = image.shape[:2]
    moved = image_warps.affine(
        (image / 255).astype(np.float32), rng.uniform(-shift, shift, (3, 2))
    )
    across, down = (
        image_warps.smoothed(rng.uniform(-1, 1, (height, width)), sigma) * strength
        for _ in range(2)
    )
    rows, columns = np.mgrid[:height, :width]
    places = np.stack([rows + down, columns + across])
    return _levels(image_warps.sampled(moved, places, "reflect"))


def pixelate(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """The mean of each of fewer, larger pixels."""
    del rng
    share = (0.6, 0.5, 0.4, 0.3, 0.25)[severity - 1]
    height, width = image.shape[:2]
    small = max(1, int(width * share)), max(1, int(height * share))
    picture = Image.fromarray(image).resize(small, _BOX)
    return np.array(picture.resize((width, height), _BOX))


def jpeg_compression(
    image: np.ndarray, severity: int, rng: np.random.Generator
) -> np.ndarray:
    """Saves as a JPEG of so low a quality, and opens that."""
    del rng
    saved = io.BytesIO()
    quality = (25, 18, 15, 10, 7)[severity - 1]
    Image.fromarray(image).save(saved, "JPEG", quality=quality)
    return np.array(Image.open(saved))


KINDS: dict[str, Callable[[np.ndarray, int, np.random.Generator], np.ndarray]] = {
    "gaussian_noise": gaussian_noise,
    "shot_noise": shot_noise,
    "impulse_noise": impulse_noise,
    "defocus_blur": defocus_blur,
    "glass_blur": glass_blur,
    "zoom_blur": zoom_blur,
    "fog": fog,
    "brightness": brightness,
    "contrast": contrast,
    "elastic_transform": elastic_transform,
    "pixelate": pixelate,
    "jpeg_compression": jpeg_compression,
}


def _levels(values: np.ndarray) -> np.ndarray:
    """Values from 0 to 1 as uint8, cut down to whole levels."""
    return (np.clip(values, 0, 1) * 255 + _NOISE).astype(np.uint8)


def _blurred(values: np.ndarray, sigma: float) -> np.ndarray:
    return scipy.ndimage.gaussian_filter(values, (sigma, sigma, 0), mode="nearest")
