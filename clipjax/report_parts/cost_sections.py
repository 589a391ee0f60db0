"""What a run has cost: parameters, FLOPs, memory and time."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from clipjax.engine.activity import duration
from clipjax.report_parts import parameter_counts, peak_rate
from clipjax.report_parts.page import Columns, Facts, Section, Table, Text
from clipjax.report_parts.run_files import RunFiles

NOT = "not measured"


def cost_section(run: RunFiles) -> Section:
    """Parameters by tower, the memory table, FLOPs and time."""
    counts = parameter_counts.by_part(run)
    if counts:
        whole = sum(counts.values())
        lines = [
            [name, f"{count:,}", f"{100 * count / whole:.1f} %"]
            for name, count in sorted(counts.items(), key=lambda x: -x[1])
        ]
        lines.append(["together", f"{whole:,}", ""])
        strong = frozenset([len(lines) - 1])
        head = ["part", "parameters", "share"]
        parts = Table(head, lines, "Parameters", strong=strong)
    else:
        parts = Text("Without a checkpoint parameters are not counted.", "gap")
    return Section("Cost", [Facts(_time(run)), Columns([[parts], [_memory(run)]])])


def _memory(run: RunFiles) -> Table:
    """Where the memory of a training step goes, on each device."""
    sizes = parameter_counts.state_bytes(run)
    params = sizes.get("params", 0)
    ema = sizes.get("ema", 0)
    averaged = ema if ema > params / 2 else None  # a run without one has a placeholder
    temporary = _count(run.program.get("temporaries"))
    rows = [
        ("parameters", params or None, "the state's"),
        ("optimizer", sizes.get("opt_state"), "the state's"),
        ("moving average", averaged, "the state's"),
        ("gradients", params or None, "as large as the parameters"),
        (
            "activations and buffers",
            max(temporary - params, 0) if temporary is not None else None,
            "temporaries of the compiled step, without gradients",
        ),
        ("batch", _count(run.program.get("batch")), "its arrays"),
    ]
    lines = [
        [name, how, parameter_counts.memory(size) if size is not None else NOT]
        for name, size, how in rows
        if size is not None or name not in ("moving average", "batch")
    ]
    known = [size for _, size, _ in rows if size is not None]
    lines.append(["together", "by these", parameter_counts.memory(sum(known))])
    peak = _peak(run)
    lines.append(
        [
            "measured peak",
            "of the process, with Python and XLA" if peak else "",
            parameter_counts.memory(peak) if peak else NOT,
        ]
    )
    strong = frozenset([len(lines) - 2, len(lines) - 1])
    head = ["part", "from", "size"]
    return Table(head, lines, "Memory of a training step", texts=2, strong=strong)


def _peak(run: RunFiles) -> float | None:
    if run.status is not None and run.status.device_memory:
        return run.status.device_memory.get("peak")
    return _count(run.program.get("peak"))


def _time(run: RunFiles) -> list[tuple[str, str]]:
    """Time, throughput and FLOPs."""
    _, rates = run.series("time/images_per_second")
    rate = float(np.nanmedian(rates)) if len(rates) else math.nan
    _, waits = run.series("time/data_wait_share")
    flops = _count(run.program.get("flops"))
    batch = run.section("data").get("batch_size")
    steps = run.log.last_step() or 0
    pair = flops / batch if flops and batch else None
    done = pair * rate if pair and math.isfinite(rate) else None
    seconds = run.seconds
    known = math.isfinite(seconds)
    pairs = [
        ("time from the first logged step", duration(seconds) if known else NOT),
        ("images per second, median", f"{rate:,.1f}" if math.isfinite(rate) else NOT),
        ("waiting for data", f"{100 * np.nanmean(waits):.1f} %" if len(waits) else NOT),
        ("images seen", f"{steps * batch:,}" if batch else NOT),
        ("FLOPs per image-text pair", f"{pair / 1e9:,.3g} GFLOP" if pair else NOT),
        ("rate", f"{done / 1e9:,.0f} GFLOP/s" if done else NOT),
        ("share of the matmul peak", peak_rate.share(run, done) if done else NOT),
        ("FLOPs in all", f"{flops * steps:.3g}" if flops else NOT),
        ("energy", _energy(run)),
    ]
    device = run.environment.get("device")
    if device:
        count = run.environment.get("devices", 1)
        pairs.append(("devices", f"{count} x {device}"))
    return pairs


def _energy(run: RunFiles) -> str:
    """What the run's counters counted, of its first process's machine."""
    found = (run.status.energy if run.status else None) or {}
    parts = {name: _count(found.get(name)) for name in ("gpus", "processors")}
    known = {name: joules for name, joules in parts.items() if joules is not None}
    if not known:
        return NOT
    words = {"gpus": "GPUs", "processors": "processors, with all else that they did"}
    listed = "; ".join(f"{_joules(x)} of {words[name]}" for name, x in known.items())
    return f"{listed}; in {duration(_count(found.get('seconds')) or 0.0)}"


def _joules(joules: float) -> str:
    if joules < 3600:
        return f"{joules:,.0f} J"
    hours = joules / 3600
    return f"{hours:.3g} Wh" if hours < 999.5 else f"{hours / 1000:,.2f} kWh"


def _count(value: Any) -> float | None:
    good = isinstance(value, (int, float)) and math.isfinite(value) and value >= 0
    return float(value) if good else None
