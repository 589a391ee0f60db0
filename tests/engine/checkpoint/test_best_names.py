"""Names of the best steps."""

import errno
import pathlib

import pytest
from checkpoint_helpers import small

from clipjax.engine.checkpoint import best_names


@pytest.mark.parametrize(
    ("metric", "value", "name"),
    [
        ("classification/top1", 0.2, "7-classification.top1=0.2000"),
        ("val_loss", 109.591, "7-val_loss=109.5910"),
        ("val_loss", 0.0, "7-val_loss=0.0000"),
        ("a/b c*[x]?", -0.00012345, "7-a.b_c__x__=-0.0001234"),
        ("../ü", 1e9, "7-..._=1e+09"),
    ],
)
def test_names(metric, value, name):
    assert best_names.name(7, metric, value) == name


def test_links_are_those_of_the_best_steps(tmp_path):
    for step in (1, 2, 30):
        (tmp_path / str(step)).mkdir()
    names = best_names.BestNames(tmp_path)
    assert names.renew("m", {1: 0.5, 2: 0.25}) == ""
    folder = tmp_path / "best"
    (folder / "note").write_text("mine")
    assert names.step_of("2-m=0.2500") == 2
    assert names.step_of("2-m=0.3") is None
    assert names.step_of("../2") is None
    for _ in range(2):
        assert names.renew("m", {1: 0.5, 30: 0.75}) == ""
    found = sorted(path.name for path in folder.iterdir())
    assert found == ["1-m=0.5000", "30-m=0.7500", "note"]
    (tmp_path / "1").rmdir()
    names.drop_dangling()
    assert sorted(path.name for path in folder.iterdir()) == ["30-m=0.7500", "note"]


def test_a_run_moves_with_its_links(tmp_path):
    (tmp_path / "run/checkpoints/3").mkdir(parents=True)
    best_names.BestNames(tmp_path / "run/checkpoints").renew("m", {3: 1.0})
    moved = (tmp_path / "run").rename(tmp_path / "moved") / "checkpoints"
    assert (moved / "best/3-m=1.0000").resolve() == moved / "3"


def test_a_file_system_without_links(opened, monkeypatch):
    """Saves are as good as ever, and one line says what is missing."""

    def refuse(self, target):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(pathlib.Path, "symlink_to", refuse)
    saves = opened(keep=1, best_metric="r", best_mode="max")
    for step, value in enumerate([0.1, 0.3, 0.2], start=1):
        saves.save(step, small(step), {}, {"r": value})
        saves.wait()
    assert saves.steps() == [2, 3] and saves.best_step() == 2
    (said,) = opened.said
    assert said.endswith("get no names (Operation not permitted); they are kept")
