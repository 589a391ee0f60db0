"""Checks of numbers in settings files, before a model is built from them."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import numpy as np

from clipjax.types import UserError

Three = tuple[float, float, float]
# Above any published size.
LARGEST = 10_000_000


def check_sizes(
    values: Mapping[str, Any], keys: Iterable[str], origin: str, least: int = 1
) -> None:
    """Raises UserError unless each value is an integer of `least` to LARGEST.

    origin: the file and section, for the message.
    """
    for key in keys:
        value = values[key]
        if type(value) is not int or not least <= value <= LARGEST:
            raise UserError(
                f"{origin}: {key}={value!r}: must be an integer from {least} to "
                f"{LARGEST}"
            )


def check_depth(
    values: Mapping[str, Any], key: str, shapes: Collection[str], origin: str
) -> None:
    """Raises UserError for more layers than the file has tensors.

    Building an absurd number would take hours, before a tensor is found missing.
    """
    check_sizes(values, (key,), origin)
    if values[key] > len(shapes):
        raise UserError(
            f"{origin}: {key}={values[key]}: its weights are {len(shapes)} tensors, "
            "too few for that many layers"
        )


def check_positive(values: Mapping[str, Any], keys: Iterable[str], origin: str) -> None:
    """Raises UserError unless each value is a finite number above 0."""
    for key in keys:
        if not _finite(values[key]) or values[key] <= 0:
            raise UserError(
                f"{origin}: {key}={values[key]!r}: must be a number above 0"
            )


def three(value: Any, key: str, origin: str, positive: bool = False) -> Three:
    """The three channels' means or, if positive, standard deviations.

    Raises UserError unless `value` is three finite numbers.
    """
    is_triple = isinstance(value, list | tuple) and len(value) == 3
    if not is_triple or not all(
        _finite(number) and (number > 0 or not positive) for number in value
    ):
        above = " above 0" if positive else ""
        raise UserError(f"{origin}: {key}={value!r}: must be three numbers{above}")
    red, green, blue = map(float, value)
    return red, green, blue


def check_finite(arrays: Iterable[tuple[str, Any]], origin: str) -> None:
    """Raises UserError if arrays hold NaN or infinite numbers, naming the first.

    arrays: (name, array) pairs. origin: the file, for the message.
    """
    problems = []
    for name, array in arrays:
        if count := np.size(array) - int(np.isfinite(array).sum()):
            problems.append(f"{name} holds {count:,} of {np.size(array):,} numbers")
    if problems:
        more = (
            f" (and {len(problems) - 1:,} more tensors do)" if len(problems) > 1 else ""
        )
        raise UserError(
            f"{origin}: {problems[0]} that are NaN or infinite{more}: fetch it again, "
            "or take an earlier save"
        )


def _finite(value: Any) -> bool:
    # A JSON integer can be too long for a float.
    return type(value) in (int, float) and abs(value) < 1e300 and not math.isnan(value)
