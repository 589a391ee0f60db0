"""Settings of the host process that make XLA:CPU faster; call before the first array.

    host.fast_cpu_flags()
    host.keep_memory()

Both do nothing if jax may use an accelerator, and never override the user.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os

import jax
import jaxlib

from clipjax import malloc

# Reductions through the YNN library, the rest through Eigen: 1.1-1.2 x for a ViT. The
# flag is experimental, and an unknown flag ends the process: only jaxlib versions with
# which it was tried.
REDUCE_FLAG = "--xla_cpu_experimental_ynn_fusion_type=LIBRARY_FUSION_TYPE_REDUCE"
REDUCE_VERSIONS = ("0.10.2", "0.11.2", "0.12.0.1")

MALLOC = {
    malloc.MMAP_MAX: 0,  # take large blocks from the heap, not by mmap
    malloc.TRIM_THRESHOLD: -1,  # never give the heap's top back
    malloc.ARENA_MAX: 1,  # one heap for all threads, the only one that can grow so far
}


def cpu_only() -> bool:
    """Whether jax can only be using the CPU; starts no backend."""
    chosen = jax.config.jax_platforms  # pyright: ignore
    if chosen:
        return chosen == "cpu"
    plugins = importlib.metadata.entry_points(group="jax_plugins")
    modules = ("jax_plugins", "libtpu")
    return not plugins and not any(importlib.util.find_spec(name) for name in modules)


def fast_cpu_flags() -> bool:
    """Adds REDUCE_FLAG to XLA_FLAGS; returns whether it did.

    Not if the user set that flag, nor with an untried jaxlib. Without effect once
    jax's backend has started.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    name = REDUCE_FLAG.partition("=")[0]
    if not cpu_only() or jaxlib.__version__ not in REDUCE_VERSIONS or name in flags:
        return False
    os.environ["XLA_FLAGS"] = f"{flags} {REDUCE_FLAG}".strip()
    return True


def keep_memory() -> bool:
    """Makes malloc keep what is freed; returns whether it did (Linux with glibc only).

    XLA:CPU allocates its temporary memory anew in every step, and the page faults cost
    a third of a training step. Steps are then dispatched one at a time: two in flight
    would hold, and from then on keep, the memory of both. Not if GLIBC_TUNABLES
    sets malloc. Without effect once jax's backend has started its threads.
    """
    if not cpu_only() or not malloc.tune(MALLOC):
        return False
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    return True
