"""How fast devices multiply matrices: measured, and as their makers publish it."""

from __future__ import annotations

import functools
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_SIZES = (512, 1024, 2048, 4096, 8192)
_LONG = 0.03  # seconds of a product that is timed well
_ROUNDS = 5

# device_kind -> type -> floating-point operations per second, of NVIDIA's data sheets
# (H100 and H200 Tensor Core GPU; A100 Tensor Core GPU), without sparsity, which doubles
# what they print. jax multiplies float32 as TF32 by default on these.
_H100 = {"bfloat16": 989.4e12, "float32": 494.7e12}
_A100 = {"bfloat16": 312e12, "float32": 156e12}
PUBLISHED = {
    "NVIDIA H100 80GB HBM3": _H100,
    "NVIDIA H100 PCIe": {"bfloat16": 756e12, "float32": 378e12},
    "NVIDIA H200": _H100,
    "NVIDIA A100-SXM4-40GB": _A100,
    "NVIDIA A100-SXM4-80GB": _A100,
    "NVIDIA A100-PCIE-40GB": _A100,
    "NVIDIA A100 80GB PCIe": _A100,
}


@functools.cache
def measured(device: Any, name: str) -> float:
    """Floating-point operations per second of a square product, the median of a few.

    device: a jax.Device. name: of the type.
    """

    @jax.jit
    def multiply(x):
        return x @ x

    for size in _SIZES:
        x = jax.device_put(jnp.full((size, size), 1 / size, name), device)
        multiply(x).block_until_ready()
        seconds = []
        for _ in range(_ROUNDS):
            begin = time.perf_counter()
            multiply(x).block_until_ready()
            seconds.append(time.perf_counter() - begin)
        if np.median(seconds) > _LONG:
            break
    return 2 * size**3 / float(np.median(seconds))
