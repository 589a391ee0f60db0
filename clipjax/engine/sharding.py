"""Placement of arrays: one mesh, one rule table for parameters and their moments."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from clipjax import param_paths
from clipjax.types import UserError

# Path pattern -> action; the first match wins, and the last pattern matches all.
# "fsdp" splits the largest dimension that the axis divides. "rows" splits the first
# dimension of a large array over all devices. "replicate" splits none.
RULES = (
    (r"(^|/)(step|key|bad_total|bad_in_row|count)$", "replicate"),
    # A loss's tables of all examples (losses/common/moving.py) or of past batches.
    (r"^loss_state/", "rows"),
    (r".*", "fsdp"),
)


def make_mesh(config: Mapping[str, int]) -> Mesh:
    """The `mesh` section's mesh (data, fsdp) over all devices of all hosts.

    Raises UserError if the two do not multiply to the number of devices.
    """
    count = jax.device_count()
    data, fsdp = config["data"], config["fsdp"]
    if data == -1:
        data = max(count // fsdp, 1)
    if data * fsdp != count:
        raise UserError(
            f"mesh.data={config['data']}, mesh.fsdp={fsdp}: their product must be the "
            f"number of devices, {count} ({jax.devices()[0].device_kind})"
        )
    return mesh_of(jax.devices(), data, fsdp)


def mesh_of(devices: Sequence[Any], data: int, fsdp: int) -> Mesh:
    """The mesh (data, fsdp) of data x fsdp devices, as `jax.devices()` has them."""
    # The default axis type is Explicit since jax 0.9, under which indexing a sharded
    # table and multiplying two batch-sharded embeddings raise.
    return jax.make_mesh(
        (data, fsdp),
        ("data", "fsdp"),
        axis_types=(AxisType.Auto,) * 2,
        devices=devices,
    )


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The sharding that splits the batch dimension over all devices."""
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def on_host(mesh: Mesh, tree: Any) -> Any:
    """The whole arrays of a tree, as NumPy's; all processes make the same calls."""

    def whole(leaf: jax.Array) -> np.ndarray:
        if not (leaf.is_fully_addressable or leaf.is_fully_replicated):
            leaf = jax.jit(lambda x: x, out_shardings=replicated(mesh))(leaf)
        return np.asarray(leaf)

    return jax.tree.map(whole, tree)


def tree_shardings(mesh: Mesh, tree: Any) -> Any:
    """A NamedSharding per leaf of a tree of arrays or shapes."""
    paths = param_paths.paths(tree)
    return jax.tree.map(lambda path, leaf: _rule(mesh, path, leaf), paths, tree)


def _rule(mesh: Mesh, path: str, leaf: Any) -> NamedSharding:
    action = next(action for pattern, action in RULES if re.search(pattern, path))
    size = mesh.shape["fsdp"]
    spec: list[Any] = [None] * leaf.ndim
    if action == "rows" and leaf.size >= 2**16 and leaf.shape[0] % mesh.size == 0:
        spec[0] = ("data", "fsdp")
    if action == "fsdp" and size > 1:
        fitting = [d for d in range(leaf.ndim) if leaf.shape[d] % size == 0]
        # A small array is not worth the communication.
        if fitting and math.prod(leaf.shape) >= 2**12:
            spec[max(fitting, key=lambda d: leaf.shape[d])] = "fsdp"
    return NamedSharding(mesh, PartitionSpec(*spec))


def put_batch(mesh: Mesh, local: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
    """Global arrays from this process's block of the batch."""
    sharding = batch_sharding(mesh)
    return {
        key: jax.make_array_from_process_local_data(sharding, np.asarray(value))
        for key, value in local.items()
    }
