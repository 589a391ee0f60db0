"""Leaves of nested dicts by '/'-joined paths, such as "image/positions"."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax


def paths(tree: Any) -> Any:
    """The same tree with each leaf replaced by its path."""

    def join(path, _):
        return "/".join(str(key_of(part)) for part in path)

    def key_of(part):
        for name in ("key", "name", "idx"):  # dict, attribute and sequence keys
            if hasattr(part, name):
                return getattr(part, name)
        return part

    return jax.tree_util.tree_map_with_path(join, tree)


def flatten(tree: Any) -> dict[str, Any]:
    """Path -> leaf, in the order of the leaves."""
    return dict(zip(jax.tree.leaves(paths(tree)), jax.tree.leaves(tree), strict=True))


def unflatten(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `flatten` for nested dicts."""
    tree: dict[str, Any] = {}
    for path, leaf in leaves.items():
        *parents, last = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = leaf
    return tree
