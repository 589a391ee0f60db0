"""Which parameters are matrices, and as what matrices larger kernels act."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jaxtyping import Array, Float

REST = "adam"
# Flax's attention: [inputs, heads, width] there, [heads, width, outputs] elsewhere.
WIDE = re.compile(r"(^|/)(query|key|value)/kernel$")
Form = tuple[int, int, int]  # matrices, rows, columns


def names(tree: Any) -> Any:
    """The path of each leaf, in the form that patterns of options match."""

    def name(path, _):
        return jax.tree_util.keystr(path, simple=True, separator="/")

    return jax.tree_util.tree_map_with_path(name, tree)


def labels(matrix: str, by_adam: str, flatten: bool = True) -> Callable[[Any], Any]:
    """parameters -> `matrix` or "adam" by leaf, for optax.partition.

    by_adam: pattern of what is never a matrix. flatten: whether kernels of more than
    two dimensions are; see `form`.
    """
    never = re.compile(by_adam)

    def label(name: str, leaf: Any) -> str:
        if leaf.ndim < 2 or never.search(name) or (leaf.ndim > 2 and not flatten):
            return REST
        # The kernel of a convolution by channel acts on each alone, not as a matrix.
        return REST if leaf.ndim == 4 and leaf.shape[2] == 1 else matrix

    return lambda params: jax.tree.map(label, names(params), params)


def form(name: str, shape: Sequence[int], stacked: str = "") -> Form:
    """As how many matrices of which size an array acts.

    A convolution's kernel [h w i o] is one matrix [h*w*i, o], as it acts on patches; a
    kernel [heads, width, outputs] is [heads*width, outputs]; Flax's query, key and
    value [inputs, heads, width] are [inputs, heads*width].

    stacked: pattern of arrays whose first dimension counts layers, "" for none.
    """
    count = 1
    if stacked and len(shape) > 2 and re.search(stacked, name):
        count, shape = shape[0], shape[1:]
    if len(shape) == 3 and WIDE.search(name):
        return count, shape[0], shape[1] * shape[2]
    return count, math.prod(shape[:-1]), shape[-1]


def over(
    function: Callable[[Float[Array, "n m"]], Float[Array, "n m"]],
    tree: Any,
    stacked: str = "",
) -> Any:
    """Maps a function of a matrix over the matrices of all leaves."""

    def one(name: str, leaf: Array) -> Array:
        if leaf.ndim == 2:
            return function(leaf)
        parts = leaf.reshape(form(name, leaf.shape, stacked))
        return jax.vmap(function)(parts).reshape(leaf.shape)

    return jax.tree.map(one, names(tree), tree)
