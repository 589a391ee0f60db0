"""Pictures of maps: heat over an image, a scale, captions with their words shaded."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

# From nothing to all, evenly spaced: dark violet, red, orange, pale yellow. Its
# lightness rises evenly, so that it can be read in grey too.
HEAT = np.array(
    [
        (20, 11, 53),
        (66, 10, 104),
        (122, 28, 109),
        (176, 50, 90),
        (221, 81, 58),
        (246, 130, 18),
        (250, 186, 40),
        (252, 245, 150),
    ],
    np.float32,
)
INK, PALE, PAPER, MARK = (32, 34, 40), (110, 114, 124), (255, 255, 255), (176, 32, 40)
NUMBER = 6  # pixels: between the scale and its numbers
GAP, TEXT = 12, 13  # pixels: between tiles, the font's size
BAR = 14  # pixels: the scale's width
MIDDLE = 128  # the grey on which a scale's colours are shown
FINE = 96  # pixels of a side, to find the largest number of an enlarged map
COLUMNS = 4  # tiles beside each other
Scale = tuple[float, float]


class Tile(NamedTuple):
    """One map of a sheet.

    values: float [rows columns]. words: the caption's. shares: float [words], their
    shares of its relevance. note: below it. wrong: whether the caption is a wrong one.
    """

    values: np.ndarray
    words: Sequence[str]
    shares: np.ndarray
    note: str = ""
    wrong: bool = False


def scale_of(maps: Iterable[np.ndarray]) -> Scale:
    """The lowest and highest number that a scale of these maps shows, as `enlarged`.

    It begins at 0 for maps that have nothing below it.
    """
    large = [enlarged(values, FINE) for values in maps]
    low = min(float(values.min()) for values in large)
    return min(0.0, low), max(float(values.max()) for values in large)


def colours(shares: np.ndarray) -> np.ndarray:
    """uint8 [... 3] of numbers in [0, 1]."""
    at = np.clip(shares, 0, 1) * (len(HEAT) - 1)
    low = np.minimum(at.astype(int), len(HEAT) - 2)
    part = (at - low)[..., None]
    return (HEAT[low] * (1 - part) + HEAT[low + 1] * part + 0.5).astype(np.uint8)


def enlarged(values: np.ndarray, size: int) -> np.ndarray:
    """A map as float [size size]: each place is a Gaussian around its middle.

    Its standard deviation is half a place. So what lies between four places is largest
    between them, and not in the middle of one. Beyond its edges a map is taken to be as
    low as at its lowest place.

    >>> enlarged(np.array([[0.0, 1.0], [0.0, 0.0]]), 4)[0].round(2).tolist()
    [0.02, 0.18, 0.5, 0.5]
    """
    values = np.asarray(values, np.float64)
    low = values.min()
    down, across = (_spread(count, size) for count in values.shape)
    return low + down @ (values - low) @ across.T


def _spread(count: int, size: int) -> np.ndarray:
    """float [size count]: how much of each place each pixel has; 1 in all, or less
    towards an edge.
    """
    places = (np.arange(size) + 0.5) * (count / size)
    off = places[:, None] - (np.arange(count) + 0.5)
    return np.exp(-2 * off**2) * math.sqrt(2 / math.pi)


def overlay(
    pixels: np.ndarray, values: np.ndarray, scale: Scale, size: int
) -> Image.Image:
    """The image in grey under the map's colours, size x size pixels.

    The more relevant a place, the more of its colour; at the scale's low end the image
    alone is seen.
    """
    picture = Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC)
    grey = np.asarray(picture.convert("L"), np.float32)[..., None]
    low, high = scale
    span = high - low
    shares = (
        (enlarged(values, size) - low) / span if span > 0 else np.zeros((size,) * 2)
    )
    return Image.fromarray(_mixed(grey, shares))


def _mixed(grey: np.ndarray | float, shares: np.ndarray) -> np.ndarray:
    """uint8 [... 3]: grey values under the colours of numbers in [0, 1]."""
    shares = np.clip(shares, 0, 1).astype(np.float32)
    opacity = 0.9 * np.minimum(1, 1.5 * shares)[..., None]
    base = 60 + 0.7 * grey  # within the range in which colours stay readable
    mixed = base * (1 - opacity) + colours(shares) * opacity
    return np.clip(mixed + 0.5, 0, 255).astype(np.uint8)


class Row(NamedTuple):
    """Tiles of one method beside each other, with their scale."""

    name: str
    tiles: Sequence[Tile]
    scale: Scale


def rows(name: str, tiles: Sequence[Tile], columns: int = COLUMNS) -> list[Row]:
    """The tiles of a method in rows that are no wider than `columns`, on one scale."""
    scale = scale_of(tile.values for tile in tiles)
    parts = [tiles[at : at + columns] for at in range(0, len(tiles), columns)]
    return [Row("" if at else name, part, scale) for at, part in enumerate(parts)]


def sheet(pixels: np.ndarray, rows: Sequence[Row], size: int) -> Image.Image:
    """The image at the left, and the rows one below the other, each with its scale."""
    font = _font(TEXT)
    columns = max(len(row.tiles) for row in rows)
    heights = [size + _text_height(row.tiles, size, font) for row in rows]
    labels = [label for row in rows for label in _labels(row.scale).values()]
    numbers = NUMBER + math.ceil(max(map(font.getlength, labels)))
    width = GAP + (size + GAP) * (columns + 1) + BAR + numbers + GAP
    page = Image.new("RGB", (width, sum(heights) + GAP * (len(rows) + 1)), PAPER)
    draw = ImageDraw.Draw(page)
    picture = Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC)
    page.paste(picture, (GAP, GAP))
    # A white image would not be seen.
    draw.rectangle((GAP, GAP, GAP + size - 1, GAP + size - 1), outline=PALE)
    top = GAP
    for number, (row, height) in enumerate(zip(rows, heights, strict=True)):
        beside = size + 4 if number == 0 else 0  # below the image in the first row
        draw.text((GAP, top + beside), row.name, INK, font)
        left = GAP + size + GAP
        for tile in row.tiles:
            page.paste(overlay(pixels, tile.values, row.scale, size), (left, top))
            _write(draw, tile, (left, top + size + 4), size, font)
            if tile.wrong:
                box = (left, top, left + size - 1, top + size - 1)
                draw.rectangle(box, outline=MARK, width=2)
            left += size + GAP
        _draw_scale(page, draw, row.scale, (left, top), size, font)
        top += height + GAP
    return page


def _labels(scale: Scale) -> dict[float, str]:
    """A scale's numbers by their shares of its height."""
    low, high = scale
    return {share: f"{low + share * (high - low):.2g}" for share in (0.0, 0.5, 1.0)}


def _draw_scale(page, draw, scale: Scale, at: tuple[int, int], size: int, font) -> None:
    left, top = at
    ramp = _mixed(MIDDLE, np.linspace(1, 0, size))[:, None].repeat(BAR, axis=1)
    page.paste(Image.fromarray(ramp), at)
    draw.rectangle((left, top, left + BAR - 1, top + size - 1), outline=PALE)
    for share, label in _labels(scale).items():
        y = top + (1 - share) * (size - 1)
        draw.line((left + BAR, y, left + BAR + 3, y), PALE)
        anchor = {0.0: "ld", 0.5: "lm", 1.0: "la"}[share]
        draw.text((left + BAR + NUMBER, y), label, INK, font, anchor=anchor)


def _caption_lines(tile: Tile, size: int, font) -> list[list[tuple[str, float]]]:
    """The caption's words, each with its share of the largest, in lines that fit."""
    most = max(float(np.max(tile.shares, initial=0.0)), 1e-12)
    shares = [float(share) / most for share in tile.shares]
    return _lines(zip(tile.words, shares, strict=True), size, font)


def _note_lines(tile: Tile, size: int, font) -> list[str]:
    note = f"wrong caption, {tile.note}" if tile.wrong else tile.note
    lines = _lines(((word, 0.0) for word in note.split()), size, font)
    return [" ".join(word for word, _ in line) for line in lines]


def _lines(
    words: Iterable[tuple[str, float]], size: int, font
) -> list[list[tuple[str, float]]]:
    """Words with their shares, in lines that fit; a long word in pieces."""
    lines, used = [[]], 0.0
    for word, share in words:
        for piece in _pieces(word, size, font):
            if lines[-1] and used + font.getlength(piece) > size:
                lines.append([])
                used = 0.0
            lines[-1].append((piece, share))
            used += font.getlength(piece + " ")
    return lines


def _pieces(word: str, size: int, font) -> list[str]:
    """A word in parts that fit beside each other: most often one."""
    pieces, used = [""], 0.0
    for letter in word:
        wide = font.getlength(letter)
        if pieces[-1] and used + wide > size:
            pieces.append("")
            used = 0.0
        pieces[-1] += letter
        used += wide
    return pieces


def _text_height(tiles: Sequence[Tile], size: int, font) -> int:
    step = TEXT + 7
    lines = [
        len(_caption_lines(tile, size, font)) + len(_note_lines(tile, size, font))
        for tile in tiles
    ]
    return 4 + step * max(lines)


def _write(draw, tile: Tile, at: tuple[int, int], size: int, font) -> None:
    left, top = at
    step = TEXT + 7
    for line in _caption_lines(tile, size, font):
        x = float(left)
        for word, share in line:
            wide = font.getlength(word)
            if share > 0.02:
                tint = tuple(round(255 - share * (255 - c)) for c in (250, 186, 90))
                draw.rounded_rectangle(
                    (x - 2, top, x + wide + 2, top + TEXT + 4), 3, fill=tint
                )
            draw.text((x, top), word, INK, font)
            x += font.getlength(word + " ")
        top += step
    for line in _note_lines(tile, size, font):
        draw.text((left, top), line, MARK if tile.wrong else PALE, font)
        top += step


def _font(size: int):
    """DejaVu Sans, which has most alphabets, if it is installed; else Pillow's own."""
    try:
        return ImageFont.truetype("DejaVuSans.ttf", size)
    except OSError:
        return ImageFont.load_default(size)
