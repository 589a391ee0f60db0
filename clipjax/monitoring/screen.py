"""Snapshots of runs as text: one run in full, or several as a table."""

from __future__ import annotations

import time
from collections.abc import Sequence

from rich.console import Console, Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from clipjax import byte_sizes, registry
from clipjax.engine.activity import duration
from clipjax.monitoring.snapshot import (
    ABSENT,
    BAD,
    EMPTY,
    LOSS,
    PRIMARY,
    RATE,
    UNKNOWN,
    WAIT,
    Snapshot,
)
from clipjax.monitoring.text_curve import curve
from clipjax.run_record import status as statuses

WARNINGS = 5  # the last ones that are shown
_ACCURACIES = ("train/image_to_text_accuracy", "train/accuracy")
_OLD = 60.0  # seconds after which the age of numbers is worth a word


def one_run(shown: Snapshot, console: Console, metrics: Sequence[str] = ()) -> Group:
    """A run in full, for the console's size.

    metrics: names of the curves; those that tell most if empty.
    """
    names = list(metrics) or _curves(shown)
    parts: list[RenderableType] = [_heading(shown)]
    if shown.total_steps or shown.step:
        parts.append(_progress(shown, console))
    if numbers := _numbers(shown):
        parts.append(Text(numbers))
    if names and len(shown.log):
        parts += [Text(), _side_by_side(shown, names, console)]
        known = shown.log.names()
        for name in set(names).difference(known):
            near = registry.suggest(name, known) or " --json lists all"
            parts.append(Text(_plain(f"no number is named {name!r}.{near}"), "red"))
    parts.append(Text())
    parts += [Text(line) for line in _machine(shown)]
    for folder, _, lines in shown.evaluations:
        parts.append(Text(f"evaluations/{_plain(folder)}", style="bold"))
        parts += [Text(f"  {_plain(line)}") for line in lines]
    if not shown.evaluations and (line := _last_evaluation(shown)):
        parts.append(Text(line))
    parts += [Text(_plain(line), style="red") for line in shown.troubles]
    if shown.status and shown.status.warnings:
        total = shown.status.warnings_total
        parts.append(Text(f"warnings: {total:,}", style="bold"))
        for at, text in shown.status.warnings[-WARNINGS:]:
            parts.append(Text(f"  {_clock(at)}  {_plain(text)}", style="yellow"))
    return Group(*parts)


def table(shown: Sequence[Snapshot]) -> Table:
    """A row per run."""
    made = Table(box=None, pad_edge=False, header_style="bold")
    made.add_column("run", overflow="fold")
    made.add_column("state")
    columns = {
        "step": _step,
        "left": lambda one: _left(one),
        "loss": lambda one: _number(one.log.last(LOSS)),
        "primary": lambda one: _number(one.log.last(PRIMARY)),
        "images/s": lambda one: _number(one.log.last(RATE)) if one.running else "",
        "wait": lambda one: _share(one.log.last(WAIT)) if one.running else "",
        "CPU": _cpu,
        "memory": lambda one: _size(_of(one, "memory")),
        "GPU": _gpu,
        "disk": lambda one: _size(one.disk_free),
        "warnings": lambda one: str(_of(one, "warnings_total") or ""),
    }
    cells = {head: [cell(one) for one in shown] for head, cell in columns.items()}
    cells = {head: column for head, column in cells.items() if any(column)}
    for head in cells:
        made.add_column(head, justify="right", no_wrap=True)
    for one, *row in zip(shown, *cells.values(), strict=True):
        state = Text(one.condition.word, style=_style(one))
        made.add_row(Text(_plain(one.name)), state, *map(Text, row))
    return made


def line(shown: Snapshot) -> str:
    """A run in one line, for logs."""
    parts = [_plain(shown.name), _condition(shown)]
    if shown.step:
        parts.append(f"step {_step(shown)}")
    parts += [_numbers(shown), *map(_plain, shown.troubles)]
    return "  ".join(filter(None, parts))


def _heading(shown: Snapshot) -> Text:
    text = Text(_plain(shown.name), style="bold")
    text.append("  ")
    text.append(_condition(shown), style=_style(shown))
    status = shown.status
    if status and not shown.condition.over:
        processes = f", {status.processes} processes" if status.processes > 1 else ""
        text.append(f"  on {_plain(status.host)}, pid {status.pid}{processes}", "dim")
    return text


def _condition(shown: Snapshot) -> str:
    word, since = shown.condition
    status, ago = shown.status, duration(max(shown.at - since, 0))
    if word == statuses.RUNNING and status:
        doing = f": {_plain(status.activity)}" if status.activity else ""
        return f"running for {ago}{doing}"
    if word == statuses.DEAD:
        return f"dead since {_clock(since)} ({ago} ago): it ended without a word"
    if word == statuses.UNHEARD:
        return (
            f"silent since {_clock(since)} ({ago} ago): its process is suspended, or "
            "cannot write its folder"
        )
    reason = f": {_plain(status.reason)}" if status and status.reason else ""
    texts = {
        statuses.STOPPED: f"stopped {ago} ago by {status.reason if status else ''}",
        statuses.FAILED: f"failed {ago} ago{reason}",
        statuses.FINISHED: f"finished {ago} ago{reason}",
        EMPTY: "empty: nothing is in its folder yet",
        UNKNOWN: "unknown: it has no status.json that can be read",
        ABSENT: "absent: its folder is gone",
    }
    return texts.get(word, f"{word} {ago} ago")


def _style(shown: Snapshot) -> str:
    if shown.condition.word in BAD:
        return "red"
    return "green" if shown.running else "yellow" if not shown.condition.over else ""


def _progress(shown: Snapshot, console: Console) -> Table:
    total = shown.total_steps
    made = Table.grid(padding=(0, 2))
    cells: list[RenderableType] = [Text(f"step {_step(shown)}")]
    if total:
        cells.append(ProgressBar(total, shown.step, width=max(console.width // 3, 10)))
        cells.append(Text(f"{shown.step / total:.1%}"))
    if (left := _left(shown)) and shown.status:
        end = _clock(shown.at + (shown.status.seconds_left or 0.0))
        cells.append(Text(f"left {left}, until {end}"))
    made.add_row(*cells)
    return made


def _numbers(shown: Snapshot) -> str:
    log = shown.log
    if (loss := log.last(LOSS)) is None:
        return ""
    chance = log.last("train/uninformed_loss")
    parts = [f"loss {loss:.4g}" + (f" (chance {chance:.4g})" if chance else "")]
    for name, word in zip(_ACCURACIES, ("in-batch accuracy", "accuracy"), strict=True):
        if (accuracy := log.last(name)) is not None:
            parts.append(f"{word} {accuracy:.1%}")
    if shown.running:
        if (rate := log.last(RATE)) is not None:
            parts.append(f"{rate:,.0f} images/s")
            parts.append(f"data wait {_share(log.last(WAIT))}")
        age = shown.numbers_age()
        if age is not None and age > _OLD:
            parts.append(f"(numbers of {duration(age)} ago)")
    return "  ".join(parts)


def _curves(shown: Snapshot) -> list[str]:
    """The names of the curves that tell most: a loss, how good it is, and the pace."""
    names = shown.log.names()
    wanted = [LOSS]
    enough = [x for x in (PRIMARY, "eval/val_loss") if len(shown.log.series(x)[0]) > 1]
    wanted += enough[:1] or [x for x in _ACCURACIES if x in names][:1]
    return [name for name in (*wanted, RATE) if name in names]


def _side_by_side(shown: Snapshot, names: list[str], console: Console) -> Table:
    count = max(min(len(names), console.width // 32), 1)
    rows = -(-len(names) // count)
    # On a terminal a third of the lines is for other things.
    height = 8 if not console.is_terminal else (console.height * 2 // 3 - 6) // rows
    width = console.width // count - 2
    made = Table.grid(padding=(0, 2, 0, 0))
    cells = []
    for name in names:
        steps, _, values = shown.log.series(name)
        plain = not console.encoding.startswith("utf")
        lines = curve(steps, values, width, min(max(height, 5), 14) - 1, plain)
        text = Text(no_wrap=True, overflow="crop")
        text.append(f"{_plain(name)}\n", style="bold")
        text.append("\n".join(lines))
        cells.append(text)
    for first in range(0, len(cells), count):
        made.add_row(*cells[first : first + count])
    return made


def _machine(shown: Snapshot) -> list[str]:
    status, lines = shown.status, []
    if status and not shown.condition.over:
        cpu = f"CPU {_cpu(shown)} of {status.cpus} cores  " if _cpu(shown) else ""
        lines.append(
            f"{cpu}memory {_size(status.memory)}, the machine has "
            f"{_size(status.memory_free)} left"
        )
        for i, gpu in enumerate(status.gpus or []):
            facts = [
                f"GPU {i} {gpu.get('name') or ''}".strip(),
                _with(gpu.get("utilisation"), "{:.0f} %"),
                f"{_size(gpu.get('memory'))} of {_size(gpu.get('memory_total'))}",
                _with(gpu.get("temperature"), "{:.0f} °C"),
                _with(gpu.get("power"), "{:.0f} W"),
            ]
            lines.append("  ".join(filter(None, facts)))
        if status.device_memory:
            sizes = {name: _size(x) for name, x in status.device_memory.items()}
            lines.append(
                f"arrays on devices {sizes.get('in_use')}, at most {sizes.get('peak')} "
                f"of {sizes.get('limit')}"
            )
    disk = f"disk {_size(shown.disk_free)} free" if shown.disk_free is not None else ""
    if status and status.next_size:
        about = "" if status.save_size else "about "
        disk += f", the next save takes {about}{_size(status.next_size)}"
    if status and status.save_step is not None:
        disk += f", the last one was at step {status.save_step:,}"
    return [*lines, disk] if disk else lines


def _last_evaluation(shown: Snapshot) -> str:
    """The last evaluation in the run's numbers, which has no folder."""
    parts = []
    for name in ("eval/val_loss", PRIMARY):
        steps, _, values = shown.log.series(name)
        if len(steps):
            parts.append(f"{name} {values[-1]:.4g} at step {steps[-1]:,}")
    return f"evaluated: {', '.join(parts)}" if parts else ""


def _step(shown: Snapshot) -> str:
    of = f"/{shown.total_steps:,}" if shown.total_steps else ""
    return f"{shown.step:,}{of}"


def _left(shown: Snapshot) -> str:
    left = shown.status.seconds_left if shown.status and shown.running else None
    return "" if left is None else duration(left)


def _of(shown: Snapshot, name: str):
    """A field of the status of a run that goes on; None if it has ended."""
    if not shown.status or (shown.condition.over and name != "warnings_total"):
        return None
    return getattr(shown.status, name)


def _cpu(shown: Snapshot) -> str:
    return _with(_of(shown, "cpu_percent"), "{:.0f} %")


def _gpu(shown: Snapshot) -> str:
    rates = [gpu.get("utilisation") for gpu in _of(shown, "gpus") or []]
    known = [rate for rate in rates if rate is not None]
    return f"{sum(known) / len(known):.0f} %" if known else ""


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.4g}"


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.0%}"


def _with(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)


def _size(count: float | None) -> str:
    return "" if count is None else byte_sizes.text(count)


def _clock(at: float) -> str:
    """A time of today as 12:03:11, of another day with its date."""
    then = time.localtime(at)
    today = time.localtime()[:3] == then[:3]
    return time.strftime("%H:%M:%S" if today else "%Y-%m-%d %H:%M:%S", then)


def _plain(text: str) -> str:
    """A text of a file without what would steer the terminal."""
    return "".join(x if x.isprintable() else "?" for x in text)
