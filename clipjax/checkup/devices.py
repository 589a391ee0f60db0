"""The devices that jax sees, and how fast they multiply matrices."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator
from typing import Any

import jax

from clipjax.checkup.findings import Finding, ok, warning
from clipjax.engine import matmul_rate

DRIVER = pathlib.Path("/proc/driver/nvidia/version")
TYPES = ("float32", "bfloat16")


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
    for platform, device in one_of_each().items():
        found = {name: matmul_rate.measured(device, name) for name in TYPES}
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


def one_of_each() -> dict[str, Any]:
    """Platform -> a jax.Device of it: of those that jax uses, and a CPU."""
    kinds = {device.platform: device for device in jax.devices()}
    if "cpu" not in kinds:
        kinds["cpu"] = jax.devices("cpu")[0]
    return kinds
