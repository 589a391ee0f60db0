"""Measures losses without towers: value and gradient, whole and in blocks."""

from __future__ import annotations

from typing import Any

import loss_memory

from accelerator import timing, towers
from accelerator.child import Report, message

BLOCK = 512


def measure(report: Report, tiny: bool) -> None:
    """Each size runs in blocks first, because whole matrices may not fit."""
    timing.device(tiny)
    width = 32 if tiny else 512
    for size in (64,) if tiny else (4096, 16384, 65536):
        for name in ("clip", "siglip"):
            arguments = loss_memory.inputs(name, size, width)
            for form, block in (("blocks", 32 if tiny else BLOCK), ("whole", 0)):
                known: dict[str, Any] = {"batch": size, "block": block}
                try:
                    program = loss_memory.compiled(name, size, width, block)
                    known |= towers.bytes_of(program)
                    took = timing.per_call(
                        lambda: program(*arguments),  # noqa: B023
                        seconds=0.5,
                        windows=3 if size > 16384 else 5,
                    )
                    known |= {"ms": round(took["seconds"] * 1e3, 3), **took}
                except Exception as error:  # usually out of memory
                    known["error"] = message(error)
                report(f"{name}_{size}_{form}", known)
