"""Numbers that files of settings say, checked before anything is built of them."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import numpy as np

from clipjax.types import UserError

Three = tuple[float, float, float]
# Beyond any size published.
LARGEST = 10_000_000


def check_sizes(
    given: Mapping[str, Any], keys: Iterable[str], place: str, least: int = 1
) -> None:
    """Raises UserError if one of these is no plain integer of at least `least`.

    place: the file and section, for the message.
    """
    for key in keys:
        value = given[key]
        if type(value) is not int or not least <= value <= LARGEST:
            raise UserError(
                f"{place}: {key}={value!r}: must be a whole number of {least} to "
                f"{LARGEST}"
            )


def check_depth(
    given: Mapping[str, Any], key: str, shapes: Collection[str], place: str
) -> None:
    """Raises UserError for more layers than the file has tensors.

    An absurd one would else be built before a tensor is missed, for hours.
    """
    check_sizes(given, (key,), place)
    if given[key] > len(shapes):
        raise UserError(
            f"{place}: {key}={given[key]}: its weights are {len(shapes)} tensors, too "
            "few for so many layers"
        )


def check_positive(given: Mapping[str, Any], keys: Iterable[str], place: str) -> None:
    """Raises UserError if one of these is no finite number above 0."""
    for key in keys:
        if not _finite(given[key]) or given[key] <= 0:
            raise UserError(f"{place}: {key}={given[key]!r}: must be a number above 0")


def three(value: Any, key: str, place: str, positive: bool = False) -> Three:
    """A mean or, positive, a standard deviation of the three channels.

    Raises UserError for anything but three finite numbers.
    """
    plain = isinstance(value, list | tuple) and len(value) == 3
    if not plain or not all(
        _finite(one) and (one > 0 or not positive) for one in value
    ):
        above = " above 0" if positive else ""
        raise UserError(f"{place}: {key}={value!r}: must be three numbers{above}")
    red, green, blue = map(float, value)
    return red, green, blue


def check_finite(arrays: Iterable[tuple[str, Any]], place: str) -> None:
    """Raises UserError if arrays hold NaN or infinite numbers, naming the first.

    arrays: with their names. place: where they come from, for the message.
    """
    bad = []
    for name, array in arrays:
        if count := np.size(array) - int(np.isfinite(array).sum()):
            bad.append(f"{name} holds {count:,} of {np.size(array):,} numbers")
    if bad:
        more = f" (and {len(bad) - 1:,} more tensors do)" if len(bad) > 1 else ""
        raise UserError(
            f"{place}: {bad[0]} that are NaN or infinite{more}: fetch it again, or "
            "take an earlier save"
        )


def _finite(value: Any) -> bool:
    # A JSON integer can be too long for a float.
    return type(value) in (int, float) and abs(value) < 1e300 and not math.isnan(value)
