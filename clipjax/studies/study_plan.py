"""What a study says before it starts: its size, time, and what it can tell apart."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from clipjax.engine.activity import duration
from clipjax.studies import study_jobs, study_results
from clipjax.studies.study_cells import Cell
from clipjax.studies.study_file import Study
from clipjax.studies.study_jobs import Records
from clipjax.study_statistics import cell_comparison, seed_planning

_NAMES = {
    study_jobs.RUN: "runs",
    study_jobs.TRIAL: "trials of tuning",
    study_jobs.TUNED: "runs with the best trial's values",
}


def lines(study: Study, cells: Sequence[Cell], records: Records) -> list[str]:
    """Sentences on the whole study; records: of what is done already."""
    found = study_jobs.count(study, cells)
    parts = [f"{runs} {_NAMES[kind]}" for kind, (runs, _) in found.items()]
    said = [f"{len(cells)} cells: {', '.join(parts)}; metric {study.metric}"]
    said.append(_time(study, found, records))
    said += _differences(study, cells, records)
    return said


def minutes_per_run(study: Study, records: Records) -> tuple[float, str]:
    """The minutes of a whole run, and where they come from; NaN if not known."""
    walls = [
        float(one.facts["wall"])
        for one in records.values()
        if one.state == study_jobs.DONE and one.job.kind != study_jobs.TRIAL
    ]
    if walls:
        many = "s" * (len(walls) > 1)
        return float(np.median(walls)) / 60, f"measured in {len(walls)} run{many}"
    if study.minutes is not None:
        return study.minutes, "as the study states"
    return math.nan, ""


def seconds_left(study: Study, cells: Sequence[Cell], records: Records) -> float:
    """Until all runs are done, by one process; NaN if not known."""
    minutes, _ = minutes_per_run(study, records)
    left = 0.0
    for kind, (runs, length) in study_jobs.count(study, cells).items():
        over = sum(one.over and one.job.kind == kind for one in records.values())
        left += (runs - over) * length / runs
    return 60 * minutes * max(0.0, left)


def _time(study: Study, found: dict[str, tuple[int, float]], records: Records) -> str:
    whole = sum(length for _, length in found.values())
    minutes, source = minutes_per_run(study, records)
    if math.isnan(minutes):
        return (
            f"time: {whole:g} whole runs; how long one takes is said once the first "
            "has ended (minutes=... of the study states it)"
        )
    return (
        f"time: {whole:g} whole runs x {minutes:.3g} minutes ({source}) = "
        f"{duration(60 * minutes * whole)} by one process"
    )


def _differences(study: Study, cells: Sequence[Cell], records: Records) -> list[str]:
    count, seeds = len(cells), len(study.first_seeds) + len(study.more_seeds)
    if count < 2:
        return []
    deviation, source = _deviation(study, cells, records)
    of = study_results.unit(records)

    def text(value: float) -> str:
        if math.isnan(deviation):
            return f"{value:.3g} x the standard deviation between seeds"
        return study_results.difference(value * deviation, of)

    said = []
    if seeds < 2:
        said.append("one seed a cell shows no spread, so no cells can be told apart")
    else:
        size = seed_planning.detectable(count, seeds, paired=study.paired)
        said.append(
            f"differences: {seeds} seeds find a true difference of {text(size)} "
            f"between two of {count} cells in 80 % of studies{source}"
        )
    wanted = [1.0, 2.0] if study.wanted is None else []
    if study.wanted is not None:
        if math.isnan(deviation):
            said.append(
                f"wanted={study.wanted:g}: the seeds that it needs are said once two "
                "seeds are done (spread=... of the study assumes a deviation)"
            )
        else:
            wanted = [study.wanted / deviation if deviation else math.inf]
    needs = []
    for size in wanted:
        number = seed_planning.seeds_needed(size, count, paired=study.paired)
        shown = f"more than {seed_planning.MOST_SEEDS:,}" if number is None else number
        needs.append(f"{shown} seeds for {text(size)}")
    if needs:
        said.append(f"seeds needed: {', '.join(needs)}")
    return said


def _deviation(
    study: Study, cells: Sequence[Cell], records: Records
) -> tuple[float, str]:
    """The standard deviation between seeds, and where it comes from."""
    kind = study_jobs.final_kind(study)
    table = study_results.table(study, cells, records, kind)
    found = cell_comparison.compare(table, paired=study.paired)
    if found is not None and found.spread.deviation > 0:
        runs = int(table.counts.sum())
        return found.spread.deviation, f" (by the spread of {runs} runs done)"
    if study.spread is not None:
        return study.spread, f" (if they vary by {study.spread:g}, as is assumed)"
    return math.nan, ""
