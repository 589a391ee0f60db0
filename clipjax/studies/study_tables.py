"""A study's results as text: the live table, the table at its end, and its files."""

from __future__ import annotations

import csv
import io
import json
import math
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from clipjax import atomic_files
from clipjax.engine.activity import duration
from clipjax.studies import study_jobs, study_results
from clipjax.studies.study_cells import Cell
from clipjax.studies.study_file import Study
from clipjax.studies.study_jobs import Records
from clipjax.studies.study_results import CellResult, Family
from clipjax.study_statistics.best_of_k import BestOf

TRIALS = "trials.csv"  # of a study with tuning
_SHOWN = 5  # columns of a table of trials


def live(study: Study, cells: Sequence[Cell], records: Records) -> Table:
    """A line per cell while the study runs: how many runs are done, and the mean."""
    shown = _plain("cell", "trials", "runs", "running", study.metric)
    final, of = study_jobs.final_kind(study), study_results.unit(records)
    for cell in cells:
        own = [one for one in records.values() if one.job.cell == cell.folder]
        trials = [one for one in own if one.job.kind == study_jobs.TRIAL]
        runs = [one for one in own if one.job.kind != study_jobs.TRIAL]
        values = [
            one.value
            for one in runs
            if one.job.kind == final and math.isfinite(one.value)
        ]
        running = [x.job.key for x in own if x.state == study_jobs.RUNNING]
        mean = sum(values) / len(values) if values else math.nan
        shown.add_row(
            Text(cell.name),
            _share(trials),
            _share(runs),
            Text(", ".join(key.partition("/")[2] for key in running)),
            study_results.shown(mean, of),
        )
    return shown


def end(study: Study, found: Sequence[Family], of: str) -> Group:
    """The tables at the study's end, with what they mean."""
    parts: list[Any] = []
    for family in found:
        title = f"{study.metric}{f', {family.title}' if family.title else ''}"
        shown = _plain(title, "seeds", "mean", "95 % interval", "groups", "cost")
        for row in family.rows:
            shown.add_row(Text(row.cell.name), *map(Text, _cells(row, of)))
        parts += [shown, *map(Text, family.notes)]
        gaps = [row for row in family.rows if row.gap]
        parts += [Text(f"Gap: {row.cell.name}: {row.gap}") for row in gaps]
        parts.append(Text())
    return Group(*parts[:-1])


def trials(study: Study, found: Mapping[str, Sequence[BestOf]], of: str) -> Table:
    """The expected best of k trials, for some k up to all."""
    most = max((len(curve) for curve in found.values()), default=0)
    counts = sorted({max(1, round(most * i / _SHOWN)) for i in range(1, _SHOWN + 1)})
    shown = _plain(f"{study.metric}, best of k trials", *map(str, counts))
    for name, curve in found.items():
        cells = [
            study_results.shown(curve[k - 1].mean, of) if k <= len(curve) else ""
            for k in counts
        ]
        shown.add_row(Text(name), *map(Text, cells))
    return shown


def write(
    study: Study,
    cells: Sequence[Cell],
    records: Records,
    found: Sequence[Family],
    folder: pathlib.Path,
) -> list[str]:
    """Writes the tables' files, and TRIALS of a study with tuning; returns their names.

    Raises OSError.
    """
    of = study_results.unit(records)
    texts = {
        "table.csv": _csv(_cell_lines(study, found)),
        "table.md": markdown(study, found, of),
        "pairs.csv": _csv(_pair_lines(found)),
        "runs.csv": _csv(_run_lines(study, cells, records)),
    }
    if study.tuning is not None:
        curves = study_results.best_of_trials(study, cells, records)
        texts[TRIALS] = _csv(_trial_lines(curves))
    for name, text in texts.items():
        with atomic_files.open_to_write(folder / name) as file:
            file.write(text)
    return list(texts)


def markdown(study: Study, found: Sequence[Family], of: str) -> str:
    """The tables as Markdown."""
    lines = []
    for family in found:
        title = f"{study.metric}{f', {family.title}' if family.title else ''}"
        lines.append(f"| {title} | seeds | mean | 95 % interval | groups | cost |")
        lines.append("|---|---:|---:|---:|---|---:|")
        for row in family.rows:
            cells = (row.cell.name, *_cells(row, of))
            lines.append(f"| {' | '.join(x.replace('|', '/') for x in cells)} |")
        lines += ["", *(f"- {note}" for note in family.notes)]
        lines += [f"- Gap: {x.cell.name}: {x.gap}" for x in family.rows if x.gap]
        lines.append("")
    return "\n".join(lines)


def _cells(row: CellResult, of: str) -> list[str]:
    seeds = f"{row.count}{f' ({row.failed} failed)' if row.failed else ''}"
    mean = study_results.shown(row.mean, of) or "-"
    cost = duration(row.seconds) if row.seconds else ""
    return [seeds, mean, study_results.ends(row, of), row.groups, cost]


def _share(records: Sequence[study_jobs.Record]) -> str:
    if not records:
        return ""
    failed = sum(one.state == study_jobs.FAILED for one in records)
    over = sum(one.over for one in records)
    return f"{over}/{len(records)}{f' ({failed} failed)' if failed else ''}"


def _plain(first: str, *others: str) -> Table:
    made = Table(box=None, pad_edge=False, header_style="")
    made.add_column(Text(first), overflow="fold")
    for name in others:
        right = "" if name in ("groups", "running") else "right"
        made.add_column(Text(name), justify=right or "left", overflow="fold")
    return made


def _csv(lines: Iterator[Sequence[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue()


def _cell_lines(study: Study, found: Sequence[Family]) -> Iterator[Sequence[Any]]:
    axes = list(study.axes)
    yield [
        *("kind", *axes, "metric", "seeds", "failed", "mean", "low", "high"),
        *("groups", "seconds", "tuned", "gap"),
    ]
    for family in found:
        for row in family.rows:
            values = [row.cell.values[axis] for axis in axes]
            numbers = [_text(x) for x in (row.mean, row.low, row.high)]
            tuned = json.dumps(dict(row.tuned)) if row.tuned else ""
            yield [
                *(family.kind, *values, study.metric, row.count, row.failed),
                *(*numbers, row.groups, f"{row.seconds:.1f}", tuned, row.gap),
            ]


def _pair_lines(found: Sequence[Family]) -> Iterator[Sequence[Any]]:
    yield ["kind", "first", "second", "difference", "low", "high", "p", "apart"]
    for family in found:
        for one in family.pairs:
            numbers = [_text(x) for x in (one.difference, one.low, one.high, one.p)]
            yield [family.kind, one.first, one.second, *numbers, int(one.apart)]


def _trial_lines(found: Mapping[str, Sequence[BestOf]]) -> Iterator[Sequence[Any]]:
    yield ["tuning", "trials", "mean", "low", "high"]
    for name, curve in found.items():
        for one in curve:
            numbers = [_text(x) for x in (one.mean, one.low, one.high)]
            yield [name, one.trials, *numbers]


def _run_lines(
    study: Study, cells: Sequence[Cell], records: Records
) -> Iterator[Sequence[Any]]:
    names = {cell.folder: cell.name for cell in cells}
    yield [
        *("run", "cell", "kind", "seed", "state", study.metric, "steps", "seconds"),
        *("tuned", "error"),
    ]
    for key, one in sorted(records.items()):
        facts: Mapping[str, Any] = one.facts
        yield [
            *(key, names[one.job.cell], one.job.kind, one.job.seed, one.state),
            *(_text(one.value), facts.get("steps", ""), facts.get("seconds", "")),
            json.dumps(dict(one.tuned)) if one.tuned else "",
            facts.get("error", ""),
        ]


def _text(value: float) -> str:
    return f"{value:.6g}" if math.isfinite(value) else ""
