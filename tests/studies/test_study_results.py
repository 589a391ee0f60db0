"""The table of a study and its files, by hand."""

import csv
import io
import math

import numpy as np
import pytest
from rich.console import Console
from scipy import stats
from study_tools import Working, facts, small

from clipjax import commandline
from clipjax.studies import (
    Screen,
    Tuning,
    best_config,
    factors,
    study_jobs,
    study_plan,
    study_results,
    study_tables,
)
from clipjax.studies.study_jobs import Job, Record

VALUES = {"a": [0.30, 0.32, 0.34], "b": [0.50, 0.52, 0.54], "c": [0.51, 0.53, 0.55]}


def made(values, seeds=3, **changes):
    """A study of cells by learning rate, and its records."""
    axes = {"optim.lr": tuple(0.1 * (i + 1) for i in range(len(values)))}
    working = Working(small(axes=axes, seeds=seeds, **changes), None)
    records = {}
    for cell, row in zip(working.cells, values.values(), strict=True):
        for seed, value in enumerate(row):
            job = Job("run", cell.folder, seed)
            state = study_jobs.DONE if math.isfinite(value) else study_jobs.FAILED
            more = facts(cell.config) if state == study_jobs.DONE else {"error": "nan"}
            records[job.key] = Record(job, state, value, {}, more)
    return working, records


def test_means_intervals_and_groups_are_tukeys():
    working, records = made(VALUES)
    (family,) = study_results.families(working.study, working.cells, records)
    rows = family.rows
    assert [row.cell.folder for row in rows] == ["0.3", "0.2", "0.1"]
    assert [row.groups for row in rows] == ["a", "a", "b"]
    assert rows[0].mean == pytest.approx(0.53)
    scipys = stats.tukey_hsd(*VALUES.values())
    ends = scipys.confidence_interval()
    first = family.pairs[0]
    assert (first.first, first.second) == ("optim.lr=0.1", "optim.lr=0.2")
    assert first.low == pytest.approx(ends.low[0, 1], abs=1e-5)
    assert first.p == pytest.approx(scipys.pvalue[0, 1], abs=1e-4)
    assert rows[0].low < 0.53 < rows[0].high
    notes = " ".join(family.notes)
    assert "Standard deviation between seeds: 2.00 points" in notes
    assert "A run of optim.lr=0.3 is better than one of optim.lr=0.2 with 64 %" in notes


def test_less_is_better_turns_the_order():
    working, records = made(VALUES, metric="val_loss")
    (family,) = study_results.families(working.study, working.cells, records)
    assert [row.groups for row in family.rows] == ["a", "b", "b"]
    assert family.rows[0].cell.folder == "0.1"
    assert "optim.lr=0.1 is better than one of optim.lr=0.2 with 100 %" in " ".join(
        family.notes
    )


def test_a_control_is_named_in_the_notes():
    working, records = made(VALUES, control="optim.lr=0.1")
    (family,) = study_results.families(working.study, working.cells, records)
    assert (
        "Better than optim.lr=0.1 (Dunnett): optim.lr=0.2; optim.lr=0.3."
        in family.notes
    )


def test_one_seed_has_means_alone():
    working, records = made({"a": [0.3], "b": [0.4]}, seeds=1)
    (family,) = study_results.families(working.study, working.cells, records)
    assert family.notes == ["No cell has two seeds, so there are no intervals."]
    assert [row.mean for row in family.rows] == [0.4, 0.3]
    assert study_results.ends(family.rows[0], "fraction") == ""


def test_files_hold_every_cell_pair_and_run(tmp_path):
    working, records = made({**VALUES, "d": [math.nan] * 3})
    found = study_results.families(working.study, working.cells, records)
    study_tables.write(working.study, working.cells, records, found, tmp_path)
    lines = {
        name: list(csv.DictReader(io.StringIO((tmp_path / name).read_text())))
        for name in ("table.csv", "pairs.csv", "runs.csv")
    }
    assert len(lines["runs.csv"]) == 12
    assert len(lines["pairs.csv"]) == 3
    best, *_, last = lines["table.csv"]
    assert (best["optim.lr"], best["mean"], best["seeds"]) == ("0.3", "0.53", "3")
    assert (last["optim.lr"], last["mean"], last["failed"]) == ("0.4", "", "3")
    assert last["gap"] == "failed with every seed: nan"
    text = (tmp_path / "table.md").read_text()
    assert "| optim.lr=0.3 | 3 | 53.00 % |" in text
    assert "| optim.lr=0.4 | 0 (3 failed) | - |" in text


def test_tables_are_printed_with_their_gaps():
    working, records = made({"a": [0.3, 0.4], "b": [math.nan, math.nan]}, seeds=2)
    del records["0.2/seed-1"]
    found = study_results.families(working.study, working.cells, records)
    console = Console(width=100, file=io.StringIO())
    console.print(study_tables.end(working.study, found, "fraction"))
    console.print(study_tables.live(working.study, working.cells, records))
    text = console.file.getvalue()
    assert "35.00 %" in text and "failed with its only seed: nan" in text
    assert "2/2" in text and "1/1 (1 failed)" in text


def test_the_best_config_is_a_file_that_trains(tmp_path):
    working, records = made(VALUES)
    (family,) = study_results.families(working.study, working.cells, records)
    line = best_config.write(working.study, family, "fraction", tmp_path)
    assert "optim.lr=0.3" in line and "not told apart from 1 other" in line
    config = commandline.load_file(str(tmp_path / "best.py"))
    assert config.optim.lr == pytest.approx(0.3) and config.seed == 0
    assert config.to_dict() == working.cells[2].config.copy_and_resolve_references().to_dict()  # fmt: skip  # noqa: E501


def plan(working, records):
    return "\n".join(study_plan.lines(working.study, working.cells, records))


def test_the_plan_says_time_and_what_can_be_told_apart():
    working, records = made(VALUES, minutes=4.0, spread=0.01, wanted=0.02)
    text = plan(working, {})
    assert "3 cells: 9 runs; metric retrieval/mean_recall@1" in text
    assert "9 whole runs x 4 minutes (as the study states) = 36:00 by one" in text
    assert "in 80 % of studies (if they vary by 0.01, as is assumed)" in text
    assert "seeds needed: 7 seeds for 0.02" in text
    text = plan(working, records)
    assert "x 0.1 minutes (measured in 9 runs)" in text
    assert "(by the spread of 9 runs done)" in text


def test_the_plan_says_what_is_not_known():
    working, _ = made(VALUES, seeds=1)
    text = plan(working, {})
    assert "how long one takes is said once the first has ended" in text
    assert "one seed a cell shows no spread" in text
    working, _ = made(VALUES)
    assert "x the standard deviation between seeds between two of 3 cells" in plan(
        working, {}
    )


def test_the_plan_counts_trials_and_finalists():
    tuning = Tuning({"optim.lr": factors(0.5, 1, 2)}, method="grid", length=1 / 3)
    study = small(tuning=tuning, screen=Screen(keep=2, seeds=4))
    working = Working(study, None)
    found = study_jobs.count(study, working.cells)
    assert found == {"trial": (12, pytest.approx(4.0)), "tuned": (16, 16.0)}
    left = study_plan.seconds_left(
        small(minutes=2.0, tuning=tuning, screen=study.screen), working.cells, {}
    )
    assert left == pytest.approx(120 * 20) and np.isfinite(left)


def test_what_fewer_trials_reach_is_told(tmp_path):
    tuning = Tuning({"optim.lr": factors(0.5, 1, 2)}, method="grid")
    working = Working(small(axes={"loss": ("clip",)}, tuning=tuning), None)
    records = {}
    for number, value in enumerate([0.2, math.nan, 0.5]):
        job = Job("trial", "clip", 2, number)
        state = study_jobs.DONE if math.isfinite(value) else study_jobs.FAILED
        records[job.key] = Record(job, state, value, {}, {"unit": "fraction"})
    found = study_results.best_of_trials(working.study, working.cells, records)
    # The failed trial counts as 0.2: pairs of (0.2, 0.2, 0.5) reach 0.4 on average.
    means = [one.mean for one in found["loss=clip"]]
    assert means == pytest.approx([0.3, 0.4, 0.5])
    console = Console(width=100, file=io.StringIO())
    console.print(study_tables.trials(working.study, found, "fraction"))
    assert "30.00 %" in console.file.getvalue()
    families = study_results.families(working.study, working.cells, records)
    study_tables.write(working.study, working.cells, records, families, tmp_path)
    lines = (tmp_path / study_tables.TRIALS).read_text().splitlines()
    assert lines[2] == "loss=clip,2,0.4,0.2,0.5"
