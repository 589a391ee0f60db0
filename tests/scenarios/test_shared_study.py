"""configs/studies/tiny.py, killed three times and shared by two processes."""

import csv
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import pytest

from run_tools import ROOT

LIFE = 1500.0  # seconds in which a process must have come to its end


def start(folder, name, cache):
    """A process that works on the study, with a log of its own."""
    env = {key: value for key, value in os.environ.items() if key != "XLA_FLAGS"}
    env.update(JAX_PLATFORMS="cpu", CLIPJAX_CACHE=str(cache))
    with (folder.parent / name).open("w") as log:
        return subprocess.Popen(
            [
                *(sys.executable, "-m", "clipjax.study", "configs/studies/tiny.py"),
                f"--workdir={folder}",
            ],
            cwd=ROOT,
            env=env,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def wait_for(folder, pattern, count):
    """Until so many files of a pattern are in the study's folder."""
    end = time.monotonic() + LIFE
    while len(list(folder.glob(pattern))) < count:
        assert time.monotonic() < end
        time.sleep(0.2)


def table(folder):
    """The table without what it cost."""
    with (folder / "table.csv").open() as file:
        lines = list(csv.DictReader(file))
    return [{k: x for k, x in line.items() if k != "seconds"} for line in lines]


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_a_killed_and_shared_study_gives_the_same_table(tmp_path):
    cache, alone, shared = (tmp_path / x for x in ("cache", "alone", "shared"))
    assert start(alone, "alone.txt", cache).wait(LIFE) == 0
    saves = "runs/*/*/checkpoints/manifests/*.json"
    for number, kill in ((1, signal.SIGKILL), (4, signal.SIGTERM), (7, signal.SIGKILL)):
        process = start(shared, f"killed-{number}.txt", cache)
        wait_for(shared, saves, number)
        os.kill(process.pid, kill)
        process.wait(LIFE)
    both = [start(shared, f"both-{i}.txt", cache) for i in range(2)]
    assert [process.wait(LIFE) for process in both] == [0, 0]
    assert table(shared) == table(alone)
    assert all(row["seeds"] == "2" for row in table(alone))
    logs = [(tmp_path / f"both-{i}.txt").read_text() for i in range(2)]
    assert all("started" in log for log in logs)  # both have worked
    for folder in (alone, shared):
        size = sum(x.stat().st_size for x in folder.glob("*.*"))
        assert size < 1e6
    # The journal is enough: the table is made again without the runs.
    shutil.rmtree(shared / "runs")
    (shared / "table.csv").unlink()
    assert start(shared, "again.txt", cache).wait(LIFE) == 0
    assert table(shared) == table(alone)
    best = pathlib.Path(shared / "best.py").read_text()
    assert "get_config" in best
