"""Processes on one machine train as one does, stop together, and name who is gone."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from port_tools import free_port

from clipjax.run_record import status
from run_tools import ROOT, rows, saved

STEPS = 6


def start(folder, name, count, index, port, *flags):
    env = {key: value for key, value in os.environ.items() if key != "XLA_FLAGS"}
    env.update(
        JAX_PLATFORMS="cpu",
        CLIPJAX_CACHE=str(folder / "cache"),
        PYTHONPATH=os.pathsep.join([str(ROOT / "tests"), str(ROOT)]),
    )
    if count > 1:
        env.update(
            JAX_COORDINATOR_ADDRESS=f"localhost:{port}",
            JAX_NUM_PROCESSES=str(count),
            JAX_PROCESS_ID=str(index),
        )
    said = folder / f"{name}-{index}-{port}.txt"
    with said.open("wb") as file:
        process = subprocess.Popen(
            [
                *(sys.executable, "-u", "-m", "clipjax.train"),
                *("--config", "tests/config_tiny.py:data=parts.faulty_source"),
                f"--workdir={folder / name}",
                f"--config.train.steps={STEPS}",
                "--config.data.train.nth=10",
                "--config.log.every=1",
                *flags,
            ],
            cwd=ROOT,
            env=env,
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    return process, said


@pytest.fixture
def launch(tmp_path):
    """Starts the processes of a run; flags of one alone are given by `own`."""
    made = []

    def run(name, count, *flags, own=None, leave_out=()):
        port = free_port()
        new = [
            start(tmp_path, name, count, i, port, *flags, *(own or {}).get(i, ()))
            for i in range(count)
            if i not in leave_out
        ]
        made.extend(new)
        return new

    yield run
    for process, _ in made:
        process.send_signal(signal.SIGCONT)
        process.kill()
        process.wait()


def ends(processes, status=0, seconds=600):
    limit = time.monotonic() + seconds
    found = []
    for process, said in processes:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(max(0.1, limit - time.monotonic()))
        text = said.read_text()
        assert process.returncode == status, text
        found.append(text)
    return found


def wait_for(processes, words, index=0, seconds=600):
    """Waits until one of the processes has said this."""
    process, said = processes[index]
    limit = time.monotonic() + seconds
    while words not in said.read_text():
        assert time.monotonic() < limit and process.poll() is None, said.read_text()
        time.sleep(0.02)


def wait_until(place, pattern=""):
    """Waits until a file is there, or one of a pattern in a folder."""
    limit = time.monotonic() + 600
    while not (any(place.glob(pattern)) if pattern else place.exists()):
        assert time.monotonic() < limit
        time.sleep(0.005)


def error_line(text):
    """The one line of an error; gloo says a line of its own at each start."""
    (line,) = [line for line in text.splitlines() if "error" in line.lower()]
    assert "Traceback" not in text and "stack trace" not in text, text
    return line


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_two_processes_train_as_one(launch, tmp_path):
    ends(launch("one", 1))
    first, second = ends(launch("two", 2))
    for name in ("train/loss", "eval/val_loss", "train/grad_norm"):
        one, two = rows(tmp_path / "one", name), rows(tmp_path / "two", name)
        assert [step for step, _ in one] == [step for step, _ in two]
        np.testing.assert_allclose([v for _, v in two], [v for _, v in one], rtol=1e-4)
    name = "train/replaced_total"
    assert rows(tmp_path / "two", name) == rows(tmp_path / "one", name)
    assert rows(tmp_path / "two", name)[-1][1] > 1
    # The first speaks, of what the other met too, and writes.
    assert "replaced a broken example" in first and "step" not in second, second
    assert saved(tmp_path / "two")[1] == STEPS
    record = status.read(tmp_path / "two")
    assert record and (record.state, record.processes) == ("finished", 2)
    longer = f"--config.train.steps={STEPS + 2}"
    (text,) = ends(launch("two", 1, longer, "--extend"))
    assert f"from step {STEPS} of {STEPS + 2}" in text
    assert "processes was 2 and is 1" in text


LONG = ("--config.train.steps=100000", "--config.checkpoint.every=4")


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_to_one_process_stops_all_in_each_life(launch, tmp_path, number):
    # In a step, at once after the restart, and once more.
    for index, words in enumerate(["first step after", "resuming", "resuming"]):
        processes = launch("two", 2, *LONG)
        wait_for(processes, words)
        processes[index % 2][0].send_signal(number)
        first, _ = ends(processes, 128 + number)
        step = saved(tmp_path / "two")[1]
        assert f"stopped by {number.name}; saving step {step}" in first


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("victim", [0, 1])
@pytest.mark.parametrize(
    "moment", ["first step after", "resuming", "retrieval", "saving"]
)
def test_a_killed_process_is_named_and_the_restart_is_exact(
    launch, tmp_path, victim, moment
):
    flags = ("--config.train.steps=8", "--config.checkpoint.every=2")
    manifests = tmp_path / "two" / "checkpoints" / "manifests"
    ends(launch("undisturbed", 2, *flags))
    if moment == "resuming":
        shorter = launch("two", 2, *flags)
        wait_until(manifests / "4.json")
        shorter[1][0].kill()
        ends(shorter[:1], 1)
    processes = launch("two", 2, *flags)
    if moment == "retrieval":  # the one evaluation is at the end, before a save
        wait_until(manifests / "6.json")
        time.sleep(1)
    elif moment == "saving":
        wait_until(manifests.parent, "2*")
    else:
        wait_for(processes, moment)
    processes[victim][0].kill()
    begin = time.monotonic()
    left = processes[1 - victim]
    left[0].wait(60)
    if left[0].returncode:  # else it was done before
        line = error_line(left[1].read_text())
        assert left[0].returncode == 1 and f"process {victim} of 2" in line
        assert "ended without a word" in line and "Start all processes again" in line
        assert time.monotonic() - begin < 10
        record = status.read(tmp_path / "two")
        assert record and record.condition().over
        if victim:  # the first process could say why
            assert record.state == "failed" and "process 1 of 2" in record.reason
    ends(launch("two", 2, *flags))
    assert saved(tmp_path / "two") == saved(tmp_path / "undisturbed")


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("count, victim", [(2, 0), (2, 1), (4, 2)])
def test_a_stopped_process_is_named_in_time(launch, tmp_path, count, victim):
    processes = launch("many", count, *LONG, "--config.mesh.timeout=30")
    wait_for(processes, "first step after")
    os.kill(processes[victim][0].pid, signal.SIGSTOP)
    begin = time.monotonic()
    others = [pair for index, pair in enumerate(processes) if index != victim]
    for text in ends(others, 1, seconds=60):
        line = error_line(text)
        assert f"process {victim} of {count}" in line
        assert "not answered for 30 s (mesh.timeout)" in line
    assert time.monotonic() - begin < 30 + 10


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("missing", [0, 1])
def test_a_process_that_is_never_started_is_named_in_time(launch, missing):
    begin = time.monotonic()
    (pair,) = launch("two", 2, "--config.mesh.timeout=20", leave_out=[missing])
    (text,) = ends([pair], 2, seconds=120)
    assert f"process {missing} " in error_line(text)
    assert time.monotonic() - begin < 20 + 10 + 30  # the imports


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    "flag, said",
    [
        ("--config.optim.lr=0.5", "config.optim.lr is 0.0005 in process 0 and 0.5 in"),
        ("--config.seed=7", "config.seed is 0 in process 0 and 7 in process 1"),
        ("--config.model.embed_dim=8", "config.model.embed_dim is 16 in process 0"),
        ("--config.data.train.size=80", "config.data.train.size is 160 in process 0"),
    ],
)
def test_processes_that_differ_are_refused(launch, flag, said):
    first, second = launch("two", 2, own={1: [flag]})
    for process, text in [(first[0], first[1]), (second[0], second[1])]:
        process.wait(300)
        assert process.returncode in (1, 2)
        assert said in error_line(text.read_text())


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_paths_and_threads_may_differ(launch):
    ends(launch("two", 2, own={1: ["--config.data.threads=3"]}))
