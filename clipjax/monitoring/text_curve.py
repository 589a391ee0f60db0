"""A series of numbers as a curve of characters, for terminals."""

from __future__ import annotations

import numpy as np

# The bit of each of a braille character's 4 x 2 dots, from its top left.
_DOTS = np.array([[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]])
_EMPTY = 0x2800


def curve(
    steps: np.ndarray, values: np.ndarray, width: int, height: int, plain: bool = False
) -> list[str]:
    """The lines of a curve with its axes: at most `height` of `width` characters.

    steps [n], values [n]: in any order; values that are not finite are left out.
    plain: in ASCII.
    """
    finite = np.isfinite(values)
    steps, values = steps[finite], values[finite]
    if not len(values):
        return ["no numbers yet"]
    low, high = float(values.min()), float(values.max())
    labels = [f"{high:.4g}", f"{low:.4g}"]
    margin = max(map(len, labels))
    rows, columns = max(height - 1, 2), max(width - margin - 2, 4)
    dots = _draw(steps, values, (rows, columns))
    cells = (dots.reshape(rows, 4, columns, 2) * _DOTS[:, None]).sum((1, 3))
    axis, corner = ("|", "+") if plain else ("┤", "└")
    lines = []
    for row, line in enumerate(cells):
        label = labels[0] if row == 0 else labels[1] if row == rows - 1 else ""
        drawn = (("*" if x else " ") if plain else chr(_EMPTY + x) for x in line)
        lines.append(f"{label:>{margin}} {axis}{''.join(drawn)}")
    first, last = f"{steps.min():,}", f"step {steps.max():,}"
    gap = max(columns - len(first) - len(last), 1)
    return [*lines, f"{'':>{margin}} {corner}{first}{'':>{gap}}{last}"]


def _draw(steps: np.ndarray, values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Dots [4 rows, 2 columns] of bool: per column the range of its values, and a line
    from column to column."""
    height, width = 4 * size[0], 2 * size[1]
    order = np.argsort(steps, kind="stable")
    span = max(int(steps.max() - steps.min()), 1)
    places = np.round((steps[order] - steps.min()) / span * (width - 1)).astype(int)
    scale = float(values.max() - values.min())
    heights = (values[order] - values.min()) / scale if scale > 0 else values * 0 + 0.5
    heights = np.round((1 - heights) * (height - 1)).astype(int)
    found, starts = np.unique(places, return_index=True)
    top = np.minimum.reduceat(heights, starts)
    bottom = np.maximum.reduceat(heights, starts)
    across = np.arange(found[0], found[-1] + 1)
    middle = np.round(np.interp(across, found, (top + bottom) / 2)).astype(int)
    dots = np.zeros((height, width), bool)
    for i, column in enumerate(across):
        before = middle[max(i - 1, 0)]
        dots[min(before, middle[i]) : max(before, middle[i]) + 1, column] = True
    for column, upper, lower in zip(found, top, bottom, strict=True):
        dots[upper : lower + 1, column] = True
    return dots
