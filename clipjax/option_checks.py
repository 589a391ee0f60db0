"""Checks of options that several components share; each fault is one line."""

from __future__ import annotations

import math
import re
from typing import Any

from clipjax.registry import suggest
from clipjax.types import UserError


def one_of(option: str, value: str, known: Any) -> None:
    """Raises UserError if an option's value is not one of the known ones."""
    if value not in known:
        raise UserError(
            f"{option}={value!r}: must be one of {', '.join(known)}."
            + suggest(value, known)
        )


def at_least_one(option: str, size: int) -> None:
    """Raises UserError if a size is not an integer above 0.

    >>> at_least_one("evals.mine.samples", 0)
    Traceback (most recent call last):
    clipjax.types.UserError: evals.mine.samples=0: must be an integer of at least 1
    """
    if not isinstance(size, int) or size < 1:
        raise UserError(f"{option}={size!r}: must be an integer of at least 1")


def above_zero(option: str, value: float) -> None:
    """Raises UserError if a value is not above 0, or not finite."""
    if not 0 < value < math.inf:
        raise UserError(f"{option}={value}: must be above 0")


def check_pixels(
    mean: tuple[float, float, float], std: tuple[float, float, float]
) -> None:
    """Raises UserError if images cannot be normalised with this mean and std."""
    for name, values in (("mean", mean), ("std", std)):
        if len(values) != 3 or not all(math.isfinite(value) for value in values):
            raise UserError(f"model.{name}={values}: must be three numbers")
    if not all(value > 0 for value in std):
        raise UserError(f"model.std={std}: must be three numbers above 0")


def in_range(option: str, value: float) -> None:
    """Raises UserError if a dropout rate is not in [0, 1)."""
    if not 0.0 <= value < 1.0:
        raise UserError(f"{option}={value}: must be at least 0 and less than 1")


def size_and_patch(
    variant: str, sizes: Any, image_size: int, crop: bool = False
) -> tuple[str, int]:
    """(size, patch size in pixels) of a vision transformer's variant, such as "B/16".

    sizes: the sizes that it has. image_size: must be a multiple of the patch size, or
    at least as large if `crop` leaves the remainder out.

    Raises UserError for an unknown variant, or an image size that does not fit.
    """
    match = re.fullmatch(r"([A-Za-z]+)/([1-9]\d*)", variant)
    if match is None or match[1] not in sizes:
        known = [f"{size}/{match[2] if match else 16}" for size in sizes]
        near = [name for name in known if name.lower() == variant.lower()] or known
        raise UserError(
            f"model.image.variant={variant!r}: must be a size ({', '.join(sizes)}), a "
            f"slash and the patch size in pixels, like 'B/16'.{suggest(variant, near)}"
        )
    patch = int(match[2])
    if image_size < patch or (image_size % patch and not crop):
        near = max(patch, image_size // patch * patch)
        raise UserError(
            f"data.image_size={image_size}: must be a multiple of the patch size "
            f"{patch} of model.image.variant={variant!r}, such as {near}"
        )
    return match[1], patch


def sizes(
    option: str, asked: tuple[int | None, ...], variant: tuple[int, ...]
) -> tuple[int, ...]:
    """(width, depth, heads, ...): each from `asked`, or the variant's if None.

    Raises UserError if a transformer of these sizes cannot be built.
    """
    chosen = tuple(
        default if value is None else value
        for value, default in zip(asked, variant, strict=True)
    )
    check_sizes(option, *chosen)
    return chosen


def check_sizes(
    option: str, width: int, depth: int, heads: int, mlp_dim: int = 1
) -> None:
    """Raises UserError if a transformer of these sizes cannot be built."""
    sizes = {"width": width, "depth": depth, "heads": heads, "mlp_dim": mlp_dim}
    for name, size in sizes.items():
        at_least_one(f"{option}.{name}", size)
    if width % heads:
        raise UserError(
            f"{option}.heads={heads}: must divide {option}.width={width}; 64 numbers a "
            f"head would be heads={max(1, width // 64)}"
        )
