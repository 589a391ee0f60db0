"""Processes that meet, exchange texts, and name the one that is gone. Without jax."""

from __future__ import annotations

import pathlib
import signal
import socket
import subprocess
import sys
import time

import pytest
from marks import mostly
from port_tools import free_port

ROOT = pathlib.Path(__file__).parents[1]
# What each process does when it is told to go on: it meets the others, then what its
# argument says.
PROCESS = """
import sys, time
from clipjax import peers
from clipjax.pulse import pulse
from clipjax.types import UserError
port, index, count, timeout, act = sys.argv[1:]
print("up", flush=True)
sys.stdin.readline()
try:
    group = peers.join(("127.0.0.1", int(port)), int(index), int(count), float(timeout))
except UserError as error:
    print("refused:", error, flush=True)
    sys.exit(2)
group.last_saved = lambda: "the last step saved is 12"
print("met", group.gather(f"text {index}" * 1000)[-1][:6], flush=True)
if act == "fail":
    group.fail("the disk is full", 2)
if act == "agreed":  # an error that all raise at once, one of them slowly
    group.claim_ending()
    print("they differ", file=sys.stderr, flush=True)
    time.sleep(1 + int(index))
    group.fail("they differ", 2)
if act == "busy":  # in a wait that has a timeout of its own
    with pulse.pause():
        time.sleep(9)
if act == "work":  # a long computation of the host's
    with pulse.working():
        end = time.monotonic() + 9
        while time.monotonic() < end:
            sum(range(1000))
if act == "steps":
    for step in range(1000):
        pulse.beat(step)
        time.sleep(0.1)
if act == "behind":
    pulse.beat(3)
    time.sleep(100)
if act == "ahead":
    pulse.beat(4)
if act == "end":
    sys.exit(3)
group.gather("")
group.finish()
print("finished", flush=True)
"""


@pytest.fixture
def launch():
    """Starts a process that is ready to meet the others."""
    made = []

    def run(port, index, count, timeout, act):
        words = map(str, [port, index, count, timeout, act])
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        command = [sys.executable, "-c", PROCESS, *words]
        made.append(subprocess.Popen(command, cwd=ROOT, text=True, **pipes))
        return made[-1]

    yield run
    for process in made:
        process.send_signal(signal.SIGCONT)
        process.kill()
        process.communicate()


@pytest.fixture
def start(launch):
    """Starts those of a run, of which `None` is left out."""

    def run(*acts, timeout=300.0):
        port = free_port()
        made = [
            launch(port, index, len(acts), timeout, act)
            for index, act in enumerate(acts)
            if act is not None
        ]
        let_meet(*made)
        return made

    return run


def let_meet(*processes):
    """Timeouts count from here on, not from the first of several interpreters."""
    for process in processes:
        assert process.stdout.readline() == "up\n"
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()


def ends(process, status, seconds=60):
    said, errors = process.communicate(timeout=seconds)
    assert process.returncode == status, (process.returncode, said, errors)
    return said, errors


def test_all_meet_exchange_and_end_together(start):
    for process in start("", "", "", "", timeout=0):
        said, errors = ends(process, 0)
        assert said.split("\n")[:2] == ["met text 3", "finished"] and errors == ""


@pytest.mark.parametrize("victim", mostly([0, 2], [0]))
def test_a_killed_process_is_named_by_all_others(start, victim):
    processes = start("behind", "behind", "behind", timeout=300)
    for process in processes:
        assert process.stdout.readline() == "met text 2\n"
    processes[victim].kill()
    for index, process in enumerate(processes):
        if index != victim:
            _, errors = ends(process, 1)
            (line,) = errors.splitlines()
            assert line.startswith(f"error: process {victim} of 3 (")
            assert f"pid {processes[victim].pid}) ended without a word" in line
            assert "the last step saved is 12. Start all processes again" in line


@pytest.mark.thorough
@pytest.mark.parametrize("victim", [0, 1])
def test_a_stopped_process_is_named_in_time(start, victim):
    processes = start("steps", "steps", "steps", timeout=8)
    for process in processes:
        process.stdout.readline()
    processes[victim].send_signal(signal.SIGSTOP)
    for index, process in enumerate(processes):
        if index != victim:
            _, errors = ends(process, 1)
            (line,) = errors.splitlines()
            name = f"process {victim} of 3 ({socket.gethostname()}"
            assert name in line and "not answered for 8 s (mesh.timeout)" in line


@pytest.mark.thorough
def test_the_process_that_lags_is_named(start):
    for process in start("ahead", "behind", "ahead", timeout=5):
        _, errors = ends(process, 1)
        (line,) = errors.splitlines()
        assert "process 1 of 3 (" in line and "no progress for 5 s" in line
        assert "at step 3" in line


@pytest.mark.thorough
def test_if_none_moves_none_is_blamed(start):
    for process in start("behind", "behind", timeout=5):
        _, errors = ends(process, 1)
        assert "none of the 2 processes has made progress for 5 s" in errors


@pytest.mark.thorough
@pytest.mark.parametrize("act", ["busy", "work"])
def test_who_works_or_waits_with_a_timeout_is_waited_for(start, act):
    for process in start("", act, timeout=4):
        assert "finished" in ends(process, 0)[0]


def test_a_failure_is_told_to_all(start):
    for index, process in enumerate(start("behind", "fail", "behind")):
        _, errors = ends(process, 2 if index == 1 else 1)
        if index != 1:
            (line,) = errors.splitlines()
            assert "process 1 of 3 (" in line and "ended: the disk is full;" in line


def test_an_error_of_all_is_one_line_each(start):
    for process in start("agreed", "agreed"):
        assert ends(process, 2)[1] == "they differ\n"


def test_a_process_that_leaves_early_is_named(start):
    first, second = start("", "end")
    ends(second, 3)
    assert "process 1 of 2" in ends(first, 1)[1]


@pytest.mark.parametrize("missing", mostly([0, 2], [2]))
def test_a_process_that_never_comes_is_named_in_time(start, missing):
    acts = ["", "", ""]
    acts[missing] = None
    for process in start(*acts, timeout=2):
        said, _ = ends(process, 2)
        assert said.startswith("refused: process ") and "2 s (mesh.timeout)" in said
        assert f"process {missing} " in said


def test_counts_that_differ_are_refused(launch):
    port = free_port()
    made = launch(port, 0, 2, 60, ""), launch(port, 1, 3, 60, "")
    let_meet(*made)
    for process in made:
        said, _ = ends(process, 2, 100)
        assert "connected as process 1 of 3: processes 0 to 1 of 2 must connect" in said


def test_who_is_no_process_of_the_run_is_not_let_in(launch):
    port = free_port()
    first, second = (launch(port, index, 2, 60, "") for index in range(2))
    let_meet(first)
    for _ in range(500):
        try:
            with socket.create_connection(("localhost", port)) as stray:
                stray.sendall(b"GET / HTTP/1.1\r\n\r\n")
            break
        except OSError:
            time.sleep(0.1)
    let_meet(second)
    for process in (first, second):
        assert "finished" in ends(process, 0, 100)[0]
