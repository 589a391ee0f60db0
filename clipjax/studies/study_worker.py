"""A process that works on a study: it claims one run after the other."""

from __future__ import annotations

import math
import os
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from clipjax.engine.activity import duration
from clipjax.run_record import heartbeat, status
from clipjax.studies import run_child, study_cells, study_jobs
from clipjax.studies.run_child import Came, Stopped
from clipjax.studies.study_cells import Cell
from clipjax.studies.study_file import Study
from clipjax.studies.study_jobs import Job, Record
from clipjax.studies.study_journal import Claim, Journal
from clipjax.types import UserError

RUNS, WORKERS = "runs", "workers"  # folders in that of the study
# Seconds after which a claim whose process did not say who it is counts as its death.
_UNNAMED = 60.0
_WAIT = 2.0  # seconds between looks at the runs of other processes


class Worker:
    """Works on a study until nothing is left that it can do.

    steps: of a whole run of each cell, by its name. deadline: of time.monotonic, after
    which no run goes on. say: gets a line for each event. run: trains one config;
    run_child.run if None.
    look: is called with all records now and then.
    """

    def __init__(
        self,
        study: Study,
        cells: Sequence[Cell],
        folder: pathlib.Path,
        journal: Journal,
        steps: Mapping[str, int],
        *,
        say: Callable[[str], None],
        look: Callable[[Mapping[str, Record]], None] = lambda records: None,
        deadline: float = math.inf,
        run: Callable[..., Came] | None = None,
    ):
        self._study, self._cells, self._folder = study, list(cells), folder
        self._by_folder = {cell.folder: cell for cell in cells}
        self._journal, self._say, self._look = journal, say, look
        self._deadline, self._steps = deadline, steps
        self._run = run or run_child.run
        born = int(status.born(os.getpid()) * 100)
        self.name = f"{os.uname().nodename}-{os.getpid()}-{born}"
        self._job: Job | None = None

    def work(self) -> bool:
        """Returns whether the study is done: every run has ended, or failed.

        Raises KeyboardInterrupt at a signal; the run that it had goes on later.
        """
        place = self._folder / WORKERS / self.name
        place.mkdir(parents=True, exist_ok=True)
        beat = heartbeat.Heartbeat(
            place,
            0,
            warnings=heartbeat.Warnings(),
            doing=lambda: (self._job.key if self._job else "waiting", time.time()),
            warn=self._say,
        )
        with beat:
            done = self._work()
            beat.ended()
        return done

    def _work(self) -> bool:
        waited = False
        while True:
            records = self._records()
            jobs = study_jobs.due(self._study, self._cells, records)
            self._journal.add(jobs, self._by_folder)
            self._look(records)
            if time.monotonic() >= self._deadline:
                return False
            claim = self._journal.claim(jobs, self.name)
            if claim is not None:
                waited = False
                self._one(claim)
                continue
            records = self._journal.records()
            if self._all_over(records):
                self._look(records)
                return True
            if not waited:
                self._say("waiting for the runs of other processes")
                waited = True
            time.sleep(min(_WAIT, max(0.0, self._deadline - time.monotonic())))

    def _all_over(self, records: Mapping[str, Record]) -> bool:
        jobs = study_jobs.due(self._study, self._cells, records)
        return study_jobs.all_over(jobs, records)

    def _records(self) -> dict[str, Record]:
        """All records, after the runs of dead processes were freed."""
        records = self._journal.records()
        dead = [one for one in records.values() if self._is_dead(one)]
        for one in dead:
            self._say(f"{one.job.key}: its process has ended: it goes on here")
            self._journal.give_up(one)
        return self._journal.records() if dead else records

    def _is_dead(self, record: Record) -> bool:
        """Whether a run's process has ended without a word."""
        if record.state != study_jobs.RUNNING:
            return False
        owner = record.facts.get("owner", "")
        if owner == self.name:
            return True  # it has one run at a time, and this is not it
        if not owner:
            return time.time() - record.facts.get("since", 0.0) > _UNNAMED
        try:
            found = status.read(self._folder / WORKERS / owner)
        except UserError:  # it is being written
            return False
        return found is None or found.condition().over

    def _one(self, claim: Claim) -> None:
        job, cell = claim.job, self._by_folder[claim.job.cell]
        self._job, kept = job, False
        try:
            kept = self._train(claim, cell)
        except UserError as error:
            self._journal.finish(
                claim, study_jobs.FAILED, math.nan, {"error": str(error)}
            )
            kept = True
            self._say(f"{job.key}: failed: {error}")
        finally:
            self._job = None
            if not kept:
                self._journal.release(claim)

    def _train(self, claim: Claim, cell: Cell) -> bool:
        """Returns whether the run has ended; False if it is to go on later."""
        job, study = claim.job, self._study
        tuned, length = self._tuned(claim, cell)
        config = study_cells.run_config(study, cell, job.seed, tuned, length)
        folder = self._folder / RUNS / job.key
        start = study_cells.start(study, cell, config, str(folder))
        tuning = study.tuning
        prunes = (
            job.kind == study_jobs.TRIAL
            and tuning is not None
            and tuning.pruner != "none"
        )
        late = False

        def watch(values: Mapping[int, float]) -> bool:
            nonlocal late
            self._look(self._journal.records())
            late = time.monotonic() >= self._deadline
            if late or not prunes:
                return late
            known = {k: x for k, x in values.items() if math.isfinite(x)}
            steps = max(1, round(self._steps[cell.name] * length))
            every = config.train.eval_every
            return self._journal.falls_behind(claim, steps, every, known)

        self._say(f"{job.key}: started")
        try:
            came = self._run(study, config, folder, start, watch)
        except Stopped as error:
            raise KeyboardInterrupt(error.number) from error
        if came.stopped and late:
            return False
        if not math.isfinite(came.value):
            raise UserError(f"{study.metric} is {came.value} at its end: it diverged")
        state = study_jobs.PRUNED if came.stopped else study_jobs.DONE
        self._journal.finish(claim, state, came.value, came.facts)
        self._say(
            f"{job.key}: {study.metric} {came.value:.4g} in "
            f"{duration(came.facts['wall'])}{', pruned' if came.stopped else ''}"
        )
        return True

    def _tuned(self, claim: Claim, cell: Cell) -> tuple[dict[str, Any], float]:
        """The tuned values of a run, and its length as a part of a whole one."""
        study, job = self._study, claim.job
        if job.kind == study_jobs.TRIAL:
            assert study.tuning is not None
            return self._journal.suggest(claim, cell), study.tuning.length
        if job.kind == study_jobs.TUNED:
            records = self._journal.records()
            best = study_jobs.best_trial(study, job.tuning, records)
            assert best is not None  # else the job is not due
            self._journal.keep_tuned(claim, best.tuned)
            return dict(best.tuned), 1.0
        return {}, 1.0
