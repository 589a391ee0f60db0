"""Parts that measure the device alone: its peaks, and jax's attention."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from accelerator import timing
from accelerator.child import Report, message
from clipjax.models.common import layers

# name -> (dtype, the product's precision)
PRODUCTS: dict[str, tuple[Any, Any]] = {
    "bfloat16": (jnp.bfloat16, None),
    "tf32": (jnp.float32, lax.DotAlgorithmPreset.TF32_TF32_F32),
    "float32": (jnp.float32, lax.Precision.HIGHEST),
}


def peaks(report: Report, tiny: bool) -> None:
    """Measures matrix products and copies.

    The numbers are random, because products of constants are faster.
    """
    device = timing.device(tiny)
    report("device", f"{device.device_kind} ({device.platform})")
    side = 256 if tiny else 8192
    keys = jax.random.split(jax.random.key(0))
    for name, (dtype, precision) in PRODUCTS.items():
        try:
            one, two = (jax.random.normal(key, (side, side), dtype) for key in keys)
            product = jax.jit(functools.partial(jnp.matmul, precision=precision))
            took = timing.per_call(lambda: product(one, two))  # noqa: B023
            rate = 2 * side**3 / took["seconds"] / 1e12
            report(name, {"side": side, "tflops": round(rate, 3), **took})
        except Exception as error:  # a CPU has no TF32
            report(name, {"error": message(error)})
    count = 2**20 if tiny else 2**29
    numbers = jax.random.normal(keys[0], (count,), jnp.float32)
    copy = jax.jit(jnp.copy)
    took = timing.per_call(lambda: copy(numbers))
    moved = 2 * numbers.nbytes  # a read and a write
    rate = round(moved / took["seconds"] / 1e9, 1)
    report("copy", {"bytes": moved, "gb_per_second": rate, **took})


def attention(report: Report, tiny: bool) -> None:
    """Measures the attention of ViT-B/16's image and text towers, with gradients."""
    timing.device(tiny)
    batch = 2 if tiny else 256
    shapes = {
        "image": ((batch, 17 if tiny else 197, 12, 64), False),
        "text": ((batch, 9 if tiny else 77, 8, 64), True),
    }
    for name, (shape, causal) in shapes.items():
        keys = jax.random.split(jax.random.key(0), 4)
        arrays = tuple(jax.random.normal(key, shape, jnp.bfloat16) for key in keys)
        few = tuple(x[:2].astype(jnp.float32) for x in arrays)
        with jax.default_matmul_precision("highest"):
            right = _gradients("xla", causal)(*few)
        results: dict[str, Any] = {"shape": shape, "causal": causal}
        for kind in ("xla", "cudnn"):
            try:
                run = _gradients(kind, causal)
                errors = [
                    float(jnp.linalg.norm(a - b) / jnp.linalg.norm(b))
                    for a, b in zip(run(*(x[:2] for x in arrays)), right, strict=True)
                ]
                took = timing.per_call(lambda: run(*arrays))  # noqa: B023
                milliseconds = round(took["seconds"] * 1e3, 4)
                results[kind] = {"ms": milliseconds, "errors": errors, **took}
            except Exception as error:
                results[kind] = {"error": message(error)}
            report(name, results)
        if all("ms" in results[kind] for kind in ("xla", "cudnn")):
            ratio = results["xla"]["ms"] / results["cudnn"]["ms"]
            results["xla_over_cudnn"] = round(ratio, 3)
            report(name, results)


def _gradients(kind: str, causal: bool):
    """(query, key, value, weights) -> the result, and its product's gradients.

    The product is the result's with the weights.
    """

    def run(query, key, value, weights):
        if kind == "cudnn":
            attend = functools.partial(layers.fused_attention, causal=causal)
        else:
            attend = functools.partial(
                jax.nn.dot_product_attention, is_causal=causal, implementation=kind
            )
        result, back = jax.vjp(attend, query, key, value)
        return result, *back(weights)

    return jax.jit(run)
