"""Layer-wise learning rates: the nearer to the input, the smaller (arXiv 1801.06146).

A tower of n blocks has n + 2 levels: what comes before the blocks, the blocks, what
comes after. The last has the whole learning rate, each below `decay` times that of the
one above it. What is in no tower, such as projections, has the whole rate.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from clipjax.types import UserError

TOWERS = ("image", "text")
NUMBERED = re.compile(r"(?:stage|block)_(\d+)")
BEFORE = re.compile(
    r"\w+/(\w*embedding|positions|class_token|token_types|pre_norm|stem)\b"
)
AFTER = re.compile(r"\w+/(post_\w+|\w*pool\w*|map|query|head|\w*projection)\b")
LORA = "lora/"  # before the paths of additions, which have their kernels' levels


def factors(names: Iterable[str], decay: float) -> dict[str, float]:
    """Parameter path -> factor of its learning rate.

    Raises UserError for a tower whose levels its parameters' names do not say; with a
    decay of 1 there are no levels.
    """
    places = {name: block_of(name) for name in names}
    found = dict.fromkeys(places, 1.0)
    for tower in TOWERS if decay != 1.0 else ():
        mine = [n for n in places if n.removeprefix(LORA).startswith(f"{tower}/")]
        blocks = sorted({places[name] for name in mine if places[name]})
        if mine and not blocks:
            raise UserError(
                f"optim.layer_decay={decay}: the {tower} tower has no parameters in "
                f"block_0, block_1, ... or stage_0/block_0, ... ({mine[0]}, ...): name "
                "its blocks so, or set optim.layer_decay=1"
            )
        for name in mine:
            bare = name.removeprefix(LORA)
            level = len(blocks) + 1
            if places[name]:
                level = blocks.index(places[name]) + 1
            elif BEFORE.match(bare):
                level = 0
            elif not AFTER.match(bare):
                raise UserError(
                    f"optim.layer_decay={decay}: {name} is in no block, and its name "
                    "does not say whether it comes before them (like patch_embedding, "
                    "positions, stem) or after (like post_norm, pool, head): rename "
                    "it, or set optim.layer_decay=1"
                )
            found[name] = decay ** (len(blocks) + 1 - level)
    return found


def block_of(name: str) -> tuple[int, ...]:
    """(stage, block) or (block,) of a parameter; () outside the blocks.

    What lies between two stages counts as part of the block after it.
    """
    found = tuple(int(number) for number in NUMBERED.findall(name))
    return (*found, 0) if "stage_" in name and len(found) == 1 else found
