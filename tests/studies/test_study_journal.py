"""The journal: claims, cut lines, and runs that two processes add."""

import pytest
from study_tools import Working, small

from clipjax.studies import Screen, Tuning, choices, study_jobs, study_journal
from clipjax.studies.study_jobs import Job


@pytest.fixture
def working(tmp_path):
    return Working(small(), tmp_path)


def jobs(working):
    return study_jobs.due(working.study, working.cells, working.records())


def test_one_process_alone_claims_a_run(working):
    first, second = working.journal(), working.journal()
    wanted, cells = jobs(working), {cell.folder: cell for cell in working.cells}
    first.add(wanted, cells)
    second.add(wanted, cells)
    claims = [journal.claim(wanted, "x") for journal in (first, second) * 4]
    assert len({claim.job.key for claim in claims}) == 8
    assert first.claim(wanted, "x") is None and second.claim(wanted, "x") is None


def test_runs_that_two_processes_add_at_once_count_once(working, monkeypatch):
    first, second = working.journal(), working.journal()
    wanted = jobs(working)
    with monkeypatch.context() as patch:  # neither has seen the other's
        patch.setattr(second, "records", dict)
        second.add(wanted[:2], {})
        patch.setattr(first, "records", dict)
        first.add(wanted[:2], {})
    claim = first.claim(wanted, "x")
    first.finish(claim, "done", 0.5, {})
    assert second.claim(wanted, "y").job == wanted[1]
    assert second.claim(wanted, "y") is None
    assert len(second.records()) == 2


def test_a_line_that_was_cut_off_spoils_no_other(working):
    journal, wanted = working.journal(), jobs(working)
    journal.add(wanted[:2], {})
    place = working.folder / study_journal.FILE
    whole = place.read_bytes()
    place.write_bytes(whole + whole.splitlines()[-1][:20])
    working.journal().add(wanted[2:4], {})
    assert len(working.journal().records()) == 4
    assert len(journal.records()) == 4
    assert place.read_bytes().count(b"\n") == len(place.read_bytes().splitlines())


def test_what_a_run_came_to_is_read_without_its_folder(working):
    journal, wanted = working.journal(), jobs(working)
    journal.add(wanted, {})
    claim = journal.claim(wanted, "x")
    journal.finish(claim, "done", 0.25, {"curve": [[1, 2], [0.1, None]], "wall": 3.0})
    failed = journal.claim(wanted, "x")
    journal.finish(failed, "failed", float("nan"), {"error": "no"})
    records = working.records()
    assert records[claim.job.key].value == 0.25
    assert records[claim.job.key].facts["curve"] == [[1, 2], [0.1, None]]
    assert records[failed.job.key].facts["error"] == "no"
    assert list(working.journal(retry=True).records()).count(failed.job.key) == 0


def test_a_process_that_was_taken_for_dead_changes_nothing(working):
    slow, wanted = working.journal(), jobs(working)
    slow.add(wanted, {})
    claim = slow.claim(wanted, "slow")
    other = working.journal()
    other.give_up(other.records()[claim.job.key])
    other.add(wanted, {})
    again = other.claim(wanted, "other")
    assert again.job == claim.job
    slow.finish(claim, "done", 9.0, {"wall": 1.0})
    other.finish(again, "done", 1.0, {"wall": 2.0})
    assert working.records()[claim.job.key].value == 1.0


def test_a_grid_has_each_combination_once_in_every_cell(tmp_path):
    tuning = Tuning(
        {"optim.lr": choices(1e-3, 1e-2), "optim.weight_decay": choices(0.0, 0.1, 0.2)},
        method="grid",
    )
    working = Working(small(tuning=tuning), tmp_path)
    journal, wanted = working.journal(), jobs(working)
    assert len(wanted) == 4 * 6
    cells = {cell.folder: cell for cell in working.cells}
    journal.add(wanted, cells)
    mine = [job for job in wanted if job.cell == "clip-sgd"]
    found = set()
    while claim := journal.claim(mine, "x"):
        found.add(tuple(journal.suggest(claim, cells["clip-sgd"]).values()))
    assert found == {(x, y) for x in (1e-3, 1e-2) for y in (0.0, 0.1, 0.2)}


def test_a_trial_that_is_taken_over_keeps_its_values(tmp_path):
    tuning = Tuning({"optim.lr": choices(*range(1, 50))}, trials=3)
    working = Working(small(tuning=tuning), tmp_path)
    cells = {cell.folder: cell for cell in working.cells}
    journal, wanted = working.journal(), jobs(working)
    journal.add(wanted, cells)
    claim = journal.claim(wanted, "x")
    before = journal.suggest(claim, cells[claim.job.cell])
    journal.release(claim)
    journal.add(wanted, cells)
    again = journal.claim(wanted, "y")
    assert again.job == claim.job and again.trial != claim.trial
    assert journal.suggest(again, cells[again.job.cell]) == before


@pytest.mark.thorough
def test_finalists_get_more_seeds(tmp_path):
    working = Working(small(screen=Screen(keep=2, seeds=3)), tmp_path)
    assert working.worker().work()
    records = working.records()
    assert len(records) == 4 * 2 + 2 * 3
    more = {one.job.cell for one in records.values() if one.job.seed >= 2}
    assert more == {"sogclr-adamw", "sogclr-sgd"}
    assert Job("run", "sogclr-sgd", 4).key in records
