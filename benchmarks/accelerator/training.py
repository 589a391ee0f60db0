"""Parts that measure the towers: training steps and encoding."""

from __future__ import annotations

import contextlib
import pathlib
import tempfile
from typing import Any

import jax

from accelerator import idle, timing, towers
from accelerator.child import Absent, Report, message


def step(report: Report, tiny: bool) -> None:
    """The smaller batch runs first, because a process's memory peak only grows."""
    device = timing.device(tiny)
    report("device", f"{device.device_kind} ({device.platform})")
    training = towers.Training(towers.clip(tiny))
    report("parameters", training.parameters)
    report("gflop_per_pair", round(training.clip.pair_flops / 1e9, 2))
    report("attention", towers.attention_used(training.clip))
    for size in (4, 8) if tiny else (256, 1024):
        try:
            _profiled_steps(report, f"batch_{size}", training, device, size)
        except Exception as error:
            report(f"batch_{size}", {"batch": size, "error": message(error)})
            if (
                timing.out_of_memory(error)
                or towers.attention_used(training.clip) == "xla"
            ):
                continue
            # The kernel that the towers choose fails here; XLA's is measured instead.
            with towers.attention_by_xla():
                training = towers.Training(training.clip)
                name = f"batch_{size}_by_xla"
                _profiled_steps(report, name, training, device, size)


def _profiled_steps(report: Report, name: str, training, device, size: int) -> None:
    begin = _steps(report, name, training, device, size)
    report(f"{name}_profile", _profile(begin))


def step_xla(report: Report, tiny: bool) -> None:
    device = timing.device(tiny)
    clip = towers.clip(tiny)
    if towers.attention_used(clip) == "xla" and not tiny:
        raise Absent("the towers use XLA's attention here: see `step`")
    with towers.attention_by_xla():
        size = 4 if tiny else 256
        _steps(report, f"batch_{size}", towers.Training(clip), device, size)


def large_batch(report: Report, tiny: bool) -> None:
    """Micro-batches run first, because they need less memory."""
    device = timing.device(tiny)
    size, parts = (16, 4) if tiny else (4096, 8)
    for name, remat, count in (("micro_batches", False, parts), ("remat", True, 1)):
        with _reported(report, name):
            training = towers.Training(towers.clip(tiny, remat=remat))
            _steps(report, name, training, device, size, count, windows=3)
            del training


def large(report: Report, tiny: bool) -> None:
    device = timing.device(tiny)
    training = towers.Training(towers.clip(tiny, large=True))
    report("parameters", training.parameters)
    report("gflop_per_pair", round(training.clip.pair_flops / 1e9, 2))
    size = 4 if tiny else 256
    _steps(report, f"batch_{size}", training, device, size)


def encode(report: Report, tiny: bool) -> None:
    timing.device(tiny)
    clip = towers.clip(tiny)
    size = 4 if tiny else 256
    batch = towers.batch_of(clip, size)
    variables = jax.jit(clip.model.init)(jax.random.key(0))
    sides = {
        "images": (clip.model.encode_image, (batch["image"],)),
        "texts": (clip.model.encode_text, (batch["text"], batch["text_mask"])),
    }
    for name, (function, arguments) in sides.items():
        with _reported(report, name):
            compiled = jax.jit(function).lower(variables, *arguments).compile()
            took = timing.per_call(lambda: compiled(variables, *arguments))  # noqa: B023
            rate = round(size / took["seconds"], 1)
            known = towers.bytes_of(compiled)
            report(name, {"batch": size, "per_second": rate, **took, **known})


def _steps(
    report: Report,
    name: str,
    training: towers.Training,
    device: Any,
    size: int,
    micro_batches: int = 1,
    windows: int = 5,
):
    """Reports a training step's rate; returns a function that starts one."""
    begin, known = training.program(size, micro_batches)
    report(name, known)
    took = timing.per_call(begin, seconds=2.5, windows=windows)
    rate = size / took["seconds"]
    loss, bad = training.metrics["loss"], training.metrics["bad_total"]
    report(
        name,
        {
            **known,
            "micro_batches": micro_batches,
            "images_per_second": round(rate, 1),
            "model_tflops": rate * training.clip.pair_flops / 1e12,
            "peak_bytes": timing.peak_bytes(device),
            "loss": float(loss),
            "steps_not_finite": int(bad),
            **took,
        },
    )
    return begin


def _profile(begin: Any, steps: int = 5) -> dict[str, Any]:
    """Returns the device's idle time during some steps, or the error."""
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0  # it would slow the host
    with tempfile.TemporaryDirectory() as folder:
        try:
            with jax.profiler.trace(folder, profiler_options=options):
                for _ in range(steps):
                    last = begin()
                jax.block_until_ready(last)
            return {"steps": steps, **idle.of_trace(pathlib.Path(folder))}
        except Exception as error:
            return {"error": message(error)}


@contextlib.contextmanager
def _reported(report: Report, name: str):
    """Reports an error in the block as this measurement's result."""
    try:
        yield
    except Exception as error:
        report(name, {"error": message(error)})
