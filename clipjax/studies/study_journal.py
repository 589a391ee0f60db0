"""The journal of a study: an Optuna storage of all its runs, in one file.

Any number of processes append to the file, under its lock. A run is a trial: waiting,
claimed by one process, then finished with what is known of it. Each process sees the
same order of events, so the first claim holds.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import optuna
from optuna.exceptions import DuplicatedStudyError, UpdateFinishedTrialError
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from optuna.trial import FrozenTrial, Trial, TrialState

from clipjax.studies import study_jobs
from clipjax.studies.study_cells import Cell
from clipjax.studies.study_file import Study, Tuning
from clipjax.studies.study_jobs import Job, Record
from clipjax.studies.tuning_space import Choices

FILE = "journal.log"
_RUNS = "runs"  # the study that holds those which are no trials
_STATES = {
    TrialState.WAITING: study_jobs.WAITING,
    TrialState.RUNNING: study_jobs.RUNNING,
    TrialState.COMPLETE: study_jobs.DONE,
    TrialState.PRUNED: study_jobs.PRUNED,
    TrialState.FAIL: study_jobs.FAILED,
}
_FINISHED = {word: state for state, word in _STATES.items()}


class Claim(NamedTuple):
    """A job that this process runs. trial: its id in the storage."""

    job: Job
    trial: int


class Journal:
    """The runs of a study, as its file holds them.

    retry: whether runs that failed before are run again.
    """

    def __init__(self, folder: pathlib.Path, study: Study, retry: bool = False):
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._study = study
        self._storage = JournalStorage(_WholeLines(str(folder / FILE)))
        self._ids: dict[str, int] = {}
        self._forgotten = {
            (study_id, trial.number)
            for study_id, trial in self._trials()
            if _failed(trial) and retry
        }

    def records(self) -> dict[str, Record]:
        """What is known of every run, by its job's key."""
        found: dict[str, Record] = {}
        for study_id, trial in self._trials():
            if _is_given_up(trial) or (study_id, trial.number) in self._forgotten:
                continue
            job = Job(**trial.user_attrs["job"])
            before = found.get(job.key)
            # Two processes may have added one at once, and then the first counts; one
            # that failed was added again by `retry`.
            if before is None or before.state == study_jobs.FAILED:
                place = study_id, trial.number
                found[job.key] = _record(job, trial, place)
        return found

    def add(self, jobs: Iterable[Job], cells: Mapping[str, Cell]) -> None:
        """Adds the jobs that the journal lacks. cells: by their folders."""
        known = self.records()
        new = [job for job in jobs if job.key not in known]
        earlier = self._earlier_values() if new else {}
        for job in new:
            fixed = earlier.get(job)
            if fixed is None and job.kind == study_jobs.TRIAL:
                fixed = self._grid_values(job, cells[job.cell])
            made = optuna.trial.create_trial(
                state=TrialState.WAITING,
                user_attrs={"job": vars(job)},
                system_attrs={} if fixed is None else {"fixed_params": fixed},
            )
            self._storage.create_new_trial(self._id(_home(job)), made)

    def claim(self, jobs: Sequence[Job], owner: str) -> Claim | None:
        """Takes the first of the jobs that waits; None if none does."""
        known = self.records()
        for job in jobs:
            record = known.get(job.key)
            if record is None or record.state != study_jobs.WAITING:
                continue
            number = self._id_of(record)
            try:
                mine = self._storage.set_trial_state_values(number, TrialState.RUNNING)
            except UpdateFinishedTrialError:  # another process was faster
                continue
            if mine:
                self._storage.set_trial_user_attr(number, "owner", owner)
                return Claim(job, number)
        return None

    def give_up(self, record: Record) -> None:
        """Frees a run whose process has ended, to be run again."""
        self._end(self._id_of(record), TrialState.FAIL)

    def release(self, claim: Claim) -> None:
        """Frees a run of this process, to be run again."""
        self._end(claim.trial, TrialState.FAIL)

    def finish(
        self, claim: Claim, state: str, value: float, facts: Mapping[str, Any]
    ) -> None:
        """Keeps what a run came to. state: "done", "pruned" or "failed"."""
        values = None if state == study_jobs.FAILED else [value]
        with contextlib.suppress(UpdateFinishedTrialError):  # it was taken for dead
            for name, fact in facts.items():
                self._storage.set_trial_user_attr(claim.trial, name, fact)
            self._end(claim.trial, _FINISHED[state], values)

    def suggest(self, claim: Claim, cell: Cell) -> dict[str, Any]:
        """The values that a trial of tuning takes: key -> value, or factor."""
        trial = self._trial(claim)
        found = {}
        for key, of in cell.space.items():
            if isinstance(of, Choices):
                place = trial.suggest_categorical(key, list(range(len(of.values))))
                found[key] = of.values[place]
            elif of.integer:
                found[key] = trial.suggest_int(key, int(of.low), int(of.high))
            else:
                found[key] = trial.suggest_float(key, of.low, of.high, log=of.log)
        self._storage.set_trial_user_attr(claim.trial, "tuned", found)
        return found

    def keep_tuned(self, claim: Claim, tuned: Mapping[str, Any]) -> None:
        """Keeps the tuned values of a run that takes the best trial's."""
        self._storage.set_trial_user_attr(claim.trial, "tuned", dict(tuned))

    def falls_behind(
        self, claim: Claim, steps: int, every: int, values: Mapping[int, float]
    ) -> bool:
        """Whether the pruner stops a trial.

        steps: its whole length. every: steps between evaluations. values: step ->
        metric, of those that are new.
        """
        if not values:
            return False
        trial = self._trial(claim, steps, every)
        for step, value in values.items():
            trial.report(value, step)
        return trial.should_prune()

    def _trial(self, claim: Claim, steps: int = 1, every: int = 1) -> Trial:
        tuning = self._study.tuning
        assert tuning is not None
        seed = zlib.crc32(claim.job.key.encode())
        study = optuna.load_study(
            study_name=_home(claim.job),
            storage=self._storage,
            sampler=_sampler(tuning, seed),
            pruner=_pruner(tuning, steps, every),
        )
        return Trial(study, claim.trial)

    def _end(
        self, number: int, state: TrialState, values: Sequence[float] | None = None
    ) -> None:
        with contextlib.suppress(UpdateFinishedTrialError):  # another was faster
            self._storage.set_trial_state_values(number, state, values)

    def _trials(self) -> list[tuple[int, FrozenTrial]]:
        """(the study's id, trial) of all runs, in the order in which they came."""
        found = []
        for study in self._storage.get_all_studies():
            name = study.study_name
            self._ids[name] = self._storage.get_study_id_from_name(name)
        for study_id in sorted(self._ids.values()):
            trials = self._storage.get_all_trials(study_id, deepcopy=False)
            found += [(study_id, trial) for trial in trials]
        return found

    def _id(self, name: str) -> int:
        if name not in self._ids:
            side = "MAXIMIZE" if self._study.higher_is_better else "MINIMIZE"
            try:
                self._ids[name] = self._storage.create_new_study(
                    [optuna.study.StudyDirection[side]], name
                )
            except DuplicatedStudyError:  # another process was faster
                self._ids[name] = self._storage.get_study_id_from_name(name)
        return self._ids[name]

    def _id_of(self, record: Record) -> int:
        """A run's id in the storage."""
        return self._storage.get_trial_id_from_study_id_trial_number(*record.place)

    def _earlier_values(self) -> dict[Job, dict[str, Any]]:
        """What trials that were given up had been given, so that their runs go on."""
        found: dict[Job, dict[str, Any]] = {}
        for _, trial in self._trials():
            if trial.params:
                found.setdefault(Job(**trial.user_attrs["job"]), dict(trial.params))
        return found

    def _grid_values(self, job: Job, cell: Cell) -> dict[str, int] | None:
        tuning = self._study.tuning
        if tuning is None or tuning.method != "grid":
            return None
        found, left = {}, job.trial
        for key, of in cell.space.items():
            assert isinstance(of, Choices)
            left, found[key] = divmod(left, len(of.values))
        return found


class _WholeLines(JournalFileBackend):
    """The file of a journal, in which a line that a killed process or a full disk has
    cut off does not spoil the next one."""

    def __init__(self, path: str):
        self._path = pathlib.Path(path)
        self._write_lock = JournalFileSymlinkLock(path, grace_period=15)
        super().__init__(path, self._write_lock)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        lines = [json.dumps(log, separators=(",", ":")) + "\n" for log in logs]
        self._write_lock.acquire()
        try:
            with self._path.open("rb+") as file:
                file.truncate(_whole_lines(file))
                file.seek(0, os.SEEK_END)
                file.write("".join(lines).encode())
                file.flush()
                os.fsync(file.fileno())
        finally:
            self._write_lock.release()


def _whole_lines(file: Any) -> int:
    """The bytes of a file up to the end of its last whole line."""
    end = file.seek(0, os.SEEK_END)
    while end > 0:
        begin = max(0, end - 2**16)
        file.seek(begin)
        last = file.read(end - begin).rfind(b"\n")
        if last >= 0:
            return begin + last + 1
        end = begin
    return 0


def _home(job: Job) -> str:
    """The Optuna study of a job: each tuning has one."""
    return f"tuning of {job.tuning}" if job.kind == study_jobs.TRIAL else _RUNS


def _record(job: Job, trial: FrozenTrial, place: tuple[int, int]) -> Record:
    facts = {k: x for k, x in trial.user_attrs.items() if k not in ("job", "tuned")}
    if trial.datetime_start is not None:
        facts["since"] = trial.datetime_start.timestamp()
    value = float("nan") if trial.value is None else float(trial.value)
    state = _STATES[trial.state]
    tuned = trial.user_attrs.get("tuned", {})
    return Record(job, state, value, tuned, facts, place)


def _failed(trial: FrozenTrial) -> bool:
    return trial.state == TrialState.FAIL and "error" in trial.user_attrs


def _is_given_up(trial: FrozenTrial) -> bool:
    return trial.state == TrialState.FAIL and "error" not in trial.user_attrs


def _sampler(tuning: Tuning, seed: int) -> optuna.samplers.BaseSampler:
    if tuning.method == "tpe":
        first = min(10, max(2, tuning.trials // 2))
        return optuna.samplers.TPESampler(
            n_startup_trials=first, constant_liar=True, seed=seed
        )
    return optuna.samplers.RandomSampler(seed=seed)


def _pruner(tuning: Tuning, steps: int, every: int) -> optuna.pruners.BasePruner:
    if tuning.pruner == "median":
        return optuna.pruners.MedianPruner(n_startup_trials=2)
    if tuning.pruner == "hyperband":
        return optuna.pruners.HyperbandPruner(min_resource=every, max_resource=steps)
    return optuna.pruners.NopPruner()
