"""Two processes on one machine train as one does, and stop together."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from run_tools import ROOT, rows, saved

STEPS = 6


def start(folder, name, count, index, port, *flags):
    env = {key: value for key, value in os.environ.items() if key != "XLA_FLAGS"}
    env.update(JAX_PLATFORMS="cpu", CLIPJAX_CACHE=str(folder / "cache"))
    if count > 1:
        env.update(
            JAX_COORDINATOR_ADDRESS=f"localhost:{port}",
            JAX_NUM_PROCESSES=str(count),
            JAX_PROCESS_ID=str(index),
        )
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "clipjax.train"),
            *("--config", "tests/config_tiny.py:data=parts.faulty_source"),
            f"--workdir={folder / name}",
            f"--config.train.steps={STEPS}",
            "--config.data.train.nth=10",
            "--config.log.every=1",
            *flags,
        ],
        cwd=ROOT,
        env={**env, "PYTHONPATH": str(ROOT / "tests")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.fixture
def launch(tmp_path):
    made = []

    def run(name, count, *flags):
        with socket.socket() as probe:
            probe.bind(("localhost", 0))
            port = probe.getsockname()[1]
        new = [start(tmp_path, name, count, i, port, *flags) for i in range(count)]
        made.extend(new)
        return new

    yield run
    for process in made:
        if process.poll() is None:
            process.kill()
        process.communicate()


def ends(processes, status=0):
    said = [process.communicate(timeout=600)[0] for process in processes]
    for process, text in zip(processes, said, strict=True):
        assert process.returncode == status, text
    return said


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
    longer = f"--config.train.steps={STEPS + 2}"
    (text,) = ends(launch("two", 1, longer, "--extend"))
    assert f"from step {STEPS} of {STEPS + 2}" in text
    assert "processes was 2 and is 1" in text


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_signal_to_one_process_stops_both(launch, tmp_path):
    flags = ("--config.train.steps=100000", "--config.checkpoint.every=100000")
    processes = launch("two", 2, *flags)
    metrics = tmp_path / "two" / "metrics.jsonl"
    limit = time.monotonic() + 600
    while not metrics.exists() or metrics.stat().st_size == 0:
        assert time.monotonic() < limit and processes[0].poll() is None
        time.sleep(0.1)
    processes[1].send_signal(signal.SIGTERM)
    first, _ = ends(processes, 128 + signal.SIGTERM)
    assert "stopped by SIGTERM; saving step" in first
    assert f"saving step {saved(tmp_path / 'two')[1]}" in first
