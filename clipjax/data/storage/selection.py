"""Selects a source's examples: the first ones, a seeded choice, a held-out share.

All sources apply the options `max_classes`, `max_samples_per_class`, `max_samples` and
`subset_seed` in this order. A choice depends on the seed and the examples' positions
alone, so that it is the same on every machine. A larger limit selects all examples that
a smaller one does.
"""

from __future__ import annotations

import hashlib

import numpy as np

from clipjax.types import UserError

SPLITS = ("train", "val", "all")  # of data that val_fraction divides
_EXAMPLES, _CLASSES = 0, 1  # streams of one seed


def classes(count: int, max_classes: int, subset_seed: int) -> np.ndarray:
    """Returns the classes to keep of `count`, int64, ascending (max_classes=0: all).

    Raises UserError for a limit or seed out of range.
    """
    _check("max_classes", max_classes)
    order = _order(count, _CLASSES, subset_seed)
    return np.sort(order[: max_classes or None])


def examples(
    count: int,
    *,
    max_samples: int,
    subset_seed: int,
    labels: np.ndarray | None = None,
    max_samples_per_class: int = 0,
) -> np.ndarray:
    """Returns the examples to keep of `count`, int64, ascending.

    labels: int [count], each example's class. max_samples_per_class limits each class,
    then max_samples limits all (0: no limit). subset_seed=-1 keeps the first ones.

    Raises UserError for a limit or seed out of range.
    """
    _check("max_samples", max_samples)
    _check("max_samples_per_class", max_samples_per_class)
    order = _order(count, _EXAMPLES, subset_seed)
    if labels is not None and max_samples_per_class:
        order = order[_nth_of_its_class(labels[order]) < max_samples_per_class]
    return np.sort(order[: max_samples or None])


def check_fraction(val_fraction: float) -> None:
    """Raises UserError unless it is from 0 to 1."""
    if not 0 <= val_fraction <= 1:
        raise UserError(f"val_fraction={val_fraction}: use a share from 0 to 1")


def is_held_out(name: str, val_fraction: float) -> bool:
    """Whether an example belongs to "val": if the first 8 bytes of its name's SHA-256,
    as a number in [0, 1), are below `val_fraction`.
    """
    digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big") < val_fraction * 2**64


def in_split(name: str, split: str, val_fraction: float) -> bool:
    """Whether an example belongs to one of SPLITS, by `is_held_out`."""
    return split == "all" or is_held_out(name, val_fraction) == (split == "val")


def _check(option: str, value: int) -> None:
    if value < 0:
        raise UserError(f"{option}={value}: use 0 for all, or how many to take")


def _order(count: int, stream: int, seed: int) -> np.ndarray:
    """Returns all numbers below `count` in the order in which they are selected."""
    if not -1 <= seed < 2**63:
        raise UserError(f"subset_seed={seed}: use -1 for the first ones, or a seed")
    if seed == -1:
        return np.arange(count)
    # The generator's raw words, which NumPy promises never to change, unlike draws.
    words = np.random.Philox(key=[seed, stream]).random_raw(count)
    return np.argsort(words, kind="stable")


def _nth_of_its_class(labels: np.ndarray) -> np.ndarray:
    """Counts, per example, the examples of its class before it."""
    by_class = np.argsort(labels, kind="stable")
    _, starts, sizes = np.unique(
        labels[by_class], return_index=True, return_counts=True
    )
    nth = np.empty(len(labels), np.int64)
    nth[by_class] = np.arange(len(labels)) - np.repeat(starts, sizes)
    return nth
