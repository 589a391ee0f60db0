"""The runs of a study, in their order, and which of them are due."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from clipjax.studies import study_cells
from clipjax.studies.study_cells import Cell
from clipjax.studies.study_file import Study

RUN, TRIAL, TUNED = "run", "trial", "tuned"
# States of a record. A pruned trial was stopped because it fell behind.
WAITING, RUNNING, DONE, FAILED, PRUNED = "waiting running done failed pruned".split()


@dataclasses.dataclass(frozen=True)
class Job:
    """A run that a study needs.

    kind: "run" of a cell as its config is, "trial" of tuning, "tuned" with the best
      trial's values. cell: its folder's name. seed: of the run. trial: its number; -1
      for other kinds. group: the seed for which a tuning is alone; -1 for all.
    """

    kind: str
    cell: str
    seed: int
    trial: int = -1
    group: int = -1

    @property
    def key(self) -> str:
        """Its name, and its folder in that of the runs."""
        if self.kind != TRIAL:
            return f"{self.cell}/{'tuned-' * (self.kind == TUNED)}seed-{self.seed}"
        of = f"seed-{self.group}-" if self.group >= 0 else ""
        return f"{self.cell}/{of}trial-{self.trial}"

    @property
    def tuning(self) -> str:
        """The name of the tuning that it is of, or whose values it takes; "" if
        none."""
        if self.kind == RUN:
            return ""
        return f"{self.cell}, seed {self.group}" if self.group >= 0 else self.cell


@dataclasses.dataclass(frozen=True)
class Record:
    """What a study knows of a run.

    value: of the metric; NaN unless it is done or pruned. tuned: key -> value of tuned
    keys. facts: of a run that has ended: "metrics", "curve", "loss", "seconds",
    "steps", "unit", "wall"; "error" of one that failed; "owner" of one that runs.
    place: in the journal.
    """

    job: Job
    state: str
    value: float = math.nan
    tuned: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    place: tuple[int, int] = (-1, -1)

    @property
    def over(self) -> bool:
        return self.state in (DONE, FAILED, PRUNED)


Records = Mapping[str, Record]  # by the jobs' keys


def final_kind(study: Study) -> str:
    """The kind of the runs that are compared."""
    return TUNED if study.tuning else RUN


def due(study: Study, cells: Sequence[Cell], records: Records) -> list[Job]:
    """The jobs that can be run by now, done or not, in their order.

    Seeds come in turn, each for all cells, so that an unfinished study is a whole one
    of fewer seeds.
    """
    jobs: list[Job] = []
    final = final_kind(study)
    if study.tuning is not None and study.tuning.untuned_too:
        jobs += _of_seeds(study, RUN, cells, study.first_seeds)
    jobs += _of_stage(study, cells, study.first_seeds, records)
    if study.screen is None:
        return jobs
    if all_over(_of_seeds(study, final, cells, study.first_seeds), records):
        kept = set(_finalists(study, cells, records))
        chosen = [cell for cell in cells if cell.folder in kept]
        jobs += _of_stage(study, chosen, study.more_seeds, records)
    return jobs


def all_over(jobs: Iterable[Job], records: Records) -> bool:
    """Whether every one of the jobs has ended."""
    return all(job.key in records and records[job.key].over for job in jobs)


def count(study: Study, cells: Sequence[Cell]) -> dict[str, tuple[int, float]]:
    """What a whole study takes: kind -> (runs, their length together in runs)."""
    final, found = final_kind(study), {}
    first, more = len(study.first_seeds), len(study.more_seeds)
    kept = study.screen.keep if study.screen else 0
    whole = first * len(cells) + more * kept
    if study.tuning is not None:
        groups = whole if study.tuning.per_seed else len(cells)
        trials = groups * study_cells.trial_count(study, cells[0])
        found[TRIAL] = trials, trials * study.tuning.length
        if study.tuning.untuned_too:
            found[RUN] = first * len(cells), float(first * len(cells))
    found[final] = whole, float(whole)
    return found


def best_trial(study: Study, tuning: str, records: Records) -> Record | None:
    """The best complete trial of a tuning; None if none has a value."""
    done = [
        one
        for one in records.values()
        if one.job.kind == TRIAL and one.job.tuning == tuning and one.state == DONE
    ]
    sign = 1 if study.higher_is_better else -1
    return max(done, key=lambda x: (sign * x.value, -x.job.trial), default=None)


def _of_stage(
    study: Study, cells: Sequence[Cell], seeds: Sequence[int], records: Records
) -> Iterator[Job]:
    """The runs that are compared, each after the trials that it needs."""
    if study.tuning is None:
        yield from _of_seeds(study, RUN, cells, seeds)
        return
    for group in seeds if study.tuning.per_seed else (-1,):
        for number in range(study_cells.trial_count(study, cells[0])):
            for cell in cells:
                yield Job(TRIAL, cell.folder, study.tuning_seed, number, group)
    for job in _of_seeds(study, TUNED, cells, seeds):
        trials = [
            Job(TRIAL, job.cell, study.tuning_seed, number, job.group)
            for number in range(study_cells.trial_count(study, cells[0]))
        ]
        if all_over(trials, records) and best_trial(study, job.tuning, records):
            yield job


def _of_seeds(
    study: Study, kind: str, cells: Sequence[Cell], seeds: Sequence[int]
) -> list[Job]:
    """Runs of a kind, in whose order seeds come in turn."""
    return [_job_of(study, kind, cell, seed) for seed in seeds for cell in cells]


def _job_of(study: Study, kind: str, cell: Cell, seed: int) -> Job:
    alone = kind == TUNED and study.tuning is not None and study.tuning.per_seed
    return Job(kind, cell.folder, seed, group=seed if alone else -1)


def _finalists(study: Study, cells: Sequence[Cell], records: Records) -> list[str]:
    """The folders of the cells that are best by the first seeds."""
    assert study.screen is not None
    sign = 1 if study.higher_is_better else -1
    means = {}
    for cell in cells:
        keys = [
            _job_of(study, final_kind(study), cell, seed).key
            for seed in study.first_seeds
        ]
        values = [records[key].value for key in keys]
        known = [value for value in values if math.isfinite(value)]
        if known:
            means[cell.folder] = sign * float(np.mean(known))
    best = sorted(means, key=lambda folder: -means[folder])
    return best[: study.screen.keep]
