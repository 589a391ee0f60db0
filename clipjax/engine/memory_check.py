"""Checks that a run can fit into memory, before it takes any."""

from __future__ import annotations

import math
import os
from typing import Any

import jax

from clipjax.types import Config, UserError

WORKER = 100 * 2**20  # the least bytes of a process that reads and decodes


def check(config: Config, template: Any, mesh: jax.sharding.Mesh) -> None:
    """Compares the least memory that a run takes with the memory that exists.

    template: the shapes and shardings of the training state.

    Raises UserError if the state takes more bytes than a device has, or if a batch's
    pixels or data.workers' processes take more than the host has.
    """
    host = _of_host()
    device = of_device(mesh.devices.flat[0], host)
    state = sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(template)
        if not jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.extended)
    )
    if device and state > device:
        raise UserError(
            f"the model and its optimizer take {_size(state)} on each device, which "
            f"has {_size(device)}: choose smaller towers, or a larger mesh.fsdp"
        )
    workers = config.data.workers
    if host and workers * WORKER > host:
        raise UserError(
            f"data.workers={workers}: so many processes take {_size(workers * WORKER)} "
            f"and the machine has {_size(host)}: about one for each core is enough"
        )
    side, images = config.data.image_size, config.data.batch_size
    batch = images * side * side * 3 // jax.process_count()
    if host and batch > host:
        raise UserError(
            f"data.batch_size={images}, data.image_size={side}: the pixels of a batch "
            f"take {_size(batch)} and the machine has {_size(host)}: make one smaller"
        )


def of_device(device: Any, host: int) -> int:
    """A device's bytes, 0 if unknown; host: those of the host, which a CPU has."""
    if device.platform == "cpu":
        return host
    return (device.memory_stats() or {}).get("bytes_limit", 0)


def _of_host() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return 0


def _size(count: float) -> str:
    return f"{count / 1e9:,.1f} GB"
