"""The devices that jax sees, and how fast they multiply matrices."""

from __future__ import annotations

import pathlib
import time
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from clipjax.checkup.findings import Finding, ok, warning

DRIVER = pathlib.Path("/proc/driver/nvidia/version")
TYPES = ("float32", "bfloat16")
_SIZES = (512, 1024, 2048, 4096, 8192)
_LONG = 0.03  # seconds of a product that is timed well
_ROUNDS = 5


def devices() -> Iterator[Finding]:
    """Which devices there are, and whether jax uses them."""
    found = jax.devices()
    kinds = dict.fromkeys(device.device_kind for device in found)
    yield ok(f"jax uses {len(found)} x {', '.join(kinds)} ({found[0].platform})")
    if found[0].platform == "cpu" and DRIVER.exists():
        yield warning(
            "there is an NVIDIA driver, and jax uses the CPU",
            "pip install -e '.[cuda]', and see JAX_PLATFORMS and CUDA_VISIBLE_DEVICES",
        )


def rates(precision: str = "") -> Iterator[Finding]:
    """Floating-point operations per second of products, by device and type.

    precision: the run's model.precision, "" without a run.
    """
    kinds = {device.platform: device for device in jax.devices()}
    if "cpu" not in kinds:
        kinds["cpu"] = jax.devices("cpu")[0]
    for platform, device in kinds.items():
        found = {name: rate(device, name) for name in TYPES}
        listed = ", ".join(
            f"{name} {value / 1e12:.3g}" for name, value in found.items()
        )
        text = f"products of matrices on {platform}, TFLOP/s: {listed}"
        slower = found["bfloat16"] < 0.9 * found["float32"]
        if platform == jax.default_backend() and precision == "bfloat16" and slower:
            yield warning(
                text, "bfloat16 is slower here: --config.model.precision=float32"
            )
        else:
            yield ok(text)


def rate(device: Any, name: str) -> float:
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
