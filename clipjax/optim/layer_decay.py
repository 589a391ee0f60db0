"""Layer-wise learning rates: the nearer to the input, the smaller (arXiv 1801.06146).

A tower of n blocks has n + 2 levels: what comes before the blocks, the blocks, what
comes after. The last has the whole learning rate, each below `decay` times that of the
one above it. What is in no tower, such as projections, has the whole rate.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

TOWERS = ("image", "text")
NUMBERED = re.compile(r"(?:stage|block)_(\d+)")
BEFORE = re.compile(
    r"/(\w*embedding|positions|class_token|token_types|pre_norm|stem)\b"
)


def factors(names: Iterable[str], decay: float) -> dict[str, float]:
    """Parameter path -> factor of its learning rate."""
    found = {}
    places = {name: _place(name) for name in names}
    for tower in TOWERS:
        mine = [name for name in places if name.partition("/")[0] == tower]
        blocks = sorted({places[name] for name in mine if places[name]})
        for name in mine:
            level = len(blocks) + 1
            if places[name]:
                level = blocks.index(places[name]) + 1
            elif BEFORE.search(name):
                level = 0
            found[name] = decay ** (len(blocks) + 1 - level)
    return {name: found.get(name, 1.0) for name in places}


def _place(name: str) -> tuple[int, ...]:
    """(stage, block) or (block,) of a parameter; () outside the blocks."""
    return tuple(int(number) for number in NUMBERED.findall(name))
