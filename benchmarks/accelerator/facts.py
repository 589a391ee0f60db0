"""Facts of the measured machine and software: devices, versions, commit."""

from __future__ import annotations

import importlib.metadata
import os
import pathlib
import platform
import subprocess
from typing import Any

ROOT = pathlib.Path(__file__).parents[2]
ABSENT = "not available"

PACKAGES = (
    *("jax", "jaxlib", "jax-cuda13-plugin", "jax-cuda12-plugin", "flax", "optax"),
    *("orbax-checkpoint", "grain", "numpy", "nvidia-cudnn-cu13", "nvidia-cublas"),
    *("torch", "transformers", "triton"),
)
QUERY = "name,memory.total,driver_version,power.limit,clocks.max.sm,clocks.max.mem"
SETTINGS = ("XLA_", "JAX_", "CUDA_", "NVIDIA_TF32")


def machine_facts(arguments: list[str]) -> dict[str, Any]:
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = ABSENT
    return {
        "arguments": arguments,
        "commit": _output_of("git", "-C", str(ROOT), "describe", "--always", "--dirty"),
        "python": platform.python_version(),
        "versions": versions,
        "gpus": _gpus(),
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "settings": {
            name: value
            for name, value in sorted(os.environ.items())
            if name.startswith(SETTINGS)
        },
    }


def _gpus() -> list[dict[str, str]] | str:
    output = _output_of("nvidia-smi", f"--query-gpu={QUERY}", "--format=csv,noheader")
    if output == ABSENT:
        return ABSENT
    return [
        dict(zip(QUERY.split(","), map(str.strip, line.split(",")), strict=False))
        for line in output.splitlines()
    ]


def _cpu() -> str:
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2] for line in lines if line.startswith("model name")]
    return names[0].strip() if names else platform.processor()


def _output_of(*command: str) -> str:
    """Returns a program's output, or ABSENT if it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return ABSENT
    return (done.stdout.strip() or ABSENT) if done.returncode == 0 else ABSENT
