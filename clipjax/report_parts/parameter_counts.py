"""How many parameters a run has, by tower, and the bytes of its state."""

from __future__ import annotations

import math

from clipjax.report_parts.run_files import RunFiles

BYTES = {"bfloat16": 2, "float16": 2, "float64": 8, "int64": 8, "uint64": 8}
_SMALL = {"bool": 1, "int8": 1, "uint8": 1, "int16": 2, "uint16": 2}


def of_state(run: RunFiles) -> list[tuple[tuple[str, ...], str, tuple[int, ...]]]:
    """The arrays of the newest step that can be read; [] if there is none."""
    return next((save.arrays for save in reversed(run.saves) if save.arrays), [])


def by_part(run: RunFiles) -> dict[str, int]:
    """Parameters of the image tower, the text tower and the rest, by name."""
    counts: dict[str, int] = {}
    for path, _, shape in of_state(run):
        if path[0] == "params":
            name = path[1] if len(path) > 2 else "temperature and bias"
            counts[name] = counts.get(name, 0) + math.prod(shape)
    return counts


def total(run: RunFiles) -> int:
    return sum(by_part(run).values())


def state_bytes(run: RunFiles) -> dict[str, int]:
    """Bytes of the state's parts: "params", "opt_state", "ema", ..."""
    sizes: dict[str, int] = {}
    for path, dtype, shape in of_state(run):
        each = BYTES.get(dtype, _SMALL.get(dtype, 4))
        sizes[path[0]] = sizes.get(path[0], 0) + math.prod(shape) * each
    return sizes


def words(count: float) -> str:
    """A count as words: 3.6 million."""
    for size, name in ((1e9, "billion"), (1e6, "million")):
        if count >= size:
            return f"{count / size:.3g} {name}"
    return f"{count:,.0f}"


def memory(count: float) -> str:
    """Bytes as text."""
    for size, name in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if count >= size:
            return f"{count / size:,.1f} {name}"
    return f"{count:,.0f} bytes"
