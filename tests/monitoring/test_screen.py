"""Snapshots as text: in full, as a table, as a line."""

import io
import re
import time

import pytest
from monitor_tools import beating, log, say
from rich.console import Console

from clipjax.monitoring import screen
from clipjax.monitoring.snapshot import Watched
from clipjax.run_record.status import Warned


def full(folder, width=160, metrics=(), **options):
    options = {"file": io.StringIO(), "width": width, "highlight": False, **options}
    console = Console(**options)
    console.print(screen.one_run(Watched(folder).look(), console, metrics))
    return console.file.getvalue()


def test_a_live_run_in_full(tmp_path):
    accuracy = {"train/image_to_text_accuracy": 0.25, "train/uninformed_loss": 4.0}
    pace = {"time/images_per_second": 1234.0, "time/data_wait_share": 0.07}
    with beating(tmp_path / "run"):
        losses = [3 - step / 20 for step in range(40)]
        log(tmp_path / "run", *losses, **accuracy, **pace)
        text = full(tmp_path / "run")
    head, *lines = text.splitlines()
    assert head.startswith(f"{tmp_path / 'run'}  running for 0:0")
    assert "evaluating step 40: retrieval" in head and "pid" in head
    assert lines[0].startswith("step 40/100  ") and " 40.0%  left 10:00, " in lines[0]
    assert lines[1] == (
        "loss 1.05 (chance 4)  in-batch accuracy 25.0%  1,234 images/s  data wait 7%"
    )
    for name in ("train/loss", "train/image_to_text_accuracy", "time/images_per_s"):
        assert name in text
    assert re.search(r"(CPU \d+ % of \d+ cores  )?memory [\d.]+ MB, the machine", text)
    assert re.search(r"disk [\d.]+ [GTM]B free\n", text)
    assert "warnings: 1\n" in text
    # A text from elsewhere neither styles nor steers the terminal.
    assert re.search(r"  \d\d:\d\d:\d\d  warning: replaced .*, 7: \[red\]no", text)
    assert "\x1b" not in text and "?[2J" in text
    assert all(len(line) <= 160 for line in text.splitlines())


def test_gpus_and_arrays(tmp_path):
    gpu = {"name": "NVIDIA H100", "memory": 52e9, "memory_total": 80e9}
    gpu |= {"utilisation": 81, "temperature": 61, "power": 412.3}
    none = dict.fromkeys(gpu)
    arrays = {"in_use": 2**30, "peak": 2**31, "limit": 60e9}
    say(tmp_path, gpus=[gpu, none], device_memory=arrays, step=4)
    text = full(tmp_path)
    assert "GPU 0 NVIDIA H100  81 %  52 GB of 80 GB  61 °C  412 W\n" in text
    assert "arrays on devices 1.07 GB, at most 2.15 GB of 60 GB\n" in text
    assert "GPU 1" in text and "None" not in text


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"state": "finished"}, "finished 2:00 ago"),
        ({"state": "finished", "reason": "m is 1"}, "finished 2:00 ago: m is 1"),
        ({"state": "stopped", "reason": "SIGTERM"}, "stopped 2:00 ago by SIGTERM"),
        ({"state": "failed", "reason": "no room"}, "failed 2:00 ago: no room"),
        ({"pid": 2**30}, r"dead since [\d:]+ \(2:00 ago\): it ended without a word"),
        ({}, r"silent since [\d:]+ \(2:00 ago\)"),
    ],
)
def test_how_a_run_ended(tmp_path, changes, words):
    say(tmp_path, beat=time.time() - 120, cpu_percent=50.0, save_step=7, **changes)
    log(tmp_path, 1.0)
    text, line = full(tmp_path), screen.line(Watched(tmp_path).look())
    assert re.search(words, text) and re.search(words, line)
    assert "last one was at step 7" in text
    assert ("CPU" in text) == ("silent" in words)  # measured before it ended
    assert "images/s" not in text.splitlines()[2]


def test_the_curves_that_are_asked_for(tmp_path):
    say(tmp_path)
    log(tmp_path, 1.0, 2.0, **{"eval/primary": 0.5, "eval/val_loss": 1.5})
    assert "eval/primary" in full(tmp_path)
    text = full(tmp_path, metrics=["eval/val_loss", "nothing"])
    assert "eval/val_loss" in text and "no numbers yet" in text
    assert "train/loss" not in text


@pytest.mark.parametrize(("width", "height"), [(40, 12), (80, 24), (250, 70)])
def test_a_terminal_of_any_size(tmp_path, width, height):
    say(tmp_path, warnings=[Warned(5.0, "warning: old")], warnings_total=9)
    log(tmp_path, *range(50), **{"eval/primary": 0.5, "time/images_per_second": 9.0})
    text = full(tmp_path, width=width, height=height, force_terminal=True)
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    assert all(len(line) <= width for line in plain.splitlines())
    assert "train/loss" in plain and "1970-01-0" in plain and "warnings: 9" in plain


def test_ascii(tmp_path):
    say(tmp_path)
    log(tmp_path, 1.0, 2.0)
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    full_text = Console(file=stream, width=80)
    full_text.print(screen.one_run(Watched(tmp_path).look(), full_text))
    stream.flush()
    assert b"*" in stream.buffer.getvalue()


def test_several_runs_in_one_table(tmp_path):
    say(tmp_path / "a", step=50, seconds_left=90.0, cpu_percent=150.0, memory=2 * 10**9)
    say(tmp_path / "b", step=100, state="finished", warnings_total=3)
    (tmp_path / "c").mkdir()
    log(tmp_path / "a", 0.51234, **{"time/images_per_second": 99.5})
    log(tmp_path / "b", 250.0, **{"time/images_per_second": 99.5})
    console = Console(file=io.StringIO(), width=400)
    names = [tmp_path / name for name in "abc"]
    console.print(screen.table([Watched(name).look() for name in names]))
    head, a, b, c = console.file.getvalue().splitlines()
    words = "run state step left loss images/s CPU memory disk warnings"
    assert head.split() == words.split()
    assert a.split()[1:8] == ["running", "50/100", "1:30", "0.5123", "99.5", "150", "%"]
    assert b.split()[1:4] == ["finished", "100/100", "250"] and b.split()[-1] == "3"
    assert c.split()[1] == "empty"
