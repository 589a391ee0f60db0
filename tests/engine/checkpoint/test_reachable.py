"""Checkpoints below folders of any name, and saves that nobody could read."""

import os

import pytest
from checkpoint_helpers import Opener, assert_same, fill, small

from clipjax.engine.checkpoint import reachable
from clipjax.types import UserError

ODD = [
    "exp [lr=1e-3]",
    "[2024]/x*y",
    "a\\b",
    "what?",
    "logs:/gs:",
    "a.__lock",
    os.fsdecode(b"latin \xe9"),
]


def assert_holds(saves, step, which="latest"):
    state, _, found = saves.restore(which, template=small(0))
    assert found == step
    assert_same(state, small(step))


@pytest.fixture
def opener(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # only slows tests
    made = []

    def open_in(name):
        made.append(Opener(tmp_path / name / "run"))
        return made[-1]

    yield open_in
    for one in made:
        one.close()


@pytest.mark.parametrize("name", ODD, ids=ascii)
def test_what_is_saved_below_an_odd_name_is_read(opener, tmp_path, name):
    opened = opener(name)
    saves = opened(keep=2)
    fill(saves, 1, 2, 3)
    assert_holds(saves, 3)
    saves.close()
    assert opened().steps() == [2, 3]  # and so for a later process
    # Nothing was put anywhere else, and it is read from a plain folder too.
    first = name.split("/")[0]
    assert os.listdir(tmp_path) == [first]
    opened.close()
    (tmp_path / first).rename(tmp_path / "plain")
    moved = opener("/".join(["plain", *name.split("/")[1:]]))
    assert_holds(moved(read_only=True), 2, which=2)


def test_a_pattern_takes_no_other_run(opener):
    """`x*y` as a pattern names xay too."""
    other, own = opener("xay"), opener("x*y")
    fill(other(), 1)
    fill(own(), 2)
    assert_holds(other(read_only=True), 1)
    assert_holds(own(read_only=True), 2)


def test_a_step_that_cannot_be_opened_is_no_save(opener, monkeypatch, capfd):
    """orbax itself calls it one: the folder is a pattern to it."""
    monkeypatch.setattr(reachable, "is_plain", lambda folder: True)
    opened = opener("exp [1]")
    saves = opened()
    saves.save(1, small(1), {})
    with pytest.raises(UserError, match="saving step 1 .* failed: .*read back"):
        saves.wait()
    assert not os.listdir(opened.workdir / "checkpoints" / "manifests")


def test_every_later_save_is_opened_too(opener, monkeypatch):
    opened = opener("plain")
    saves = opened(keep=1)
    fill(saves, 1)
    seal, commit = saves._store.seal, saves._saver.wait_until_finished

    def lose_an_array():
        commit()
        (opened.workdir / "checkpoints/2/state/manifest.ocdbt").unlink(missing_ok=True)

    monkeypatch.setattr(saves._saver, "wait_until_finished", lose_an_array)
    monkeypatch.setattr(saves._store, "seal", seal)
    saves.save(2, small(2), {})
    with pytest.raises(UserError, match="saving step 2 .* failed: .*read back"):
        saves.wait()
    assert saves.steps() == [1, 2]  # step 1 is not pruned
    assert_holds(opened(read_only=True), 1)


def test_without_names_for_open_folders_it_is_refused(opener, monkeypatch, tmp_path):
    monkeypatch.setattr(reachable, "_DESCRIPTORS", tmp_path / "absent")
    with pytest.raises(UserError, match="give another --workdir"):
        opener("a[b]")()
    fill(opener("plain")(), 1)
