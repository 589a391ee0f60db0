"""Position tables resized for another image size or context length."""

from __future__ import annotations

import math

import numpy as np

from clipjax.types import UserError


def resize_image(table: np.ndarray, rows: int, name: str) -> np.ndarray:
    """Resizes the table of a square grid, stored row by row: bicubic, antialiased.

    The result equals that of open_clip's resize_pos_embed: the row before the grid (for
    a class token, or for the mean in attention pooling) does not change.

    Args:
      table: [n d] or [1+n d], n a square.
      rows: the result's rows, including one before the grid if `table` has one.
      name: the table's name, for the message.

    Raises:
      UserError: if either number of rows does not fit a square grid.
    """
    for before in (0, 1):
        old, new = math.isqrt(len(table) - before), math.isqrt(rows - before)
        if old and new and (old**2, new**2) == (len(table) - before, rows - before):
            grid = table[before:].reshape(old, old, -1)
            weights = _cubic(old, new)
            grid = np.einsum("yh,xw,hwd->yxd", weights, weights, grid, optimize=True)
            grid = grid.reshape(rows - before, -1).astype(table.dtype)
            return np.concatenate([table[:before], grid])
    raise UserError(
        f"{name}: {len(table)} positions cannot become {rows}: both must be squares, "
        "or both one more"
    )


def _cubic(old: int, new: int) -> np.ndarray:
    """Weights [new old] of the old points in the new: Keys' kernel with a = -1/2.

    The kernel widens when points get fewer (antialiasing). At the borders it is
    truncated and renormalised. Pillow and torch do the same.
    """
    ratio = old / new
    centers = (np.arange(new) + 0.5) * ratio - 0.5
    x = np.abs(np.arange(old)[None] - centers[:, None]) / max(ratio, 1)
    near, far = (1.5 * x - 2.5) * x * x + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2
    weights = np.where(x < 1, near, np.where(x < 2, far, 0))
    return weights / weights.sum(axis=1, keepdims=True)


def resize_text(table: np.ndarray, rows: int) -> np.ndarray:
    """Resizes a table [n d] to another number of tokens.

    A shorter table is the first rows, so that a token keeps its position. A longer one
    is interpolated linearly, as in open_clip's resize_text_pos_embed.
    """
    old = len(table)
    if rows <= old:
        return table[:rows]
    points = np.clip((np.arange(rows) + 0.5) * old / rows - 0.5, 0, old - 1)
    low = np.floor(points).astype(int)
    high = np.minimum(low + 1, old - 1)
    weight = (points - low)[:, None]
    resized = table[low] * (1 - weight) + table[high] * weight
    return resized.astype(table.dtype)
