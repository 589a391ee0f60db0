"""Compares a contrastive loss's memory and time: whole matrix and blocks of rows.

    python benchmarks/loss_memory.py
    python benchmarks/loss_memory.py --timed 65536 --width 512   # GPU

It measures each loss's value and gradient, without towers, on random unit vectors.
Memory is what the compiled program reports, without inputs and outputs. Times are
medians of interleaved runs, for batches up to --timed. A form that needs more than
--limit GiB is not run. The second table has the largest batch, a power of two, that
needs at most 1 GiB. VICReg has no such matrix. xbm's queue holds one batch.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time

import jax
import jax.numpy as jnp
from rich.console import Console
from rich.table import Table

from clipjax.registry import load
from clipjax.types import LossSpec

LOSSES = (
    *("clip", "siglip", "cyclip", "sogclr", "isogclr", "fastclip", "onlineclr"),
    *("hn_nce", "dcl", "hcl", "xbm"),
)


def make(name: str, batch: int, width: int, block: int):
    spec = LossSpec(batch, batch, width, batch, 1, 1)
    more = {"size": batch} if name == "xbm" else {}
    return load("loss", name)(spec, block=block, **more)


def compiled(name: str, batch: int, width: int, block: int):
    """Compiles a loss's value and gradient for this size."""
    loss = make(name, batch, width, block)

    def step(image, text, scale, state):
        outputs = {"image_embed": image, "text_embed": text, "logit_scale": scale}
        outputs["logit_bias"] = -scale
        ids = jnp.arange(batch, dtype=jnp.int32)
        return loss(outputs, {"image_id": ids, "text_id": ids}, state, 0)[0]

    vectors = jax.ShapeDtypeStruct((batch, width), jnp.float32)
    scale = jax.ShapeDtypeStruct((), jnp.float32)
    grad = jax.jit(jax.value_and_grad(step, (0, 1, 2)))
    return grad.lower(vectors, vectors, scale, jax.eval_shape(loss.init)).compile()


def memory(program) -> int:
    """Returns the bytes that a program needs beside its inputs and outputs."""
    return program.memory_analysis().temp_size_in_bytes


def inputs(name: str, batch: int, width: int):
    draw = jax.random.normal(jax.random.key(0), (2, batch, width))
    image, text = draw / jnp.linalg.norm(draw, axis=2, keepdims=True)
    return image, text, jnp.float32(14.3), make(name, batch, width, 0).init()


def times(programs: dict, arguments, seconds: float) -> dict[str, float]:
    """Returns each program's median seconds; the programs take turns."""
    seconds_of: dict[str, list[float]] = {form: [] for form in programs}
    end = time.monotonic() + seconds
    while time.monotonic() < end or len(next(iter(seconds_of.values()))) < 3:
        for form, program in programs.items():
            start = time.perf_counter()
            jax.block_until_ready(program(*arguments))
            seconds_of[form].append(time.perf_counter() - start)
    return {form: statistics.median(values[1:]) for form, values in seconds_of.items()}


def largest(name: str, width: int, block: int, bound: int) -> str:
    """Returns the largest power of two whose program needs at most 1 GiB."""
    batch = 1024
    while batch < bound and memory(compiled(name, 2 * batch, width, block)) <= 2**30:
        batch *= 2
    return f"{batch:,}" + ("+" if batch >= bound else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--width", type=int, default=256, help="width of an embedding")
    parser.add_argument("--block", type=int, default=512, help="rows at a time")
    parser.add_argument(
        "--batches", type=int, nargs="*", default=[2**power for power in range(10, 17)]
    )
    parser.add_argument("--timed", type=int, default=16384, help="largest batch to run")
    parser.add_argument("--seconds", type=float, default=5.0, help="seconds per row")
    parser.add_argument("--limit", type=float, default=4.0, help="GiB a run may need")
    parser.add_argument("--bound", type=int, default=2**18, help="largest batch to try")
    parser.add_argument("--losses", nargs="*", default=LOSSES)
    args = parser.parse_args()
    console = Console(width=110)
    console.print(
        f"jax {jax.__version__} on {jax.devices()[0].device_kind}, width {args.width}, "
        f"blocks of {args.block}"
    )
    table = Table(
        "loss", "batch", "whole MiB", "blocks MiB", "whole s", "blocks s", "x"
    )
    for name, batch in itertools.product(args.losses, args.batches):
        programs = {
            "whole": compiled(name, batch, args.width, 0),
            "blocks": compiled(name, batch, args.width, args.block),
        }
        needs = {form: memory(program) for form, program in programs.items()}
        runnable = {
            form: program
            for form, program in programs.items()
            if needs[form] <= args.limit * 2**30 and batch <= args.timed
        }
        arguments = inputs(name, batch, args.width)
        took = times(runnable, arguments, args.seconds) if runnable else {}
        both = len(took) == 2
        row = (
            name,
            f"{batch:,}",
            *(f"{needs[form] / 2**20:,.1f}" for form in ("whole", "blocks")),
            *(f"{took[f]:.4f}" if f in took else "-" for f in ("whole", "blocks")),
            f"{took['blocks'] / took['whole']:.2f}" if both else "-",
        )
        table.add_row(*row)
        console.print(*row, sep=" | ")
    console.print(table)
    fits = Table("loss", "largest batch in 1 GiB, whole", "in blocks")
    for name in args.losses:
        fits.add_row(
            name,
            largest(name, args.width, 0, args.bound),
            largest(name, args.width, args.block, args.bound),
        )
    console.print(fits)


if __name__ == "__main__":
    main()
