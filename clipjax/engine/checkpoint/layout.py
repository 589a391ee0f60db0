"""Conversion between any pytree and the contents of a checkpoint file.

A file holds nested dicts of plain arrays (typed keys as their uint32 data, Python
numbers as 0-d arrays) and a layout: rows of path and description, "float32[8,2]",
"key<threefry2x32>[]", or "{}" and "None" if a subtree is empty. A template is compared
with the layout before anything is read, because orbax casts dtypes silently.
"""

from __future__ import annotations

import collections
import functools
import math
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from clipjax.types import UserError

Path = tuple[str, ...]
Layout = list[tuple[Path, str]]

_NUMBERS = {
    bool: np.dtype(bool),
    int: np.dtype(np.int64),
    float: np.dtype(np.float64),
    complex: np.dtype(np.complex128),
}


def layout(tree: Any) -> Layout:
    """Path and description of every leaf and every empty subtree.

    Raises ValueError if a leaf is neither an array nor a number, or if two leaves have
    the same name in a checkpoint.
    """
    rows = [(path, _describe(path, leaf)) for path, leaf in _walk(tree)]
    names = collections.Counter(".".join(path) for path, _ in rows)  # as orbax's
    if duplicates := [name for name, count in names.items() if count > 1]:
        raise ValueError(
            f"a state may not have two leaves of one name: {duplicates[0]!r}"
        )
    return rows


def arrays(tree: Any) -> dict[str, Any]:
    """The leaves with values as nested dicts; host arrays are copied."""
    return _nest((path, _plain(leaf)) for path, leaf in _walk(tree) if _stored(leaf))


def targets(template: Any) -> dict[str, Any]:
    """orbax's targets for `rebuild`: shapes with shardings, or host arrays."""
    return _nest(
        (path, _target(leaf)) for path, leaf in _walk(template) if _stored(leaf)
    )


def size(template: Any) -> int:
    """The bytes of all arrays as saved."""
    leaves = jax.tree.leaves(targets(template))
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in leaves)


def rebuild(template: Any, stored: dict[str, Any]) -> Any:
    """The template's tree, node and leaf types with the stored values.

    A leaf without a sharding goes to the default device.
    """
    values = [_like(leaf, _get(stored, path)) for path, leaf in _walk(template)]
    return jax.tree.unflatten(jax.tree.structure(template, is_leaf=_empty), values)


def raw_targets(rows: Layout) -> dict[str, Any]:
    """Like `targets` but without a template: all host arrays."""
    leaves = ((path, _host_target(text)) for path, text in rows)
    return _nest((path, leaf) for path, leaf in leaves if _stored(leaf))


def raw_rebuild(rows: Layout, stored: dict[str, Any]) -> dict[str, Any]:
    """Nested dicts of host arrays; typed keys stay uint32 data."""
    leaves = ((path, _host_target(text)) for path, text in rows)
    return _nest(
        (path, _get(stored, path) if _stored(leaf) else leaf) for path, leaf in leaves
    )


def differences(saved: Layout, template: Any) -> list[str]:
    """The differences between a saved layout and a template, one text per leaf."""
    there, here = dict(saved), dict(layout(template))
    names = list(here) + [path for path in there if path not in here]
    return [
        f"{'/'.join(path)} is {there.get(path, 'absent')} in the checkpoint and "
        f"{here.get(path, 'absent')} here"
        for path in names
        if there.get(path) != here.get(path)
    ]


def alike(wanted: Any, actual: Any) -> bool:
    """Whether two trees of arrays (or shapes) have the same shapes and dtypes.

    Raises ValueError if the trees differ in structure.
    """
    same = jax.tree.map(
        lambda a, b: (a.shape, a.dtype) == (b.shape, b.dtype), wanted, actual
    )
    return all(jax.tree.leaves(same))


def check_fit(what: str, rows: Any, template: Any) -> None:
    """Raises UserError if a saved state differs from the template in tree, shapes or
    dtypes.

    what: the state's name for the message. rows: its layout.
    """
    texts = differences(rows, template)
    if texts:
        more = f"; and {len(texts) - 3} more" if len(texts) > 3 else ""
        raise UserError(
            f"{what} is of another model, loss or optimizer: {'; '.join(texts[:3])}"
            f"{more}. Use the config that the run was started with, or another "
            "--workdir"
        )


def _empty(node: Any) -> bool:
    return node is None or not jax.tree.leaves(node)


def _walk(tree: Any) -> Iterable[tuple[Path, Any]]:
    for keys, leaf in jax.tree_util.tree_leaves_with_path(tree, is_leaf=_empty):
        path = tuple(jax.tree_util.keystr((key,), simple=True) for key in keys)
        if not path:
            raise ValueError("a state must be a tree with at least one leaf")
        yield path, leaf


def _is_key(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _impl(key: Any) -> str:
    """The name of a typed key's generator; takes a key or its shape."""
    names = []
    jax.eval_shape(lambda traced: names.append(jax.random.key_impl(traced)), key)
    return str(names[0])


def _data(leaf: Any) -> Any:
    """A leaf, or the shape of its uint32 data if it is a key."""
    return jax.eval_shape(jax.random.key_data, leaf) if _is_key(leaf) else leaf


def _stored(leaf: Any) -> bool:
    """False for empty subtrees, and for arrays of size 0, which orbax refuses."""
    return not _empty(leaf) and 0 not in getattr(leaf, "shape", ())


def _describe(path: Path, leaf: Any) -> str:
    if _empty(leaf):
        return "None" if leaf is None else "{}"
    if _is_key(leaf):
        name, shape = f"key<{_impl(leaf)}>", leaf.shape
    else:
        dtype = _NUMBERS.get(type(leaf), getattr(leaf, "dtype", None))
        if dtype is None or not (
            jnp.issubdtype(dtype, np.bool_)
            or jnp.issubdtype(dtype, jnp.number)  # bfloat16 too
        ):
            raise ValueError(
                f"{'/'.join(path)} is a {type(leaf).__name__}: a state may hold only "
                "arrays, numbers and typed keys; put other values into meta"
            )
        name, shape = dtype.name, getattr(leaf, "shape", ())
    return f"{name}[{','.join(map(str, shape))}]"


def _plain(leaf: Any) -> Any:
    if _is_key(leaf):
        return jax.random.key_data(leaf)
    if isinstance(leaf, jax.Array):
        return leaf
    # Copied because the caller may change its array while the save runs.
    return np.array(leaf, dtype=_NUMBERS.get(type(leaf)))


def _target(leaf: Any) -> Any:
    sharding, leaf = getattr(leaf, "sharding", None), _data(leaf)
    if sharding is not None:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
    dtype = _NUMBERS.get(type(leaf)) or leaf.dtype
    return _blank(dtype, getattr(leaf, "shape", ()))


def _host_target(text: str) -> Any:
    if text in ("None", "{}"):
        return None if text == "None" else {}
    name, _, dims = text.removesuffix("]").partition("[")
    shape = tuple(int(size) for size in dims.split(",") if size)
    if name.startswith("key<"):
        key = jax.eval_shape(lambda: jax.random.key(0, impl=name[4:-1]))
        data = _data(key)
        return _blank(data.dtype, shape + data.shape)
    return _blank(jnp.dtype(name), shape)


def _blank(dtype: Any, shape: tuple[int, ...]) -> np.ndarray:
    """An array of this shape and dtype that takes no memory."""
    if math.prod(shape) == 0:
        return np.zeros(shape, dtype)
    return np.broadcast_to(np.zeros((), dtype), shape)


def _like(leaf: Any, value: Any) -> Any:
    if _empty(leaf):
        return leaf
    if not _stored(leaf):
        value = np.zeros(_data(leaf).shape, _data(leaf).dtype)
    if isinstance(leaf, np.ndarray):
        return value
    if not isinstance(leaf, jax.Array | jax.ShapeDtypeStruct):
        return value[()] if isinstance(leaf, np.generic) else type(leaf)(value.item())
    if not isinstance(value, jax.Array):
        value = _place(value, leaf.sharding)
    if _is_key(leaf):
        # Under jit, because device_put refuses keys that span several hosts.
        wrap = functools.partial(jax.random.wrap_key_data, impl=_impl(leaf))
        value = jax.jit(wrap, out_shardings=leaf.sharding)(value)
    return value


def _place(value: np.ndarray, sharding: jax.sharding.Sharding | None) -> jax.Array:
    if sharding is None:
        return jnp.asarray(value)
    return jax.make_array_from_callback(value.shape, sharding, lambda i: value[i])


def _nest(items: Iterable[tuple[Path, Any]]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for path, leaf in items:
        node = tree
        for name in path[:-1]:
            node = node.setdefault(name, {})
        node[path[-1]] = leaf
    return tree


def _get(tree: dict[str, Any], path: Path) -> Any:
    node: Any = tree
    for name in path:
        node = node.get(name) if isinstance(node, dict) else None
    return node
