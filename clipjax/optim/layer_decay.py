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
    r"\w+/(\w*embedding|positions|class_token|token_types|pre_norm|stem)\b"
)
LORA = "lora/"  # before the paths of additions, which have their kernels' levels


def factors(names: Iterable[str], decay: float) -> dict[str, float]:
    """Parameter path -> factor of its learning rate."""
    found = {}
    places = {name: _place(name) for name in names}
    for tower in TOWERS:
        mine = [n for n in places if n.removeprefix(LORA).startswith(f"{tower}/")]
        blocks = sorted({places[name] for name in mine if places[name]})
        for name in mine:
            level = len(blocks) + 1
            if places[name]:
                level = blocks.index(places[name]) + 1
            elif BEFORE.match(name.removeprefix(LORA)):
                level = 0
            found[name] = decay ** (len(blocks) + 1 - level)
    return {name: found.get(name, 1.0) for name in places}


def _place(name: str) -> tuple[int, ...]:
    """(stage, block) or (block,) of a parameter; () outside the blocks.

    What lies between two stages counts as part of the block after it.
    """
    found = tuple(int(number) for number in NUMBERED.findall(name))
    return (*found, 0) if "stage_" in name and len(found) == 1 else found
