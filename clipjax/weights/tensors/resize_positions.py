"""Position tables for other image sizes and context lengths than they are for."""

from __future__ import annotations

import math

import numpy as np

from clipjax.types import UserError


def resize_image(table: np.ndarray, rows: int, name: str) -> np.ndarray:
    """A table of a square grid, row by row, for another: bicubic, antialiased.

    Equal to open_clip's resize_pos_embed: what stands before the grid (a class token,
    or the mean that attention pooling puts there) is kept.

    Args:
      table: [n d] or [1+n d], n a square.
      rows: of the table to make, with one before the grid if `table` has one.
      name: for the message.

    Raises:
      UserError: where either number of rows is that of no square grid.
    """
    for before in (0, 1):
        old, new = math.isqrt(len(table) - before), math.isqrt(rows - before)
        if old and new and (old**2, new**2) == (len(table) - before, rows - before):
            grid = table[before:].reshape(old, old, -1)
            mix = _cubic(old, new)
            grid = np.einsum("yh,xw,hwd->yxd", mix, mix, grid, optimize=True)
            grid = grid.reshape(rows - before, -1).astype(table.dtype)
            return np.concatenate([table[:before], grid])
    raise UserError(
        f"{name}: {len(table)} positions cannot become {rows}: both must be squares, "
        "or both one more"
    )


def _cubic(old: int, new: int) -> np.ndarray:
    """Shares [new old] of the old points in the new: Keys' kernel with a = -1/2.

    Of fewer points the kernel is wider, so that nothing between them is lost; at the
    borders it is cut and the rest weighs more. Pillow and torch resize so.
    """
    ratio = old / new
    at = (np.arange(new) + 0.5) * ratio - 0.5
    x = np.abs(np.arange(old)[None] - at[:, None]) / max(ratio, 1)
    near, far = (1.5 * x - 2.5) * x * x + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2
    shares = np.where(x < 1, near, np.where(x < 2, far, 0))
    return shares / shares.sum(axis=1, keepdims=True)


def resize_text(table: np.ndarray, rows: int) -> np.ndarray:
    """A table [n d] for another number of tokens.

    Shorter is cut: a token keeps its position. Longer is interpolated linearly, as
    open_clip's resize_text_pos_embed does.
    """
    old = len(table)
    if rows <= old:
        return table[:rows]
    at = np.clip((np.arange(rows) + 0.5) * old / rows - 0.5, 0, old - 1)
    low = np.floor(at).astype(int)
    high = np.minimum(low + 1, old - 1)
    share = (at - low)[:, None]
    mixed = table[low] * (1 - share) + table[high] * share
    return mixed.astype(table.dtype)
