"""A run that is killed twenty times ends with the same bits as one left alone."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import pytest

from run_tools import ROOT, rows, saved

STEPS, EVERY, KILLS = 400, 10, 20
LIFE = 900.0  # seconds in which a start must have come to its kill


class Life:
    """One start of the run, in a process group of its own."""

    def __init__(self, folder, workdir, workers):
        env = {key: value for key, value in os.environ.items() if key != "XLA_FLAGS"}
        env.update(JAX_PLATFORMS="cpu", CLIPJAX_CACHE=str(folder / "cache"))
        self.log = folder / "log.txt"
        self.checkpoints = workdir / "checkpoints"
        self.metrics = workdir / "metrics.jsonl"
        self.began = time.time()
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "clipjax.train"),
                    *("--config", "tests/config_tiny.py"),
                    f"--workdir={workdir}",
                    f"--config.train.steps={STEPS}",
                    f"--config.checkpoint.every={EVERY}",
                    "--config.log.every=1",
                    f"--config.data.workers={workers}",
                ],
                cwd=ROOT,
                env=env,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def end(self):
        """Waits for a complete run."""
        assert self.process.wait(LIFE) == 0, self.log.read_text()

    def stepped(self):
        """The last step of this life that was logged, 0 before."""
        # Written by an earlier life, the file may hold steps that will run again.
        if not self.metrics.exists() or self.metrics.stat().st_mtime < self.began:
            return 0
        text = self.metrics.read_bytes()
        lines = text[-4000:].split(b"\n")[:-1]
        try:
            return json.loads(lines[-1])["step"] if lines else 0
        except ValueError:
            return 0

    def saving(self):
        """Whether a checkpoint of this life has no manifest yet."""
        manifests = self.checkpoints / "manifests"
        for path in self.checkpoints.glob("[0-9]*"):
            if not (manifests / f"{path.name}.json").exists():
                with contextlib.suppress(FileNotFoundError):  # committed meanwhile
                    if path.stat().st_mtime > self.began:  # not of an earlier life
                        return True
        return False

    def kill(self, when):
        """SIGKILL as soon as `when()`; returns whether a save was under way."""
        limit = time.monotonic() + LIFE
        while not when():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < limit, self.log.read_text()
            time.sleep(0.001)
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()
        return self.saving()


@pytest.fixture
def life(tmp_path):
    made = []

    def start(workdir, workers=0):
        made.append(Life(tmp_path, workdir, workers))
        return made[-1]

    yield start
    for each in made:
        if each.process.poll() is None:
            os.killpg(each.process.pid, signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_killed_twenty_times(life, tmp_path):
    draw = random.Random(0)
    alone, other, killed = tmp_path / "alone", tmp_path / "other", tmp_path / "killed"
    life(alone).end()
    life(other, workers=2).end()
    assert saved(other) == saved(alone)

    in_save, most, last, base, good = 0, 0, 0, 0, 0
    for kill in range(KILLS):
        now = life(killed, workers=(0, 1, 0, 2)[kill % 4])
        if kill % 2:  # on purpose while a checkpoint is written
            aim = base + draw.randrange(1, 2 * EVERY)
            pause = draw.uniform(0, 0.05)
            when = _first_then(lambda: now.stepped() >= aim and now.saving(), pause)  # noqa: B023
        else:  # at any moment
            aim = base + draw.randrange(1, 3 * EVERY)
            when = _first_then(lambda: now.stepped() >= aim, draw.uniform(0, 0.2))  # noqa: B023
        was_saving = now.kill(when)
        text = now.log.read_text()
        resumed = _resumed(text)
        print(f"kill {kill + 1}: from {resumed}, {was_saving=}: {text.splitlines()}")
        # What the start before this kill said, against what the kill before left.
        _check(resumed, last, good)
        most, base = max(most, last - resumed), resumed
        in_save += was_saving
        last = max(now.stepped(), resumed)
        good = max(_sealed(now), default=0)
        base = max(base, good)
    now = life(killed)
    now.end()
    resumed = _resumed(now.log.read_text())
    _check(resumed, last, good)
    most = max(most, last - resumed)
    print(f"{KILLS} kills, {in_save} during a save, at most {most} steps repeated")
    assert in_save >= 3
    assert saved(killed) == saved(alone)
    assert [step for step, _ in rows(killed)] == list(range(1, STEPS + 1))
    assert rows(killed) == rows(alone)
    for name in ("eval/val_loss", "eval/primary"):
        assert rows(killed, name) == rows(alone, name)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_three_interrupts_with_workers(life, tmp_path):
    """One line, a whole checkpoint, no worker and nothing of theirs, at any moment."""
    alone, often = tmp_path / "alone", tmp_path / "often"
    life(alone).end()
    for pause in (0.0, 0.01, 0.05, 0.2, 1.0):
        now = life(often, workers=2)
        limit = time.monotonic() + LIFE
        while not now.stepped():
            assert now.process.poll() is None, now.log.read_text()
            assert time.monotonic() < limit
            time.sleep(0.01)
        for _ in range(3):
            os.killpg(now.process.pid, signal.SIGINT)
            time.sleep(pause)
        text = f"after {now.process.wait(LIFE)}: {now.log.read_text()}"
        assert "Traceback" not in text and "Error" not in text, text
        assert text.startswith("after 130"), text
        assert not list((often / "checkpoints").glob("*tmp*")), text
        record = json.loads((often / "shared_memory.json").read_text())
        begin = record["names_begin_with"][-1]
        assert not list(pathlib.Path("/dev/shm").glob(f"{begin}*")), text
    life(often).end()
    assert saved(often) == saved(alone)
    assert rows(often) == rows(alone)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_shared_memory_of_a_killed_group_is_freed(life, tmp_path):
    now = life(tmp_path / "run", workers=2)
    limit = time.monotonic() + LIFE
    while not now.stepped():
        assert time.monotonic() < limit, now.log.read_text()
        time.sleep(0.01)
    os.killpg(now.process.pid, signal.SIGKILL)  # workers and their helpers too
    now.process.wait()
    record = json.loads((tmp_path / "run/shared_memory.json").read_text())
    begin = record["names_begin_with"][-1]
    assert list(pathlib.Path("/dev/shm").glob(f"{begin}*"))
    life(tmp_path / "run").end()
    assert not list(pathlib.Path("/dev/shm").glob(f"{begin}*"))


def _first_then(condition, pause):
    """True `pause` seconds after the condition first held."""
    since = None

    def when():
        nonlocal since
        if since is None and condition():
            since = time.monotonic()
        return since is not None and time.monotonic() - since >= pause

    return when


def _resumed(text):
    for line in text.splitlines():
        if line.startswith("resuming"):
            assert f"of {STEPS}" in line
            return int(line.partition("from step ")[2].split()[0])
    assert "starting from scratch" in text, text
    return 0


def _sealed(life):
    return [int(path.stem) for path in life.checkpoints.glob("manifests/*.json")]


def _check(resumed, last, good):
    """last: the last step logged before; good: the newest sealed checkpoint."""
    assert resumed >= good  # and so above 0 once a save exists
    assert resumed % EVERY == 0
    # One interval to the save that was interrupted, and those steps that were run while
    # it was written: the next save would have waited for it.
    assert last - resumed <= 2 * EVERY
