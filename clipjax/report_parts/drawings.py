"""Drawings that show pictures: a matrix of similarities, and a map of images.

They are not charts of a library, because a page keeps each picture once and a drawing
refers to it. Colours and fonts are the page's.
"""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from clipjax.report_parts import thumbnails
from clipjax.report_parts.page import Drawing

CELL, EDGE = 24, 30  # of the matrix; units of the drawing
MAP_WIDTH, MAP_HEIGHT, PICTURE = 640, 420, 34  # of the map


def matrix(values: np.ndarray, pictures: list[str], words: str) -> Drawing:
    """Similarities of n images (rows) and n captions (columns), the pairs outlined.

    values: [n n], finite. pictures: of the images, by name; "" for none.
    """
    count = len(values)
    side = CELL * count
    low, high = float(values.min()), float(values.max())
    heat = _png((values - low) / (high - low or 1.0))
    scale = _png(np.linspace(0, 1, 64)[None])
    parts = [
        f'<image href="{heat}" x="{EDGE}" y="{EDGE}" width="{side}" height="{side}" '
        'preserveAspectRatio="none" style="image-rendering: pixelated"/>'
    ]
    for at, name in enumerate(pictures):
        place = EDGE + CELL * at
        if name:
            parts.append(_use(name, 2, place + 1, CELL - 2))
        parts.append(
            f'<text x="{place + CELL / 2:g}" y="{EDGE - 9}" font-size="12" '
            f'text-anchor="middle" fill="currentColor">{at + 1}</text>'
            f'<rect x="{place + 0.75:g}" y="{place + 0.75:g}" width="{CELL - 1.5:g}" '
            f'height="{CELL - 1.5:g}" fill="none" stroke="#ffffff" stroke-width="1.5"/>'
        )
    below = EDGE + side + 12
    parts.append(
        f'<image href="{scale}" x="{EDGE + 46}" y="{below}" width="{side - 92}" '
        'height="10" preserveAspectRatio="none"/>'
    )
    for x, anchor, value in (
        (EDGE + 40, "end", low),
        (EDGE + side - 40, "start", high),
    ):
        parts.append(
            f'<text x="{x}" y="{below + 9}" font-size="12" text-anchor="{anchor}" '
            f'fill="currentColor">{value:.2f}</text>'
        )
    box = f"0 0 {EDGE + side + 4} {below + 16}"
    return Drawing(f'<svg viewBox="{box}">{"".join(parts)}</svg>', words)


def picture_map(points: np.ndarray, pictures: list[str], words: str) -> Drawing:
    """Pictures at their points [n 2]; later ones lie over earlier ones."""
    low, high = points.min(axis=0), points.max(axis=0)
    room = np.array([MAP_WIDTH - PICTURE, MAP_HEIGHT - PICTURE])
    places = (points - low) / np.where(high > low, high - low, 1) * room
    parts = [
        _use(name, float(x), float(room[1] - y), PICTURE)
        for (x, y), name in zip(places, pictures, strict=True)
        if name
    ]
    box = f"0 0 {MAP_WIDTH} {MAP_HEIGHT}"
    return Drawing(f'<svg viewBox="{box}">{"".join(parts)}</svg>', words, wide=True)


def _use(name: str, x: float, y: float, side: float) -> str:
    return (
        f'<use href="#{name}" x="{x:.1f}" y="{y:.1f}" width="{side:g}" '
        f'height="{side:g}"/>'
    )


def _png(shares: np.ndarray) -> str:
    """A picture with a pixel for each number from 0 to 1, as an address."""
    import matplotlib

    colours = matplotlib.colormaps["viridis"](shares, bytes=True)[..., :3]
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(colours)).save(file, "PNG", optimize=True)
    return thumbnails.data_uri(file.getvalue(), "png")
