"""Damaged checkpoints: every kind of harm, kills at any moment, and manifests."""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest
from checkpoint_helpers import assert_same, fill, small

from clipjax import atomic_files
from clipjax.engine.checkpoint import manifest, step_folder
from clipjax.types import UserError


def contents(folder: pathlib.Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(
            path.read_bytes()
        ).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def biggest(folder: pathlib.Path) -> pathlib.Path:
    return max(
        (p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size
    )


def truncate(folder, seal):
    path = biggest(folder)
    path.write_bytes(path.read_bytes()[:-1])
    return f"{path.relative_to(folder)} has "


def flip(folder, seal):
    path = biggest(folder)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    return f"{path.relative_to(folder)} has changed"


def delete(folder, seal):
    path = biggest(folder)
    path.unlink()
    return f"{path.relative_to(folder)} is missing"


def add(folder, seal):
    (folder / "state" / "stray").write_text("?")
    return "state/stray is not in the manifest"


def cut_manifest(folder, seal):
    seal.write_text(seal.read_text()[:-40])
    return "3.json is broken"


def empty_manifest(folder, seal):
    seal.write_text("[]")
    return "3.json is broken"


def lose_folder(folder, seal):
    shutil.rmtree(folder)
    return "is missing"


def lose_manifest_and_metadata(folder, seal):
    seal.unlink()
    (folder / "state" / "_METADATA").write_text("{")
    return "orbax cannot read it"


def lose_manifest_and_data(folder, seal):
    seal.unlink()
    biggest(folder).unlink()
    return "orbax cannot read it"


def lose_manifest_and_meta(folder, seal):
    seal.unlink()
    (folder / "meta" / "metadata").write_text('{"meta"')
    return "its JSON cannot be read"


def replace_by_file(folder, seal):
    shutil.rmtree(folder)
    folder.write_text("no folder")
    return "is missing"


DAMAGES = [
    truncate,
    flip,
    delete,
    add,
    cut_manifest,
    empty_manifest,
    lose_folder,
    lose_manifest_and_metadata,
    lose_manifest_and_data,
    lose_manifest_and_meta,
    replace_by_file,
]


@pytest.mark.parametrize("harm", DAMAGES, ids=lambda harm: harm.__name__)
def test_damage_is_named_and_the_previous_step_used(opened, tmp_path, harm, capfd):
    saves = opened()
    fill(saves, 1, 2, 3)
    saves.close()
    folder = tmp_path / "run" / "checkpoints"
    expected = harm(folder / "3", folder / "manifests" / "3.json")

    saves = opened()
    state, meta, step = saves.restore_latest(small(0))
    assert (step, meta) == (2, {"at": 2})
    assert_same(state, small(2))
    named, *moved = opened.said
    assert named.startswith(f"step 3 of {tmp_path / 'run'} is damaged: ")
    assert expected in named and "\n" not in named
    assert moved == [f"step 3 is moved to {folder / 'set_aside' / '3'}"]

    # The same step can be saved again, and counts.
    opened.said.clear()
    fill(saves, 3)
    state, _, step = saves.restore_latest(small(0))
    assert step == 3
    assert_same(state, small(3))
    assert opened.said == []
    assert capfd.readouterr().err == ""


def test_restoring_read_only_changes_nothing(opened, tmp_path):
    saves = opened()
    fill(saves, 1, 2)
    saves.close()
    flip(tmp_path / "run/checkpoints/2", None)
    (tmp_path / "run/checkpoints/9.orbax-checkpoint-tmp").mkdir()
    before = contents(tmp_path)
    reader = opened(read_only=True)
    assert reader.restore_latest(small(0))[2] == 1
    assert reader.restore()[2] == 1
    with pytest.raises(UserError, match="step 2 of .* is damaged: .* has changed"):
        reader.restore(2)
    with pytest.raises(ValueError, match="read-only"):
        reader.save(3, small(3), {})
    assert contents(tmp_path) == before
    assert (tmp_path / "run/checkpoints/9.orbax-checkpoint-tmp").exists()


def test_all_damaged_is_an_error_and_nothing_moves(opened, tmp_path):
    saves = opened()
    fill(saves, 1, 2)
    saves.close()
    for step in ("1", "2"):
        flip(tmp_path / "run/checkpoints" / step, None)
    before = contents(tmp_path)
    with pytest.raises(UserError, match=r"none of its checkpoints \(step 2, 1\)"):
        opened().restore_latest(small(0))
    assert contents(tmp_path) == before


def test_vanished_folders_do_not_mean_scratch(opened, tmp_path):
    saves = opened()
    fill(saves, 1, 2)
    saves.close()
    for step in ("1", "2"):
        shutil.rmtree(tmp_path / "run/checkpoints" / step)
    with pytest.raises(UserError, match="none of its checkpoints"):
        opened().restore_latest(small(0))


def test_steps_set_aside_do_not_mean_scratch(opened, tmp_path):
    saves = opened()
    fill(saves, 5)
    step_folder.Store(tmp_path / "run", opened.said.append).set_aside([5])
    with pytest.raises(UserError, match="set_aside does: move one back"):
        saves.restore_latest(small(0))


def test_nothing_saved_is_none(opened):
    assert opened().restore_latest(small(0)) is None
    assert opened().best_step() is None
    with pytest.raises(UserError, match="holds no checkpoint"):
        opened().restore()
    with pytest.raises(UserError, match="holds no checkpoint 4; its steps: none"):
        opened().restore(4)


def test_missing_manifest_is_announced(opened, tmp_path):
    saves = opened()
    fill(saves, 1, 2)
    (tmp_path / "run/checkpoints/manifests/2.json").unlink()
    state, _, step = saves.restore_latest(small(0))
    assert step == 2
    assert_same(state, small(2))
    assert len(opened.said) == 1 and "unverified" in opened.said[0]


def test_interrupted_save_is_announced_and_cleared(opened, tmp_path):
    saves = opened()
    fill(saves, 1)
    saves.close()
    left = tmp_path / "run/checkpoints/2.orbax-checkpoint-tmp"
    shutil.copytree(tmp_path / "run/checkpoints/1", left)
    saves = opened()
    assert len(opened.said) == 1 and "save of step 2 was interrupted" in opened.said[0]
    assert saves.steps() == [1]
    assert saves.restore_latest(small(0))[2] == 1
    assert not left.exists()


def test_saving_again_sets_later_steps_aside(opened, tmp_path):
    saves = opened(keep=5)
    fill(saves, 1, 2, 3)
    other = {**small(2), "n": -2}
    saves.save(2, other, {})
    state, _, step = saves.restore_latest(small(0))
    assert step == 2 and saves.steps() == [1, 2]
    assert_same(state, other)
    aside = tmp_path / "run/checkpoints/set_aside"
    fill(saves, 2)
    assert sorted(p.name for p in aside.iterdir()) == [
        *("2", "2-2", "2-2.json", "2.json", "3", "3.json")
    ]
    assert manifest.check(aside / "3", aside / "3.json") == []


class Killed(BaseException):
    """What ends the work at a chosen call, as a kill would."""


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (step_folder.Store, "seal"),
        (atomic_files, "digest"),
        (pathlib.Path, "replace"),
        (step_folder.Store, "prune"),
        (pathlib.Path, "rename"),
        (pathlib.Path, "unlink"),
        (shutil, "rmtree"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_kill_between_any_two_actions(opened, monkeypatch, owner, name):
    """Stops after orbax's commit at each action on files that follows it."""
    saves = opened(keep=1)
    fill(saves, 1)
    wait, real = saves._saver.wait_until_finished, getattr(owner, name)

    def die(*args, **kwargs):
        if name == "rmtree":  # half done
            biggest(args[0]).unlink()
        raise Killed

    def commit():
        wait()
        monkeypatch.setattr(owner, name, die)

    monkeypatch.setattr(saves._saver, "wait_until_finished", commit, raising=True)
    saves.save(2, small(2), {})
    saves._thread.join()
    monkeypatch.setattr(owner, name, real)
    monkeypatch.setattr(saves._saver, "wait_until_finished", wait)
    saves._thread = saves._failure = None  # a killed process tells nothing
    saves.close()

    saves = opened(keep=1)
    state, _, step = saves.restore_latest(small(0))
    assert step == 2
    assert_same(state, small(2))
    sealed = (
        step_folder.Store(saves.workdir, print).folder / "manifests/2.json"
    ).exists()
    assert [text for text in opened.said if "unverified" not in text] == []
    assert len(opened.said) == (0 if sealed else 1)
    for step in saves.steps():
        assert_same(saves.restore(step, small(0))[0], small(step))
    fill(saves, 3)
    assert saves.steps() == [3]
    assert not list((saves.workdir / "checkpoints").glob("*.pruned"))


# Manifests


def test_manifest_holds_every_file(tmp_path):
    folder = tmp_path / "1"
    (folder / "a/b").mkdir(parents=True)
    (folder / "a/b/c").write_bytes(b"abc")
    (folder / "d").write_bytes(b"")
    manifest.write(folder, tmp_path / "1.json")
    assert manifest.check(folder, tmp_path / "1.json") == []
    found = json.loads((tmp_path / "1.json").read_text())["files"]
    assert found["a/b/c"]["sha256"] == hashlib.sha256(b"abc").hexdigest()
    assert {name: entry["size"] for name, entry in found.items()} == {
        "a/b/c": 3,
        "d": 0,
    }
    assert not [*tmp_path.glob("*.tmp")]
    assert manifest.check(folder, tmp_path / "2.json") == [
        "2.json cannot be read (No such file or directory)"
    ]


def test_everything_is_on_the_disk_before_the_manifest(tmp_path, monkeypatch):
    """A power cut must not leave a manifest of files that were only cached."""
    (tmp_path / "1/a").mkdir(parents=True)
    (tmp_path / "1/a/b").write_bytes(b"abc")
    order, real_fsync, real_replace = [], os.fsync, pathlib.Path.replace

    def fsync(descriptor):
        order.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        real_fsync(descriptor)

    def replace(self, target):
        order.append("replace")
        return real_replace(self, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(pathlib.Path, "replace", replace)
    manifest.write(tmp_path / "1", tmp_path / "1.json")
    before, after = order[: order.index("replace")], order[order.index("replace") :]
    assert {str(tmp_path / name) for name in ("1/a/b", "1/a", "1")} <= {*before}
    assert any(place.startswith(str(tmp_path / "1.json.")) for place in before)
    assert after == ["replace", str(tmp_path)]


# Kills

TRAINER = """
import sys
import jax, jax.numpy as jnp, numpy as np
from clipjax.engine.checkpoint.saves import Checkpoints

def expected(step):
    draw = np.random.default_rng(step)
    return {
        "w": jnp.asarray(draw.integers(0, 2**32, 2**20, np.uint32)),
        "b": [jnp.asarray(draw.normal(size=(64, 64)), jnp.float32) for _ in range(8)],
        "key": jax.random.key(step),
        "step": np.asarray(step),
    }

say = lambda *words: print(*words, flush=True)
with Checkpoints(sys.argv[1], keep=2, warn=lambda text: say("warn", text)) as saves:
    found = saves.restore_latest(expected(0))
    step = 0
    if found:
        state, meta, step = found
        same = jax.tree.map(lambda a, b: bool((a == b).all()), state, expected(step))
        good = jax.tree.all(same) and meta == {"step": step}
        say("restored", step, "good" if good else "BAD")
    else:
        say("restored", 0, "good")
    while True:
        step += 1
        saves.save(step, expected(step), {"step": step})
        say("safe", step - 1)
"""


def lines_until(start: str, process: subprocess.Popen) -> list[str]:
    seen = []
    for line in iter(process.stdout.readline, ""):
        seen.append(line)
        if line.startswith(start):
            return seen
    pytest.fail(f"ended before {start!r}: {seen} {process.stderr.read()}")


def kill_again_and_again(tmp_path, kills: int, seed: int) -> None:
    draw, safe, restored = random.Random(seed), 0, []
    script = tmp_path / "trainer.py"
    script.write_text(TRAINER)
    env = {**os.environ, "XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"}
    for kill in range(kills):
        process = subprocess.Popen(
            [sys.executable, str(script), str(tmp_path / "run")],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=env,
        )
        try:
            seen = lines_until("restored", process)
            if not kill:  # a later life finds something on a slow disk too
                lines_until("safe 1", process)
            # Somewhere in the first saves: writing, committing, hashing, pruning.
            time.sleep(draw.uniform(0, 0.4))
        finally:
            process.send_signal(signal.SIGKILL)
            out, err = process.communicate()
        word, step, verdict = seen[-1].split()
        assert verdict == "good", (seen, err)
        assert not [line for line in seen if "damaged" in line], seen
        assert int(step) >= safe, (seen, safe)
        restored.append(int(step))
        # A restored step is as safe as one that was told to be.
        done = [int(s.split()[1]) for s in out.split("\n") if s.startswith("safe ")]
        safe = max([safe, int(step), *done])
    assert err == ""
    assert restored[-1] > 0


@pytest.mark.thorough
def test_killed_at_any_moment(tmp_path):
    kill_again_and_again(tmp_path, kills=5, seed=0)


@pytest.mark.slow
def test_killed_at_many_moments(tmp_path):
    kill_again_and_again(tmp_path, kills=60, seed=1)


def test_whole_steps_have_a_manifest_and_a_mark(opened, tmp_path):
    store = step_folder.Store(tmp_path / "run", print)
    assert store.whole() == {}
    fill(opened(keep=9), 1, 2, 3)
    first = store.whole()
    assert list(first) == [1, 2, 3]
    manifests = store.folder / "manifests"
    (manifests / "2.json").rename(tmp_path / "2.json")  # its save is not finished
    shutil.rmtree(store.path(1))  # half deleted
    (store.folder / "4.orbax-checkpoint-tmp-1").mkdir()
    assert list(store.whole()) == [3]
    shutil.copyfile(tmp_path / "2.json", manifests / "2.json")  # it is saved again
    assert store.whole()[2] != first[2]
    assert store.whole()[3] == first[3]
