"""Process settings that make XLA:CPU faster; call before the first array.

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

# Takes reductions through the YNN library and the rest through Eigen: 1.1-1.2 x for a
# ViT. The flag is experimental and an unknown flag ends the process, so only jaxlib
# versions on which it was tested get it.
REDUCE_FLAG = "--xla_cpu_experimental_ynn_fusion_type=LIBRARY_FUSION_TYPE_REDUCE"
REDUCE_VERSIONS = ("0.10.2", "0.11.2", "0.12.0.1")

MALLOC = {
    malloc.MMAP_MAX: 0,  # large blocks come from the heap, not by mmap
    malloc.TRIM_THRESHOLD: -1,  # the heap's top is never returned
    malloc.ARENA_MAX: 1,  # all threads share the main heap: others cannot grow so far
}


def cpu_only() -> bool:
    """Whether jax can use only the CPU; starts no backend."""
    chosen = jax.config.jax_platforms  # pyright: ignore
    if chosen:
        return chosen == "cpu"
    plugins = importlib.metadata.entry_points(group="jax_plugins")
    modules = ("jax_plugins", "libtpu")
    return not plugins and not any(importlib.util.find_spec(name) for name in modules)


def fast_cpu_flags() -> bool:
    """Adds REDUCE_FLAG to XLA_FLAGS; returns whether it did.

    It does not if the user set that flag or jaxlib is untested. It has no effect once
    jax's backend has started.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    name = REDUCE_FLAG.partition("=")[0]
    if not cpu_only() or jaxlib.__version__ not in REDUCE_VERSIONS or name in flags:
        return False
    os.environ["XLA_FLAGS"] = f"{flags} {REDUCE_FLAG}".strip()
    return True


def keep_memory() -> bool:
    """Makes malloc keep freed memory; returns whether it did (Linux with glibc only).

    XLA:CPU allocates its temporary memory again in every step, and the page faults cost
    a third of a training step. Steps are then dispatched one at a time, because two in
    flight would take, and the process keep, the memory of both. It does nothing if
    GLIBC_TUNABLES sets malloc, and has no effect once jax's backend has started its
    threads.
    """
    if not cpu_only() or not malloc.tune(MALLOC):
        return False
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    return True
