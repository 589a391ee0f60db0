"""A run's step and its data, each alone: what fits, and which of the two waits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax

from clipjax import byte_sizes
from clipjax.checkup import timed_step, which_device
from clipjax.checkup.findings import Finding, error, ok, warning
from clipjax.checkup.system import Machine
from clipjax.engine import first_state, memory_check, step_program
from clipjax.engine.run import Run, batches
from clipjax.losses.common.diagnostics import UNINFORMED

_FAR = 2.0  # a start at so many times the uninformed loss is far from it


def checks(run: Run, machine: Machine) -> Iterator[Finding]:
    """Memory, both speeds, and the loss of the first step.

    A step that does not fit is not run, and ends the checks.
    """
    config = run.config
    source = batches(run, 0)
    try:
        local = dict(next(source))
        step, batch = timed_step.compiled(run, local)
        limit = memory_check.of_device(jax.local_devices()[0], machine.memory_free)
        found = fits(step.memory_analysis(), config.data.batch_size, limit)
        yield found
        if found.state == "error":
            return
        data_seconds = timed_step.mean_seconds(lambda: next(source))
    finally:
        source.close()
    state, weights = first_state.make(run, lambda line: None)
    state, metrics = step(state, batch)
    first = {x: float(metrics[x]) for x in ("loss", UNINFORMED) if x in metrics}
    seconds = timed_step.seconds(step, state, batch)
    yield bottleneck(config.data.batch_size, seconds, data_seconds, config.data.workers)
    flops = step_program.describe(step, batch, run.mesh.size).flops
    yield from which_device.checks(run, local, seconds, flops)
    yield from start(first, weights)


def fits(analysis: Any, batch: int, limit: int) -> Finding:
    """Whether a compiled step fits into a device, and about which batch would.

    analysis: its own, of one device. limit: the device's bytes, 0 if unknown.
    """
    if analysis is None:
        return ok("the compiled step does not say what memory it takes")
    kept = analysis.argument_size_in_bytes
    extra = analysis.output_size_in_bytes - analysis.alias_size_in_bytes
    temporary = analysis.temp_size_in_bytes + max(extra, 0)
    told = (
        f"a step of {batch} takes {byte_sizes.text(kept)} of state and batch and "
        f"{byte_sizes.text(temporary)} of temporaries"
    )
    if not limit:
        return ok(told)
    told += f", of {byte_sizes.text(limit)}"
    if kept + temporary <= limit:
        return ok(told)
    # Temporaries grow about as the batch does.
    most = int(batch * max(limit - kept, 0) / max(temporary, 1) * 0.9)
    power = 2 ** (most.bit_length() - 1) if most else 0
    mend = (
        f"about --config.data.batch_size={power} fits, or this one in parts by "
        f"--config.train.micro_batches={_parts(batch, most)}"
        if power
        else "choose smaller towers, or a larger mesh.fsdp"
    )
    return error(told, mend)


def bottleneck(batch: int, step: float, data: float, workers: int) -> Finding:
    """Which of two waits for the other. step, data: seconds per batch, each alone."""
    told = (
        f"the step alone takes {batch / step:,.0f} images/s, the data alone give "
        f"{batch / data:,.0f}"
    )
    if data < 0.9 * step:
        return ok(f"{told}: the step is the bottleneck")
    more = f"more than {workers} " if workers else ""
    return warning(
        f"{told}: the data are the bottleneck",
        f"{more}--config.data.workers, smaller images on disk (clipjax.prepare convert "
        "--size), or the extra images",
    )


def start(first: dict[str, float], weights: bool) -> Iterator[Finding]:
    """Whether the first loss is that of a model that knows nothing.

    first: the first step's metrics. weights: whether it starts from trained ones.
    """
    if not weights and UNINFORMED in first:
        loss, chance = first["loss"], first[UNINFORMED]
        told = f"the first loss is {loss:.4g}, and {chance:.4g} if all pairs are alike"
        if loss > _FAR * chance:
            yield warning(told, "a lower --config.model.logit_scale_init starts nearer")
        elif loss < chance / _FAR:
            yield warning(
                told,
                "the pairs give themselves away: see that images and captions differ",
            )
        else:
            yield ok(told)


def _parts(batch: int, most: int) -> int:
    """The fewest equal parts of a batch of which one fits."""
    return next(n for n in range(1, batch + 1) if batch % n == 0 and batch // n <= most)
