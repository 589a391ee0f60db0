"""Which images or texts could not be encoded, and why."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from clipjax.types import UserError


class ItemError(NamedTuple):
    """An item that could not be encoded: its number, its name, and why.

    >>> rows = clip.encode_image(["gone.jpg", image], on_error="nan")
    >>> clip.last_errors
    [ItemError(number=0, name="image 0 ('gone.jpg')", reason='there is no such file')]
    """

    number: int
    name: str
    reason: str


class BadItem(UserError):
    """An image or text cannot be used, and stopped an encoding.

    number: its place among the items. rows: float32 [number e], those before it.

    >>> try:
    ...     clip.encode_image([image, b"no image"])
    ... except clipjax.BadItem as error:
    ...     error.number, error.rows.shape
    (1, (1, 16))
    """

    def __init__(self, message: str, number: int, rows: np.ndarray):
        super().__init__(message, number, rows)
        self.number = number
        self.rows = rows

    def __str__(self) -> str:
        return self.args[0]
