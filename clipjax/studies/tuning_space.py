"""What values a tuned key may have."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from clipjax.types import UserError


@dataclasses.dataclass(frozen=True)
class Choices:
    """Some values. relative: they are factors of the value in the cell's config."""

    values: tuple[Any, ...]
    relative: bool = False


@dataclasses.dataclass(frozen=True)
class Range:
    """Numbers from low to high, both included. log: drawn by their logarithm. integer:
    whole ones alone. relative: as of Choices."""

    low: float
    high: float
    log: bool = False
    integer: bool = False
    relative: bool = False


def choices(*values: Any) -> Choices:
    """One of these values."""
    return _some(Choices(values))


def factors(*values: float) -> Choices:
    """The config's own value times one of these, which suits cells whose rates differ.

    >>> factors(0.3, 1, 3)
    Choices(values=(0.3, 1, 3), relative=True)
    """
    return _some(Choices(values, relative=True))


def log_range(low: float, high: float) -> Range:
    """Any number from low to high, drawn by its logarithm, as learning rates are."""
    return _checked(Range(low, high, log=True))


def factor_range(low: float, high: float) -> Range:
    """The config's own value times a number from low to high, drawn by its
    logarithm."""
    return _checked(Range(low, high, log=True, relative=True))


def uniform_range(low: float, high: float) -> Range:
    """Any number from low to high."""
    return _checked(Range(low, high))


def integer_range(low: int, high: int) -> Range:
    """A whole number from low to high."""
    return _checked(Range(low, high, integer=True))


def _some(made: Choices) -> Choices:
    if not made.values:
        raise UserError("choices and factors need a value or more")
    return made


def _checked(made: Range) -> Range:
    least = 0.0 if made.log else -math.inf
    if not least < made.low < made.high < math.inf:
        raise UserError(
            f"a range from {made.low} to {made.high}: the first number must be below "
            "the second" + (" and above 0" if made.log else "")
        )
    return made
