"""Draws synthetic scenes: the objects' positions and their antialiased pixels.

Each object lies in a separate cell of a 3 by 3 grid, slightly off the cell's centre. A
shape is a signed distance (negative inside), evaluated only on the pixels near the
object; a pixel's coverage is that distance clipped to one pixel's width. Lengths are
fractions of the image side, x to the right and y downwards.
"""

from __future__ import annotations

import math

import numpy as np

from clipjax.data.synthetic.scene_grammar import POSITIONS, Scene

MOST = 10_000_000  # the largest number of examples in a source that draws them
RGB = {
    "red": (216, 32, 36),
    "orange": (246, 134, 22),
    "yellow": (242, 216, 34),
    "green": (34, 150, 58),
    "cyan": (40, 196, 214),
    "blue": (40, 80, 226),
    "purple": (132, 46, 168),
    "pink": (246, 132, 190),
    "white": (246, 246, 246),
    "beige": (205, 184, 150),
    "grey": (124, 124, 124),
    "black": (18, 18, 18),
}
# Levels, uniform in [-JITTER, JITTER]: one draw per channel, or one for a background.
JITTER = 8

_RADIUS = {"small": (0.085, 0.095), "large": (0.14, 0.152)}
_REACH = 1.05  # in radii: no shape extends further to any of the four sides
_TILT = 0.2  # radians, uniform in [-_TILT, _TILT]
_SHIFT = 0.04  # the largest shift off the cell's centre, uniform in both directions

# Unit normals of the lines along the sides, one corner up (y is downwards): opposite a
# triangle's corners, but towards a five-pointed star's.
_UP = {3: math.pi / 2, 5: -math.pi / 2}
_NORMALS = {
    n: np.array(
        [[f(up + 2 * math.pi * i / n) for f in (math.cos, math.sin)] for i in range(n)],
        np.float32,
    )
    for n, up in _UP.items()
}


def render(scene: Scene, resolution: int, rng: np.random.Generator) -> np.ndarray:
    """Returns uint8 [resolution resolution 3]; the layout is drawn from `rng`."""
    return _render(scene, resolution, rng)[0]


def render_with_boxes(
    scene: Scene, resolution: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Returns what `render` does, and int64 [objects 4]: the first column and row of
    each object's box, and the first beyond it. A box holds all pixels of which the
    object covers at least half (if there are none, those it covers most of).
    """
    image, covers = _render(scene, resolution, rng)
    return image, np.array([_box(*cover) for cover in covers])


def _render(
    scene: Scene, resolution: int, rng: np.random.Generator
) -> tuple[np.ndarray, list[tuple[int, int, np.ndarray]]]:
    """The image, and for each object what `_paint` returns."""
    image = np.empty((resolution, resolution, 3), np.float32)
    image[:] = _colour(scene.background, rng, 1)
    covers = []
    for kind, cell in zip(scene.kinds, _cells(scene, rng), strict=True):
        radius = _between(rng, *_RADIUS[kind.size])
        shift = min(1 / 6 - _REACH * radius, _SHIFT)
        y, x = ((2 * at + 1) / 6 + _between(rng, -shift, shift) for at in cell)
        tilt = _between(rng, -_TILT, _TILT)
        colour = _colour(kind.colour, rng, 3)
        covers.append(_paint(image, kind.shape, colour, x, y, radius, tilt))
    return (image + 0.5).astype(np.uint8), covers


def _cells(scene: Scene, rng: np.random.Generator) -> list[tuple[int, int]]:
    """Each object's (row, column) in the 3 by 3 grid; all cells are different."""
    count = len(scene.kinds)
    if count == 1:
        return [divmod(POSITIONS.index(scene.place), 3)]
    if scene.alike:
        free = list(range(9))
        return [
            divmod(free.pop(int(rng.random() * len(free))), 3) for _ in range(count)
        ]
    line = int(rng.random() * 3)
    steps = [0, 1, 2]
    if count == 2:
        steps.pop(int(rng.random() * 3))
    return [(at, line) if scene.place == "down" else (line, at) for at in steps]


def _paint(
    image: np.ndarray,
    shape: str,
    colour: np.ndarray,
    x: float,
    y: float,
    radius: float,
    tilt: float,
) -> tuple[int, int, np.ndarray]:
    """Blends one object into float32 [h h 3], in place.

    Returns the column and row at which its region begins, and its cover there.
    """
    side = image.shape[0]
    x, y, radius = x * side, y * side, radius * side
    reach = _REACH * radius + 1
    left, right = max(0, int(x - reach)), min(side, int(x + reach) + 1)
    top, bottom = max(0, int(y - reach)), min(side, int(y + reach) + 1)
    across = np.arange(left, right, dtype=np.float32) + np.float32(0.5 - x)
    down = np.arange(top, bottom, dtype=np.float32)[:, None] + np.float32(0.5 - y)
    cos, sin = np.float32(math.cos(tilt)), np.float32(math.sin(tilt))
    distance = _distance(
        shape, cos * across + sin * down, cos * down - sin * across, radius
    )
    cover = np.clip(0.5 - distance, 0, 1)
    region = image[top:bottom, left:right]
    region += cover[..., None] * (colour - region)
    return left, top, cover


def _box(left: int, top: int, cover: np.ndarray) -> tuple[int, int, int, int]:
    rows, columns = np.nonzero(cover >= min(0.5, cover.max()))
    return (
        left + int(columns.min()),
        top + int(rows.min()),
        left + int(columns.max()) + 1,
        top + int(rows.max()) + 1,
    )


def _distance(shape: str, x: np.ndarray, y: np.ndarray, radius: float) -> np.ndarray:
    """Signed distance to the outline in pixels, exact near the straight sides."""
    r = np.float32(radius)
    if shape == "circle":
        return np.hypot(x, y) - 0.9 * r
    if shape == "ring":
        return np.abs(np.hypot(x, y) - 0.74 * r) - 0.22 * r
    if shape == "square":
        return np.maximum(np.abs(x), np.abs(y)) - 0.76 * r
    if shape == "cross":
        x, y = np.abs(x), np.abs(y)
        long, wide = np.maximum(x, y), np.minimum(x, y)
        return np.maximum(long - 0.98 * r, wide - 0.3 * r)
    sides = 3 if shape == "triangle" else 5
    heights = np.stack([a * x + b * y for a, b in _NORMALS[sides]])
    if shape == "triangle":
        return heights.max(0) - 0.52 * r
    # A point lies in the star if it is inside at least four of the five lines.
    heights.sort(axis=0)
    return heights[-2] - np.float32(_REACH * math.cos(2 * math.pi / 5)) * r


def _colour(name: str, rng: np.random.Generator, channels: int) -> np.ndarray:
    """The named colour as float32 [3], with 1 jitter for all channels or 3."""
    jitter = (2 * rng.random(channels) - 1) * JITTER
    return np.clip(np.asarray(RGB[name], np.float32) + jitter, 0, 255).astype(
        np.float32
    )


def _between(rng: np.random.Generator, low: float, high: float) -> float:
    return low + (high - low) * rng.random()
