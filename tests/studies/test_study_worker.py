"""Processes that share a study, are killed, and fail, with arithmetic for runs."""

import math
import time

import pytest
from study_tools import Working, arithmetic, facts, small, value

from clipjax.run_record import status
from clipjax.studies import Tuning, log_range, study_results, study_tables
from clipjax.studies.run_child import Came, Stopped
from clipjax.types import UserError


class Killed(BaseException):
    """As SIGKILL: nothing of the worker runs after it."""


def dies(worker, monkeypatch, after):
    """The worker's process ends in its run number `after`."""
    done = []

    def run(*given):
        if len(done) == after:
            raise Killed
        done.append(given)
        return arithmetic(*given)

    worker._run = run
    worker.name = f"gone-{time.monotonic_ns()}"  # no such process says that it lives
    with monkeypatch.context() as patch:
        patch.setattr(worker._journal, "release", lambda claim: None)
        with pytest.raises(Killed):
            worker.work()
    (worker._folder / "workers" / worker.name / status.FILE).unlink()


def table(working):
    records = working.records()
    found = study_results.families(working.study, working.cells, records)
    return study_tables.markdown(working.study, found, study_results.unit(records))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A study that one process made without a stop."""
    working = Working(small(), tmp_path_factory.mktemp("whole"))
    assert working.worker().work()
    return working


def test_every_cell_gets_every_seed(whole):
    records = whole.records()
    assert len(records) == 8 and {one.state for one in records.values()} == {"done"}
    assert "clip-adamw/seed-1" in records
    first = whole.cells[0]
    config = first.config.copy_and_resolve_references()
    config.seed = 1
    assert records[f"{first.folder}/seed-1"].value == value(config)
    assert (whole.folder / "journal.log").stat().st_size < 40_000


def test_killed_three_times_and_shared_it_gives_the_same_table(
    whole, tmp_path, monkeypatch
):
    working = Working(small(), tmp_path)
    for after in (0, 2, 1):
        dies(working.worker(), monkeypatch, after)
    taken = [one for one in working.records().values() if one.state == "running"]
    assert len(taken) == 1

    def shared(*given):  # another process works while this one's run goes on
        if other:
            with pytest.raises(KeyboardInterrupt):
                other.pop().work()
        return arithmetic(*given)

    runs = []

    def two(*given):
        if len(runs) == 2:
            raise Stopped(15)
        runs.append(given)
        return arithmetic(*given)

    other = [working.worker(two)]
    other[0].name = "other"
    assert working.worker(shared).work()
    assert len(runs) == 2
    assert table(working) == table(whole)
    assert sum("goes on here" in line for line in working.said) == 3


def test_a_run_of_a_living_process_is_left_alone(tmp_path):
    working = Working(small(), tmp_path)

    def run(*given):
        mine = working.records()["clip-adamw/seed-0"]
        other = working.worker()
        other.name = "another"
        assert not other._is_dead(mine)
        raise Stopped(15)

    with pytest.raises(KeyboardInterrupt):
        working.worker(run).work()
    # It ended by itself and freed the run, so nothing is left to take over.
    records = working.records()
    assert "clip-adamw/seed-0" not in records and len(records) == 7


@pytest.mark.thorough
def test_a_cell_that_diverges_with_every_seed_is_a_gap(tmp_path):
    working = Working(small(), tmp_path)

    def run(study, config, *rest):
        if (config.loss.name, config.optim.name) == ("clip", "sgd"):
            raise UserError("the loss was not finite in 10 steps in a row")
        if config.loss.name == "sogclr" and config.optim.name == "sgd":
            return Came(math.nan, facts(config))
        return arithmetic(study, config, *rest)

    assert working.worker(run).work()
    text = table(working)
    assert "| loss=clip, optim=sgd | 0 (2 failed) | - |" in text
    assert (
        "Gap: loss=clip, optim=sgd: failed with every seed: the loss was not finite"
        in text
    )
    assert "diverged" in text and text.count("Gap:") == 2
    # What failed is run again on request alone.
    assert working.worker().work() and table(working) == text
    again = working.worker(journal=working.journal(retry=True))
    assert again.work() and "Gap:" not in table(working)


@pytest.mark.thorough
def test_it_ends_at_its_time_and_goes_on(tmp_path):
    working = Working(small(), tmp_path)
    clock = [time.monotonic()]
    done = []

    def run(study, config, folder, start, watch):
        done.append(folder)
        if len(done) == 3:
            worker._deadline = clock[0]
            assert watch({})  # it is to stop
            return Came(math.nan, {}, stopped=True)
        return arithmetic(study, config, folder, start, watch)

    worker = working.worker(run, deadline=math.inf)
    assert not worker.work()
    states = [one.state for one in working.records().values()]
    assert states.count("done") == 2 and "failed" not in states
    assert working.worker().work()


@pytest.mark.thorough
@pytest.mark.parametrize("method", ["tpe", "random"])
def test_tuning_gives_every_cell_the_same_budget(tmp_path, method):
    tuning = Tuning(
        {"optim.lr": log_range(1e-4, 1e-1)},
        trials=5,
        method=method,
        length=0.5,
        untuned_too=True,
    )
    working = Working(small(tuning=tuning, axes={"loss": ("clip", "sogclr")}), tmp_path)
    steps = []

    def run(study, config, *rest):
        steps.append(config.train.steps)
        return arithmetic(study, config, *rest)

    assert working.worker(run).work()
    records = working.records()
    trials = [one for key, one in records.items() if "trial" in key]
    assert len(trials) == 10 and steps.count(4) == 10 and steps.count(8) == 8
    rates = [one.tuned["optim.lr"] for one in trials]
    assert len(set(rates)) == 10 and all(1e-4 <= x <= 1e-1 for x in rates)
    assert {one.job.seed for one in trials} == {2}  # no run has it
    mine = [one for one in trials if one.job.cell == "clip"]
    best = max(mine, key=lambda one: one.value)
    tuned = records["clip/tuned-seed-0"]
    assert dict(tuned.tuned) == dict(best.tuned)
    found = study_results.families(working.study, working.cells, records)
    assert [one.title for one in found] == ["tuned", "as configured"]
    assert found[0].rows[0].seconds == (5 + 2) * 60


@pytest.mark.thorough
def test_trials_that_fall_behind_are_pruned(tmp_path):
    tuning = Tuning(
        {"optim.lr": log_range(1e-4, 1e-1)},
        trials=8,
        method="random",
        pruner="median",
    )
    study = small(
        tuning=tuning,
        axes={"loss": ("clip",)},
        seeds=1,
        options={"train.eval_every": 2},
    )
    working = Working(study, tmp_path)

    def run(study, config, folder, start, watch):
        for step in (2, 4, 6):
            if watch({step: value(config) * step / 8}):
                return Came(value(config) * step / 8, facts(config), stopped=True)
        return arithmetic(study, config, folder, start, watch)

    assert working.worker(run).work()
    states = [x.state for key, x in working.records().items() if "trial" in key]
    assert len(states) == 8 and 1 <= states.count("pruned") <= 6
    best = max(
        (x for x in working.records().values() if x.state == "done" and x.tuned),
        key=lambda x: x.value,
    )
    assert best.job.kind in ("trial", "tuned")
