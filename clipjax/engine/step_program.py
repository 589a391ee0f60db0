"""RUN/program.json: what XLA says of a run's compiled training step, and its memory.

`--dry_run` prints the same, and `clipjax.report` shows the file.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import pathlib
import resource
import sys
from collections.abc import Callable
from typing import Any

import jax

from clipjax import atomic_files
from clipjax.engine import recording

FILE = "program.json"


@dataclasses.dataclass
class Program:
    """A compiled training step.

    devices: over which it runs. flops: of a step, on all of them together; None if XLA
    does not count them, as all of the following. state, batch, temporaries: bytes on
    each device: of its arguments, and of what it needs beside them, which are
    activations, gradients and buffers. peak: bytes that this process, or its devices,
    had in use at most; None until the run has ended.
    """

    devices: int
    flops: float | None
    state: int | None
    batch: int
    temporaries: int | None
    peak: int | None = None


def describe(compiled: Any, batch: Any, devices: int) -> Program:
    """What a `jax.stages.Compiled` says; batch: the arrays that it was compiled for."""
    each = sum(array.nbytes for array in jax.tree.leaves(batch)) // devices
    flops = (compiled.cost_analysis() or {}).get("flops", math.nan)
    memory = compiled.memory_analysis()
    return Program(
        devices,
        flops * devices if math.isfinite(flops) and flops > 0 else None,
        memory.argument_size_in_bytes - each if memory is not None else None,
        each,
        memory.temp_size_in_bytes if memory is not None else None,
    )


def record(
    workdir: pathlib.Path, compiled: Any, batch: Any, devices: int
) -> Callable[[], None]:
    """Writes the file, and returns what adds the peak at the run's end.

    Raises OSError; what it returns does not, as nothing depends on the peak.
    """
    program = describe(compiled, batch, devices)
    place = workdir / FILE
    atomic_files.write_json(place, dataclasses.asdict(program))

    def ended() -> None:
        with contextlib.suppress(OSError):
            whole = dataclasses.replace(program, peak=peak())
            atomic_files.write_json(place, dataclasses.asdict(whole))

    return ended


def peak() -> int:
    """The most bytes that this process's devices had in use, or the process itself if
    its devices share the machine's memory.
    """
    if found := recording.device_memory():
        return found["peak"]
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
