"""Filters, maps and random fields that corruptions are made of; see imagenet_c.py."""

from __future__ import annotations

import math

import numpy as np
import scipy.fft
import scipy.ndimage


def disk(radius: int, softness: float) -> np.ndarray:
    """float [k k]: a disk of sum 1 whose edge a small Gaussian softens.

    The Gaussian mirrors the k x k pixels at their border, so it makes the sum of a disk
    that reaches there 1.01.

    radius: from 1; k is 17 or, if it is above 8, 2 * radius + 1. softness: the sigma in
    pixels, over 3 x 3 of them, or 5 x 5 for a radius above 8.
    """
    reach = max(8, radius)
    across = np.arange(-reach, reach + 1)
    filled = (across**2 + across[:, None] ** 2 <= radius**2).astype(float)
    filled /= filled.sum()
    near = 1 if radius <= 8 else 2
    taps = np.exp(-(np.arange(-near, near + 1) ** 2) / (2 * softness**2))
    taps /= taps.sum()
    for axis in range(2):
        filled = scipy.ndimage.correlate1d(filled, taps, axis, mode="mirror")
    return filled


def filtered(image: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """An image float [h w c] under a symmetric kernel [k k] of odd k; its border
    mirrors it. By Fourier transforms: many times faster than sums for large kernels.
    """
    edge = len(kernel) // 2
    padded = np.pad(image, ((edge, edge), (edge, edge), (0, 0)), "reflect")
    size = padded.shape[:2]
    product = np.fft.rfft2(padded, axes=(0, 1))
    product *= np.fft.rfft2(kernel, s=size)[:, :, None]
    whole = np.fft.irfft2(product, s=size, axes=(0, 1))
    return whole[2 * edge :, 2 * edge :]


def zoomed(image: np.ndarray, factor: float) -> np.ndarray:
    """The middle of an image float [h w c], enlarged linearly to its size.

    factor: at least 1.
    """
    for axis in range(2):
        size = image.shape[axis]
        part = math.ceil(size / factor)
        enlarged = max(size, round(part * factor))
        start, cut = (size - part) // 2, (enlarged - size) // 2
        at = (np.arange(size) + cut) * ((part - 1) / max(enlarged - 1, 1))
        low = np.minimum(at.astype(int), part - 1)
        high = np.minimum(low + 1, part - 1)
        share = (at - low).astype(image.dtype)
        share = share[:, None, None] if axis == 0 else share[:, None]
        before, after = (image.take(start + x, axis=axis) for x in (low, high))
        image = before + (after - before) * share
    return image


def neighbour_copies(
    height: int, width: int, reach: int, rng: np.random.Generator
) -> np.ndarray:
    """int [h * w]: the pixel that each pixel is a copy of in the end, if each, from the
    last to the first, is replaced by a random neighbour as that is by then.

    A neighbour lies up to `reach` pixels before and fewer behind, in both directions.
    Pixels nearer to the border than that stay.
    """
    rows = np.arange(height - reach, reach, -1)
    columns = np.arange(width - reach, reach, -1)
    places = (rows[:, None] * width + columns).ravel()
    moves = rng.integers(-reach, reach, (len(places), 2))  # across, down
    sources = places + moves @ np.array([1, width])
    taken = list(range(height * width))
    for place, source in zip(places.tolist(), sources.tolist(), strict=True):
        taken[place] = taken[source]
    return np.array(taken)


def plasma(side: int, decay: float, rng: np.random.Generator) -> np.ndarray:
    """float [side side] from 0 to 1: clouds by the diamond-square algorithm, periodic.

    Each halving of the distance divides the root of the noise's range by `decay`. The
    mean of four neighbours gets uniform noise of that range.

    side: a power of two.
    """
    clouds = np.zeros((side, side))
    step, root = side, 100.0

    def with_noise(sums: np.ndarray) -> np.ndarray:
        return sums / 4 + root * rng.uniform(-root, root, sums.shape)

    while step >= 2:
        half = step // 2
        corners = clouds[::step, ::step]
        sums = corners + np.roll(corners, -1, 0)
        clouds[half::step, half::step] = with_noise(sums + np.roll(sums, -1, 1))
        middles = clouds[half::step, half::step]
        above = middles + np.roll(middles, 1, 0) + corners + np.roll(corners, -1, 1)
        clouds[::step, half::step] = with_noise(above)
        beside = middles + np.roll(middles, 1, 1) + corners + np.roll(corners, -1, 0)
        clouds[half::step, ::step] = with_noise(beside)
        step, root = half, root / decay
    clouds -= clouds.min()
    return clouds / clouds.max()


def affine(image: np.ndarray, shifts: np.ndarray) -> np.ndarray:
    """An image float [h w c] under the affine map that moves three corners of a square
    in its middle; its border mirrors it.

    shifts: float [3 2], each corner's, across and down, in pixels.
    """
    height, width = image.shape[:2]
    reach = min(height, width) // 3
    corners = np.array([[1, 1], [1, -1], [-1, -1]]) * reach
    corners = corners + np.array([width // 2, height // 2])
    ends = np.column_stack([corners + shifts, np.ones(3)])
    back = np.linalg.solve(ends, corners)  # [3 2]: from a pixel to where it was
    rows, columns = np.mgrid[:height, :width]
    was = np.stack([columns, rows, np.ones_like(rows)], axis=-1) @ back
    return sampled(image, was[..., ::-1].transpose(2, 0, 1), "mirror")


def smoothed(field: np.ndarray, sigma: float) -> np.ndarray:
    """A field [h w] under a Gaussian that ends at three sigma, reflected at the edges.

    In cosines, in which the filter is a product: its cost does not grow with sigma.
    """
    reach = int(3 * sigma + 0.5)
    taps = np.exp(-0.5 * (np.arange(reach + 1) / sigma) ** 2)
    taps[1:] *= 2  # both sides
    taps /= taps.sum()
    waves = np.asarray(scipy.fft.dctn(field))
    for axis, size in enumerate(field.shape):
        angles = np.outer(np.arange(size), np.arange(reach + 1)) * (math.pi / size)
        gains = np.cos(angles) @ taps
        waves *= gains[:, None] if axis == 0 else gains
    return np.asarray(scipy.fft.idctn(waves))


def sampled(image: np.ndarray, places: np.ndarray, mode: str) -> np.ndarray:
    """An image float [h w c] at places [2 h w] (rows, columns), between its pixels
    linearly.

    mode: what lies outside, as of scipy.ndimage.map_coordinates.
    """
    channels = [
        scipy.ndimage.map_coordinates(image[..., i], places, order=1, mode=mode)
        for i in range(image.shape[2])
    ]
    return np.stack(channels, axis=-1)
