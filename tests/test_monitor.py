"""`clipjax.monitor`: what it prints, that it only looks, and what it costs."""

import fcntl
import json
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
import threading
import time

import pytest
from monitor_tools import beating, log, say

from clipjax import monitor
from clipjax.types import UserError
from run_tools import ROOT, tiny, train


def called(capsys, *argv):
    status = monitor.main(["monitor", *map(str, argv)])
    return status, capsys.readouterr().out


@pytest.mark.thorough
@pytest.mark.usefixtures("on_one_device")
def test_a_run_of_the_trainer(tmp_path, capsys):
    train(tiny(evals=True, train__eval_every=4), tmp_path)
    status, out = called(capsys, tmp_path, "--once")
    assert status == 0 and "finished 0:0" in out and "step 8/8" in out
    assert "train/loss" in out and "eval/primary" in out
    assert "evaluations/8\n  retrieval mean_recall@1" in out
    status, out = called(capsys, tmp_path, "--json")
    (run,) = json.loads(out)["runs"]
    assert status == 0 and run["condition"] == "finished"
    assert (run["step"], run["total_steps"], run["save_step"]) == (8, 8, 8)
    assert run["numbers"]["train/loss"] > 0 and run["evaluations"][0]["step"] == 8
    assert run["disk_free"] > 0 and run["save_size"] > 1000


@pytest.mark.thorough
@pytest.mark.usefixtures("on_one_device")
def test_a_run_without_evaluations(tmp_path, capsys):
    train(tiny(), tmp_path)
    status, out = called(capsys, tmp_path, "--once")
    assert status == 0 and "finished 0:0" in out and "step 8/8" in out
    assert "loss" in out and "the last one was at step 8" in out
    (run,) = json.loads(called(capsys, tmp_path, "--json")[1])["runs"]
    assert (run["condition"], run["save_step"]) == ("finished", 8)


def test_several_runs(tmp_path, capsys):
    say(tmp_path / "a", state="finished")
    say(tmp_path / "b", state="failed", reason="no room")
    status, out = called(capsys, tmp_path, "--once")
    assert status == 1 and len(out.splitlines()) == 3
    status, out = called(capsys, tmp_path / "a", tmp_path / "b", "--json")
    runs = json.loads(out)["runs"]
    assert [run["condition"] for run in runs] == ["finished", "failed"]
    assert runs[1]["reason"] == "no room" and status == 1


def test_flags_with_a_space_before_their_value(tmp_path, capsys):
    say(tmp_path)
    log(tmp_path, *range(1, 9), **{"train/accuracy": 0.5})
    flags = ("--every", "5", "--metrics", "train/loss", "--once")
    status, out = called(capsys, tmp_path, *flags)
    assert status == 0 and "train/loss" in out and "train/accuracy" not in out
    _, out = called(capsys, tmp_path, "--metrics=train/los,nothing", "--once")
    assert "'train/los'. Did you mean 'train/loss'?" in out
    assert "no number is named 'nothing'. --json lists all" in out


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ([], "no run is named"),
        (["nowhere"], "nowhere is no folder"),
        (["nowhere", "--every=0"], "--every=0"),
        (["nowhere", "--evry=3"], "Did you mean 'every'"),
    ],
)
def test_mistakes(argv, words):
    with pytest.raises(UserError, match=words):
        monitor.main(["monitor", *argv])


def test_lines_in_a_pipe_until_the_end(tmp_path, capsys):
    with beating(tmp_path / "run") as process:
        log(tmp_path / "run", 2.0)

        def go_on():
            time.sleep(0.5)
            log(tmp_path / "run", 1.5, start=1)
            time.sleep(1.2)
            process.communicate("0\n")

        other = threading.Thread(target=go_on)
        other.start()
        status, out = called(capsys, tmp_path / "run", "--every=1")
        other.join()
    lines = out.splitlines()
    assert status == 0 and 2 <= len(lines) <= 4
    assert "running" in lines[0] and "step 40/100  loss 2" in lines[0]
    assert "finished" in lines[-1] and "loss 1.5" in lines[-1]


SPY = """
import os, sys
folder, written = sys.argv[1], []
def spy(event, arguments):
    if event == "open" and str(arguments[0]).startswith(folder):
        if arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            written.append(arguments[0])
    if event in ("os.mkdir", "os.remove", "os.rename", "os.truncate", "os.utime"):
        written.append(arguments[0])
sys.addaudithook(spy)
from clipjax import monitor
for flag in ("--once", "--json"):
    monitor.main(["monitor", folder, flag])
print(written, [name for name in ("jax", "flax", "orbax") if name in sys.modules])
"""


def test_it_only_reads_and_imports_no_jax(tmp_path):
    say(tmp_path, step=3)
    log(tmp_path, 1.0, 0.5)
    command = [sys.executable, "-c", SPY, str(tmp_path)]
    printed = subprocess.run(command, capture_output=True, text=True, check=True)
    assert printed.stdout.splitlines()[-1] == "[] []"
    assert "train/loss" in printed.stdout


def on_terminal(argv, seconds, size=(40, 120)):
    """Runs the monitor on a terminal of its own and interrupts it: its status, its CPU
    seconds, and the bytes it wrote."""
    terminal, its_end = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", *size, 0, 0))
    # Processes of a job in the background ignore SIGINT, and so do their children.
    begin = (
        "import runpy; from signal import *; signal(SIGINT, default_int_handler);"
        "runpy.run_module('clipjax.monitor', run_name='__main__', alter_sys=True)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", begin, *argv],
        **dict.fromkeys(("stdin", "stdout", "stderr"), its_end),
        cwd=ROOT,
    )
    os.close(its_end)
    written = []

    def read():
        while True:
            try:
                written.append(os.read(terminal, 65536))
            except OSError:
                return

    reader = threading.Thread(target=read)
    reader.start()
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    reader.join()
    os.close(terminal)
    return process.returncode, used.ru_utime + used.ru_stime, b"".join(written)


@pytest.mark.thorough
def test_a_terminal(tmp_path):
    say(tmp_path, step=3)
    log(tmp_path, *range(30))
    status, _, written = on_terminal([str(tmp_path), "--every=1"], 8)
    assert status == 0 and written.count(b"train/loss") >= 3
    entered, left = written.index(b"\x1b[?1049h"), written.index(b"\x1b[?1049l")
    assert entered < left < written.rindex(b"train/loss")  # the last view stays


@pytest.mark.slow
def test_it_costs_little_for_a_long_run(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    names = [f"train/{i}" for i in range(24)]
    with (folder / "metrics.jsonl").open("w") as file:
        for step in range(100_000):
            row = {"step": step, "time": 1.0 * step, "train/loss": 9 / (1 + step)}
            file.write(json.dumps({**row, **{name: step / 7 for name in names}}) + "\n")
    with beating(folder):
        status, spent, written = on_terminal([str(folder)], 60)
    assert status == 0 and b"step 99,999" in written
    assert written.count(b"train/loss") > 20
    assert spent < 0.02 * 60, spent  # its start and first look included


@pytest.mark.thorough
def test_a_killed_command_is_seen_at_once(tmp_path, capsys):
    folder = tmp_path / "run"
    command = [*(sys.executable, "-m", "clipjax.train"), f"--workdir={folder}"]
    command += ["--config", "tests/config_tiny.py", "--config.train.steps=100000"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL) as process:
        limit = time.monotonic() + 120
        while not (folder / "metrics.jsonl").exists():
            assert process.poll() is None and time.monotonic() < limit
            time.sleep(0.1)
        assert called(capsys, folder, "--once")[0] == 0
        process.kill()
    status, out = called(capsys, folder, "--once")
    assert status == 1 and "dead since" in out
