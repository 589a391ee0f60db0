"""Layer-wise learning rates: smaller towards the input (arXiv 1801.06146).

A tower of n blocks has n + 2 levels: what comes before the blocks, the blocks, what
comes after. The last level has the full learning rate; each level has `decay` times the
rate of the level after it. Parameters in no tower, such as projections, have the full
rate.
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
LORA = "lora/"  # prefix of the additions' paths; they have their kernels' levels


def factors(names: Iterable[str], decay: float) -> dict[str, float]:
    """Parameter path -> factor of its learning rate.

    Raises UserError if the names of a tower's parameters do not tell the levels, unless
    decay is 1.
    """
    blocks_of = {name: block_of(name) for name in names}
    rates = dict.fromkeys(blocks_of, 1.0)
    for tower in TOWERS if decay != 1.0 else ():
        members = [n for n in blocks_of if n.removeprefix(LORA).startswith(f"{tower}/")]
        blocks = sorted({blocks_of[name] for name in members if blocks_of[name]})
        if members and not blocks:
            raise UserError(
                f"optim.layer_decay={decay}: the {tower} tower has no parameters in "
                f"block_0, block_1, ... or stage_0/block_0, ... ({members[0]}, ...): "
                "name its blocks so, or set optim.layer_decay=1"
            )
        for name in members:
            bare = name.removeprefix(LORA)
            level = len(blocks) + 1
            if blocks_of[name]:
                level = blocks.index(blocks_of[name]) + 1
            elif BEFORE.match(bare):
                level = 0
            elif not AFTER.match(bare):
                raise UserError(
                    f"optim.layer_decay={decay}: {name} is in no block, and its name "
                    "does not say whether it comes before them (like patch_embedding, "
                    "positions, stem) or after (like post_norm, pool, head): rename "
                    "it, or set optim.layer_decay=1"
                )
            rates[name] = decay ** (len(blocks) + 1 - level)
    return rates


def block_of(name: str) -> tuple[int, ...]:
    """(stage, block) or (block,) of a parameter; () outside the blocks.

    A parameter between two stages counts as part of the block after it.
    """
    numbers = tuple(int(number) for number in NUMBERED.findall(name))
    return (*numbers, 0) if "stage_" in name and len(numbers) == 1 else numbers
