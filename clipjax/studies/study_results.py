"""What a study's runs say of its cells."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from clipjax.result_tables import interval, quantity
from clipjax.studies import study_jobs
from clipjax.studies.study_cells import Cell
from clipjax.studies.study_file import Study
from clipjax.studies.study_jobs import Record, Records
from clipjax.study_statistics import (
    best_of_k,
    cell_comparison,
    seed_planning,
    seed_table,
)
from clipjax.study_statistics.best_of_k import BestOf
from clipjax.study_statistics.cell_comparison import CellComparison, Pair
from clipjax.types import Metric


@dataclasses.dataclass(frozen=True)
class CellResult:
    """A cell's line in the table.

    mean: NaN without a finished run. low, high: NaN without an interval. groups: its
    letters. count: finished runs; failed: those with an error. seconds: of training,
    all runs and trials together. tuned: key -> value. gap: why it has no mean.
    """

    cell: Cell
    mean: float
    low: float
    high: float
    groups: str
    count: int
    failed: int
    seconds: float
    tuned: Mapping[str, Any]
    gap: str = ""


@dataclasses.dataclass(frozen=True)
class Family:
    """The cells with runs of one kind, the best first.

    title: "" if there is one kind alone. notes: sentences on how they were compared.
    """

    kind: str
    title: str
    rows: list[CellResult]
    notes: list[str]
    pairs: list[Pair]


def families(study: Study, cells: Sequence[Cell], records: Records) -> list[Family]:
    """The results of each kind of run: as configured, and tuned."""
    if study.tuning is None:
        return [_family(study, cells, records, study_jobs.RUN, "")]
    found = [_family(study, cells, records, study_jobs.TUNED, "tuned")]
    if study.tuning.untuned_too:
        found.append(_family(study, cells, records, study_jobs.RUN, "as configured"))
    return found


def best_of_trials(
    study: Study, cells: Sequence[Cell], records: Records
) -> dict[str, list[BestOf]]:
    """What fewer trials would have reached: a tuning's name -> the best of 1, 2, ...
    trials of their own length; {} without tuning.

    A pruned or failed trial counts as the worst.
    """
    names = {cell.folder: cell.name for cell in cells}
    values: dict[str, list[float]] = {}
    for one in records.values():
        if one.job.kind == study_jobs.TRIAL and one.over:
            name = names[one.job.cell]
            name += f", seed {one.job.group}" if one.job.group >= 0 else ""
            done = one.state == study_jobs.DONE
            values.setdefault(name, []).append(one.value if done else math.nan)
    return {
        name: best_of_k.curve(found, study.higher_is_better)
        for name, found in values.items()
    }


def unit(records: Records) -> str:
    """The metric's, as a finished run has it."""
    units = (one.facts.get("unit", "") for one in records.values())
    return next(filter(None, units), "")


def shown(value: float, of: str) -> str:
    """A value with its unit."""
    return quantity(Metric(value, unit=of)) if math.isfinite(value) else ""


def ends(row: CellResult, of: str) -> str:
    """A row's interval as text; "" without one."""
    if not math.isfinite(row.low):
        return ""
    return interval(Metric(row.mean, unit=of, low=row.low, high=row.high))


def difference(value: float, of: str) -> str:
    """A difference of values; that of shares in percentage points."""
    if of == "fraction":
        return f"{100 * value:.2f} points"
    return f"{value:.3g} {of}".rstrip()


def table(
    study: Study, cells: Sequence[Cell], records: Records, kind: str
) -> seed_table.SeedTable:
    """The values of the finished runs of a kind."""
    values: dict[str, dict[int, float]] = {cell.name: {} for cell in cells}
    names = {cell.folder: cell.name for cell in cells}
    for one in records.values():
        if one.job.kind == kind and one.state == study_jobs.DONE:
            values[names[one.job.cell]][one.job.seed] = one.value
    screened = study.first_seeds if study.screen else ()
    return seed_table.make(values, screened)


def _family(
    study: Study, cells: Sequence[Cell], records: Records, kind: str, title: str
) -> Family:
    values = table(study, cells, records, kind)
    kept = cell_comparison.finalists(values)
    found = cell_comparison.compare(kept, paired=study.paired)
    better = study.higher_is_better
    letters: dict[str, str] = {}
    means: dict[str, Any] = {}
    if found is not None:
        means = {one.name: one for one in found.means}
        if len(found.table.names) > 1:
            letters = dict(zip(found.table.names, found.groups(better), strict=True))
    rows = []
    for cell, mean, count in zip(cells, values.means, values.counts, strict=True):
        own = [one for one in records.values() if one.job.cell == cell.folder]
        of_kind = [one for one in own if one.job.kind == kind]
        failed = [one for one in of_kind if one.state == study_jobs.FAILED]
        seconds = sum(_of(x, "seconds") for x in own if x.job.kind in _costs(kind))
        interval_of = means.get(cell.name)
        tuned = next((x.tuned for x in of_kind if x.tuned), {})
        rows.append(
            CellResult(
                cell,
                float(interval_of.value if interval_of else mean),
                interval_of.low if interval_of else math.nan,
                interval_of.high if interval_of else math.nan,
                letters.get(cell.name, ""),
                int(count),
                len(failed),
                seconds,
                tuned,
                "" if count else _gap(study, own, failed, kind),
            )
        )
    sign = -1 if better else 1
    rows.sort(key=lambda row: (not row.count, sign * row.mean if row.count else 0))
    pairs = found.pairs if found is not None else []
    notes = _notes(study, values, found, rows, unit(records))
    return Family(kind, title, rows, notes, pairs)


def _costs(kind: str) -> tuple[str, ...]:
    """The kinds of runs that results of a kind have cost."""
    tuned = kind == study_jobs.TUNED
    return (study_jobs.TUNED, study_jobs.TRIAL) if tuned else (kind,)


def _gap(
    study: Study, own: Sequence[Record], failed: Sequence[Record], kind: str
) -> str:
    """Why a cell has no value."""
    trials = [one for one in own if one.job.kind == study_jobs.TRIAL]
    if kind == study_jobs.TUNED and trials and all(one.over for one in trials):
        if not any(one.state == study_jobs.DONE for one in trials):
            failed = trials
    if failed:
        what = "trial" if failed[0].job.kind == study_jobs.TRIAL else "seed"
        first = str(failed[0].facts.get("error", "pruned"))
        every = "every" if len(failed) > 1 else "its only"
        return f"failed with {every} {what}: {first[:120]}"
    return "not run yet"


def _of(record: Record, name: str) -> float:
    value = record.facts.get(name)
    return float(value) if isinstance(value, int | float) and value == value else 0.0


def _notes(
    study: Study,
    values: seed_table.SeedTable,
    found: CellComparison | None,
    rows: Sequence[CellResult],
    of: str,
) -> list[str]:
    if found is None:
        return ["No cell has two seeds, so there are no intervals."]
    level = f"{100 * cell_comparison.LEVEL:g} %"
    notes = [f"Intervals hold all together with {level}. {found.spread.said}"]
    count = len(found.table.names)
    deviation = found.spread.deviation
    notes.append(f"Standard deviation between seeds: {difference(deviation, of)}.")
    if count < 2:
        return notes
    notes.append("Cells that share a letter are not told apart.")
    seeds = int(np.median(found.table.counts))
    if found.spread.design != "separate" and seeds > 1 and deviation > 0:
        size = seed_planning.detectable(
            max(values.compared, 2), seeds, deviation, paired=study.paired
        )
        notes.append(
            f"With {seeds} seeds a true difference of {difference(size, of)} is found "
            "in 80 % of studies; smaller ones may be there unseen."
        )
    names = list(found.table.names)
    best = [names.index(row.cell.name) for row in rows if row.cell.name in names][:2]
    if len(best) == 2:
        value, low, high = found.chance(*best)
        if not study.higher_is_better:
            value, low, high = 1 - value, 1 - high, 1 - low
        text = f"{100 * value:.0f} % (95 % interval {100 * low:.0f} - {100 * high:.0f})"
        notes.append(
            f"A run of {names[best[0]]} is better than one of {names[best[1]]} with "
            f"{text}."
        )
    if study.control in names and found.spread.design != "separate":
        better = [
            one.first
            for one in found.against(study.control)
            if one.apart and (one.difference > 0) == study.higher_is_better
        ]
        notes.append(
            f"Better than {study.control} (Dunnett): {'; '.join(better) or 'none'}."
        )
    if len(names) < values.compared:
        notes.append(
            f"{values.compared} cells were screened with {len(study.first_seeds)} "
            f"seeds; the intervals of the {len(names)} finalists count all of them."
        )
    return notes
