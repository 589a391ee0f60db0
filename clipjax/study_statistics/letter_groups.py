"""Letters that tell which cells are not told apart."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np


def letters(apart: np.ndarray, order: Sequence[int] | np.ndarray) -> list[str]:
    """The letters of each cell: two cells share one if and only if they are not told
    apart.

    apart: bool [k k], symmetric. order: the cells from the best on, whose group is "a".

    >>> letters(np.array([[0, 0, 1], [0, 0, 0], [1, 0, 0]], bool), [0, 1, 2])
    ['a', 'ab', 'b']
    """
    place = {int(cell): at for at, cell in enumerate(order)}
    alike = [
        {j for j in range(len(apart)) if j != i and not apart[i, j]}
        for i in range(len(apart))
    ]
    groups = sorted(
        _cliques(set(), set(place), set(), alike),
        key=lambda group: sorted(place[cell] for cell in group),
    )
    found = [""] * len(apart)
    for number, group in enumerate(groups):
        for cell in group:
            found[cell] += _letter(number)
    return found


def _cliques(
    inside: set[int], left: set[int], done: set[int], alike: Sequence[set[int]]
) -> Iterator[set[int]]:
    """The largest sets of cells that are all alike (C. Bron and J. Kerbosch 1973)."""
    if not left and not done:
        yield inside
        return
    pivot = max(left | done, key=lambda cell: len(alike[cell] & left))
    for cell in left - alike[pivot]:
        near = alike[cell]
        yield from _cliques(inside | {cell}, left & near, done & near, alike)
        left, done = left - {cell}, done | {cell}


def _letter(number: int) -> str:
    """a to z, A to Z, then a1 and so on."""
    every = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
    turn, place = divmod(number, len(every))
    return every[place] + (str(turn) if turn else "")
