"""A run says what it does while it lives, and how it ended; it never ends of that."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
from marks import mostly

from clipjax.engine import step_log
from clipjax.engine.checkpoint.saves import Checkpoints
from clipjax.run_record import energy, heartbeat, status
from clipjax.run_record.heartbeat import Heartbeat, Warnings
from clipjax.types import UserError
from run_tools import ROOT, stop_at, tiny, train

pytestmark = pytest.mark.usefixtures("on_one_device")


def keep_beats(patch):
    """A list of what the runs write from now on, in turn."""
    written = []
    write = status.write

    def keep(workdir, one, **options):
        write(workdir, one, **options)
        written.append(one)

    patch.setattr(status, "write", keep)
    patch.setattr(heartbeat, "EVERY", 0.01)
    return written


@pytest.fixture
def beats(monkeypatch):
    return keep_beats(monkeypatch)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run's folder, when it began, and its beats from its start to its end."""
    workdir = tmp_path_factory.mktemp("complete")
    with pytest.MonkeyPatch.context() as patch:
        written, began = keep_beats(patch), time.time()
        train(tiny(), workdir)
    return workdir, began, written


@pytest.fixture
def complete(whole):
    """A run that has ended."""
    return whole[0]


@pytest.fixture
def copy(complete, tmp_path):
    return shutil.copytree(complete, tmp_path / "copy")


@pytest.mark.thorough
def test_an_evaluation_is_said(tmp_path, beats):
    train(tiny(evals=True, train__eval_every=4), tmp_path)
    activities = " | ".join(dict.fromkeys(one.activity for one in beats))
    assert "evaluating step 4: validation loss" in activities
    assert "evaluating step 8: retrieval" in activities


def test_a_run_from_its_start_to_its_end(whole):
    workdir, began, beats = whole
    assert {one.state for one in beats[:-1]} == {"running"}
    activities = " | ".join(dict.fromkeys(one.activity for one in beats))
    for word in ("first state", "compiling the training step", "training", "saving"):
        assert word in activities
    steps = [one.step for one in beats]
    assert steps == sorted(steps) and (steps[0], steps[-1]) == (0, 8)
    assert any(one.seconds_left for one in beats)
    last = status.read(workdir)
    assert last == beats[-1] and last is not None
    assert (last.state, last.reason, last.activity) == ("finished", "", "")
    assert (last.total_steps, last.processes, last.pid) == (8, 1, os.getpid())
    assert began <= last.started <= last.beat <= time.time()
    files = [p for p in (workdir / "checkpoints" / "8").rglob("*") if p.is_file()]
    assert (last.save_step, last.save_size) == (8, sum(p.stat().st_size for p in files))
    first_size = beats[0].next_size
    assert first_size and last.save_size and first_size < last.save_size < 2**20
    assert last.disk_free and last.memory and last.memory > 2**26 and last.cpus
    assert (last.gpus, last.device_memory, last.seconds_left) == (None, None, None)
    assert not list(workdir.glob("*.tmp"))


@pytest.mark.thorough
def test_stopped_resumed_and_complete(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        stop_at(patch, 5)
        train(tiny(), tmp_path)
    first = status.read(tmp_path)
    assert first and (first.state, first.reason) == ("stopped", "SIGTERM")
    assert (first.step, first.save_step) == (5, 5)
    train(tiny(), tmp_path)
    second = status.read(tmp_path)
    assert second and (second.state, second.step) == ("finished", 8)
    assert second.started > first.beat


def test_nothing_left_to_do(copy):
    before = status.read(copy)
    train(tiny(), copy)
    after = status.read(copy)
    assert before and after and after.started > before.beat
    assert (after.state, after.step, after.save_step) == ("finished", 8, 8)


@pytest.mark.thorough
def test_a_second_interrupt(tmp_path, monkeypatch):
    stop_at(monkeypatch, 5, signal.SIGINT)

    def interrupt(*_, **__):
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Checkpoints, "save", interrupt)
    with pytest.raises(KeyboardInterrupt):
        train(tiny(checkpoint__every=0), tmp_path)
    last = status.read(tmp_path)
    assert last and (last.state, last.reason) == ("stopped", "SIGINT")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (UserError("the disk\nis full"), "the disk is full"),
        pytest.param(
            *(ZeroDivisionError("by 0"), "ZeroDivisionError: by 0"),
            marks=pytest.mark.thorough,
        ),
    ],
)
def test_an_error(tmp_path, monkeypatch, error, reason):
    def fail(*_):
        raise error

    monkeypatch.setattr(step_log.StepLog, "_write", fail)
    with pytest.raises(type(error)):
        train(tiny(), tmp_path)
    last = status.read(tmp_path)
    assert last and last.state == "failed" and reason in last.reason
    assert last.step == 3 and last.total_steps == 8


@pytest.mark.thorough
def test_warnings_are_kept(tmp_path):
    changes = {"data__train__nth": 10, "log__every": 1}
    said = train(tiny("data=parts.faulty_source", **changes), tmp_path)
    last = status.read(tmp_path)
    assert last and last.warnings_total == len(last.warnings) > 0
    for warned in last.warnings:
        assert warned.text.startswith("warning: replaced a broken example")
        assert warned.text in said and last.started <= warned.time <= last.beat


def test_the_last_fifty_warnings():
    warnings = Warnings()
    for number in range(60):
        warnings.add(str(number))
    assert [one.text for one in warnings.last] == [str(x) for x in range(10, 60)]
    assert warnings.total == 60


@pytest.mark.thorough
@pytest.mark.parametrize(
    "number", mostly([errno.ENOSPC, errno.EROFS, errno.EIO], [errno.ENOSPC])
)
def test_a_folder_that_cannot_be_written_stops_nothing(
    tmp_path, beats, monkeypatch, number
):
    write = status.write

    def fail_in_the_middle(workdir, one, **options):
        if one.state == "running" and one.step in (1, 2, 3, 4, 5):
            raise OSError(number, os.strerror(number), "status.json")
        write(workdir, one, **options)

    monkeypatch.setattr(status, "write", fail_in_the_middle)
    said = train(tiny(), tmp_path)
    assert said.outcome.step == 8
    assert said.count("warning: others cannot see what this run does: status.json") == 1
    last = status.read(tmp_path)
    assert last and (last.state, last.warnings_total) == ("finished", 1)


@pytest.mark.thorough
def test_a_folder_in_the_way_of_the_file(tmp_path):
    (tmp_path / "status.json" / "in").mkdir(parents=True)
    said = train(tiny(), tmp_path)
    assert said.outcome.step == 8 and said.count("others cannot see") == 1


LOCKER = """
import fcntl, sys, time
file = open(sys.argv[1], "w")
fcntl.lockf(file, fcntl.LOCK_EX)
print("locked", flush=True)
time.sleep(60)
"""


def test_a_start_that_is_refused_leaves_the_file(copy):
    before = (copy / "status.json").read_bytes()
    with pytest.raises(UserError, match="another config"):
        train(tiny(seed=5), copy)
    command = [sys.executable, "-c", LOCKER, str(copy / "checkpoints" / ".lock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout and process.stdout.readline()
        with pytest.raises(UserError, match="another process"):
            train(tiny(), copy)
        process.kill()
    assert (copy / "status.json").read_bytes() == before


def beating(folder, **options):
    parts = {"warnings": Warnings(), "doing": lambda: ("", 0.0), "warn": print}
    return Heartbeat(folder, 10, **{**parts, **options})


def test_other_processes_write_nothing(tmp_path):
    with beating(tmp_path, writes=False) as record:
        record.fail_now("why")
    assert not list(tmp_path.iterdir())


def test_energy_of_all_starts(tmp_path, monkeypatch):
    counter = tmp_path / "powercap" / "intel-rapl:0"
    counter.mkdir(parents=True)
    (counter / "name").write_text("package-0")
    (counter / "max_energy_range_uj").write_text("1000000000")
    monkeypatch.setattr(energy, "POWERCAP", counter.parent)
    monkeypatch.setattr(heartbeat, "EVERY", 1e6)
    for joules, total in ((2, 2.0), (3, 5.0)):
        (counter / "energy_uj").write_text("7")
        with beating(tmp_path) as record:
            (counter / "energy_uj").write_text(f"{joules}000007")
            record.ended()
        last = status.read(tmp_path)
        assert last and last.energy and last.energy["processors"] == total
    (tmp_path / "status.json").write_text("{")
    with beating(tmp_path) as record:
        record.ended()
    last = status.read(tmp_path)
    assert last and last.energy and last.energy["processors"] == 0.0


def test_an_end_in_another_thread_is_the_last_word(tmp_path):
    with beating(tmp_path) as record:
        record.fail_now("process 1 of 2 ended without a word")
        record.ended()
    last = status.read(tmp_path)
    assert last and last.state == "failed" and "process 1" in last.reason


SLEEPER = """
import pathlib, sys, time
from clipjax.run_record.heartbeat import Heartbeat, Warnings
doing = lambda: ("sleeping", 5.0)
folder = pathlib.Path(sys.argv[1])
with Heartbeat(folder, 9, warnings=Warnings(), doing=doing, warn=print):
    print("here", flush=True)
    time.sleep(60)
"""


def test_a_kill_and_the_next_start(tmp_path):
    command = [sys.executable, "-c", SLEEPER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout and process.stdout.readline()
        alive = status.read(tmp_path)
        assert alive and alive.condition().word == "running"
        assert (alive.pid, alive.activity) == (process.pid, "sleeping")
        process.kill()
    left = tmp_path / f"status.json.{alive.host}-{process.pid}-7.tmp"
    left.write_text("{")  # it was killed while it wrote
    dead = status.read(tmp_path)
    assert dead and dead.condition() == ("dead", dead.beat)
    with beating(tmp_path) as record:
        assert not left.exists()
        record.ended()
    over = status.read(tmp_path)
    assert over and over.condition().word == "finished"


@pytest.mark.thorough
def test_a_killed_command(tmp_path):
    command = [*(sys.executable, "-m", "clipjax.train"), f"--workdir={tmp_path}"]
    command += ["--config", "tests/config_tiny.py", "--config.train.steps=100000"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL) as process:
        limit = time.monotonic() + 120
        found = None
        while not (found and found.save_step):
            assert process.poll() is None and time.monotonic() < limit
            time.sleep(0.1)
            found = status.read(tmp_path)
        assert found.condition().word == "running"
        process.kill()
    found = status.read(tmp_path)
    assert found and found.condition().word == "dead"
