"""The command: what it refuses, and what a dry run says."""

import json
import sys

import pytest
from command_tools import failure
from study_tools import CONFIG, METRIC, arithmetic

from clipjax import study
from clipjax.studies import run_child, study_folder

TEXT = """\
from clipjax.studies import Study

def get_study():
    return Study(config={config!r}, axes={axes}, seeds=2, metric={metric!r})
"""


def write(place, axes="{'loss': ('clip', 'sogclr')}", metric=METRIC):
    place.write_text(TEXT.format(config=CONFIG, axes=axes, metric=metric))
    return str(place)


@pytest.fixture
def checked(monkeypatch):
    """Cells are not checked in a process, and runs are arithmetic."""
    monkeypatch.setattr(
        run_child, "check", lambda study, cells: {cell.name: 8 for cell in cells}
    )
    monkeypatch.setattr(run_child, "run", arithmetic)


@pytest.mark.parametrize(
    "changes, told",
    [
        ({"axes": "{'optim.learning_rate': (0.1,)}"}, "Did you mean optim.lr?"),
        ({"axes": "{'loss': ('clipp',)}"}, "clipp"),
        ({"metric": "recall@1"}, "no evaluator gives it"),
    ],
)
def test_mistakes_are_one_line(tmp_path, capsys, changes, told):
    file = write(tmp_path / "mine.py", **changes)
    line = failure(capsys, study.main, file, f"--workdir={tmp_path / 'x'}")
    assert told in line and str(file) in line
    assert not (tmp_path / "x").exists()


def test_flags_are_checked(tmp_path, capsys):
    file = write(tmp_path / "mine.py")
    assert "name one study's file" in failure(capsys, study.main)
    assert "--max_time=2d" in failure(capsys, study.main, file, "--max_time=2d")
    assert "--max_time=0h" in failure(capsys, study.main, file, "--max_time=0h")
    assert "Did you mean" in failure(capsys, study.main, file, "--workdri=x")


def test_a_missing_optuna_is_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    file = write(tmp_path / "mine.py")
    line = failure(capsys, study.main, file, f"--workdir={tmp_path / 'x'}")
    assert "pip install -e '.[study]'" in line


def test_a_study_says_its_plan_runs_and_tells(tmp_path, capsys, checked):
    file, folder = write(tmp_path / "mine.py"), tmp_path / "x"
    assert study.main(["study", file, f"--workdir={folder}", "--dry_run"]) == 0
    said = capsys.readouterr().out
    assert "2 cells: 4 runs" in said and "loss=clip: 8 steps a run" in said
    assert not folder.exists()
    assert study.main(["study", file, f"--workdir={folder}"]) == 0
    said = capsys.readouterr().out
    assert "sogclr/seed-1: retrieval/mean_recall@1" in said
    assert "best: loss=sogclr" in said and "95 % interval" in said
    assert (folder / "table.md").exists() and (folder / "best.py").exists()
    assert study.main(["study", file, f"--workdir={folder}"]) == 0
    again = capsys.readouterr().out
    assert "started" not in again and "best: loss=sogclr" in again


@pytest.mark.thorough
def test_two_studies_have_two_folders(tmp_path, capsys, checked):
    file, folder = write(tmp_path / "mine.py"), tmp_path / "x"
    study.main(["study", file, f"--workdir={folder}"])
    capsys.readouterr()
    other = write(tmp_path / "other.py", metric="retrieval/mean_recall@5")
    line = failure(capsys, study.main, other, f"--workdir={folder}")
    assert "holds another study (metric: 'retrieval/mean_recall@1' ->" in line
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "file").write_text("x")
    line = failure(capsys, study.main, file, f"--workdir={taken}")
    assert "exists and is no study's" in line


def test_a_study_goes_on_when_a_component_has_got_an_option(tmp_path, capsys, checked):
    file, folder = write(tmp_path / "mine.py", "{'loss': ('clip',)}"), tmp_path / "x"
    argv = ["study", file, f"--workdir={folder}"]
    study.main(argv)
    place = folder / study_folder.FILE
    saved = json.loads(place.read_text())
    config = saved["cells"]["loss=clip"]["config"]
    del config["optim"]["b2"]
    place.write_text(json.dumps(saved))
    assert study.main(argv) == 0
    config["optim"]["b2"] = 0.5
    place.write_text(json.dumps(saved))
    capsys.readouterr()
    assert "loss=clip: optim.b2: 0.5 ->" in failure(capsys, study.main, *argv[1:])


@pytest.mark.thorough
def test_a_study_may_grow(tmp_path, capsys, checked):
    file, folder = write(tmp_path / "mine.py"), tmp_path / "x"
    study.main(["study", file, f"--workdir={folder}"])
    capsys.readouterr()
    write(tmp_path / "mine.py", axes="{'loss': ('clip', 'sogclr', 'siglip')}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_child, "run", _refuses)
        study.main(["study", file, f"--workdir={folder}"])
    said = capsys.readouterr().out
    assert "cells to check before anything runs: 1" in said
    assert "Gap: loss=siglip: failed with every seed: it diverged" in said
    assert "best: loss=sogclr" in said
    assert len(study_folder._read(folder)["cells"]) == 3


def _refuses(*given):
    from clipjax.types import UserError

    raise UserError("it diverged")
