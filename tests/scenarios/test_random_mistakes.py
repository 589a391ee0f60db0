"""Random mistakes in configs, flags, data and runs: each ends in one line, soon."""

import concurrent.futures
import importlib
import os
import pathlib
import random
import shlex
import signal
import subprocess
import sys
import time

import bad_inputs
import pytest

from clipjax import commandline
from run_tools import one_device, tiny, train

LIMIT = 10  # seconds of work that a mistake may take
COMMANDS = {
    name: importlib.import_module(f"clipjax.{name}")
    for name in ("train", "evaluate", "export", "prepare")
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    top = tmp_path_factory.mktemp("run")
    with one_device():
        train(tiny(evals=True, train__steps=1, train__val_batches=0), top / "run")
        yield top / "run"


def stop(*_):
    raise TimeoutError("still at work")


def called(command, argv, monkeypatch):
    """What is wrong with how a command ends; "" if it is as it should be."""
    monkeypatch.setattr(sys, "argv", [command, *argv])
    begin = time.process_time()
    signal.signal(signal.SIGALRM, stop)
    signal.alarm(12 * LIMIT)  # of a machine that has other work too
    try:
        commandline.run(COMMANDS[command].main)
    except SystemExit as error:
        status = error.code
    except BaseException as error:
        return f"raised {type(error).__name__}: {error}"[:300]
    finally:
        signal.alarm(0)
    seconds = time.process_time() - begin
    if status != 2:
        return f"status {status}"
    return f"took {seconds:.0f} s" if seconds > LIMIT else ""


def told(err):
    """What is wrong with what was printed."""
    lines = err.strip().splitlines()
    if len(lines) != 1 or not lines[0].startswith("error: "):
        return f"{len(lines)} lines: {err[-300:]!r}"
    return f"{len(lines[0])} characters" if len(lines[0]) > 1600 else ""


def wrong_ends(run, tmp_path, monkeypatch, capsys, seeds):
    found = []
    monkeypatch.setenv("CLIPJAX_CACHE", str(tmp_path / "cache"))
    for seed in seeds:
        folder = tmp_path / str(seed)
        folder.mkdir()
        monkeypatch.chdir(folder)
        command, argv = bad_inputs.case(random.Random(seed), folder, run)
        capsys.readouterr()
        problem = called(command, argv, monkeypatch)
        problem = problem or told(capsys.readouterr().err)
        if problem:
            found.append(
                f"{seed}: {problem}: {command} {shlex.join(map(str, argv))[:300]}"
            )
    return found


@pytest.mark.thorough
def test_random_mistakes_are_one_line(run, tmp_path, monkeypatch, capsys):
    found = wrong_ends(run, tmp_path, monkeypatch, capsys, range(200))
    assert not found, "\n".join(found)


@pytest.mark.slow
def test_many_random_mistakes_are_one_line(run, tmp_path, monkeypatch, capsys):
    found = wrong_ends(run, tmp_path, monkeypatch, capsys, range(200, 1200))
    assert not found, "\n".join(found)


@pytest.mark.thorough
def test_random_mistakes_as_processes(run, tmp_path):
    def process(seed):
        folder = tmp_path / str(seed)
        folder.mkdir()
        command, argv = bad_inputs.case(random.Random(seed), folder, run)
        line = [sys.executable, "-m", f"clipjax.{command}", *map(str, argv)]
        tests = pathlib.Path(__file__).parents[1]
        environ = os.environ | {"PYTHONPATH": f"{tests.parent}:{tests}"}
        environ |= {"CLIPJAX_CACHE": str(tmp_path / "cache")}
        done = subprocess.run(
            line, capture_output=True, cwd=folder, env=environ, timeout=300
        )
        err = done.stderr.decode(errors="replace")
        problem = told(err) if done.returncode == 2 else f"status {done.returncode}"
        return problem and f"{seed}: {problem}: {shlex.join(line)[:300]}: {err[-300:]}"

    seeds = range(0, 200, 20)
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        found = [problem for problem in pool.map(process, seeds) if problem]
    assert not found, "\n".join(found)
