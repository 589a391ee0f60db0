"""What takes time is shown: a line that moves, or plain lines ever more rarely."""

import io
import re
import time

import numpy as np
import pytest
from rich.console import Console

from clipjax.engine import activity
from clipjax.engine.activity import Activity, Task, duration
from clipjax.engine.progress import Progress


def lines_of(task, seconds):
    """The seconds at which a plain line of the task would be printed."""
    task.began = 0.0  # whole seconds from here on are exact
    return [now for now in range(seconds) if task.due(task.began + now)]


def wait_for(condition, stream):
    """Until what is shown meets it; a busy machine shows it late."""
    end = time.monotonic() + 100
    while not condition(screen(stream)):
        assert time.monotonic() < end, screen(stream)
        time.sleep(0.05)


def test_plain_lines_begin_after_two_seconds_and_grow_rare():
    shown = lines_of(Task("compiling"), 1000)
    assert shown[:3] == [2, 7, 14]
    gaps = np.diff(shown)
    assert (np.diff(gaps) >= 0).all() and gaps[-1] == 60
    steps = lines_of(Progress(Activity(Console(quiet=True)), 9, 0, 4), 1000)
    assert steps[:3] == [2, 7, 12] and len(steps) > 3 * len(shown)


def test_the_last_line_of_steps_comes_once():
    progress = Progress(Activity(Console(file=io.StringIO())), 9, 0, 4)
    progress.show(9, {"train/loss": 1.0, "train/bad_total": 0.0}, final=True)
    assert lines_of(progress, 100) == []


def test_what_is_quick_prints_nothing(monkeypatch):
    monkeypatch.setattr(Task, "first", 100.0)  # which nothing is on any machine
    stream = io.StringIO()
    with Activity(Console(file=stream)) as shown, shown.doing("reading"):
        time.sleep(0.05)
    assert stream.getvalue() == ""


def test_what_is_slow_is_told_in_a_pipe(monkeypatch):
    monkeypatch.setattr(Task, "first", 0.2)
    stream = io.StringIO()
    with Activity(Console(file=stream)) as shown:
        with shown.doing("evaluating step 3") as task:
            task.part("[retrieval]")(128, 5000)
            wait_for(lambda text: text, stream)
    text = stream.getvalue()
    assert re.fullmatch(r"evaluating step 3: \[retrieval\] 128/5,000  0:\d\d\n", text)


def screen(stream):
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", stream.getvalue())


def test_the_line_of_a_terminal_moves_between_logged_steps(monkeypatch):
    """The step is that which runs; the numbers are those of the last logged one."""
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=200)
    values = {
        "train/loss": 2.5,
        "train/uninformed_loss": 2.7726,
        "train/bad_total": 0.0,
        "train/image_to_text_accuracy": 0.25,
        "train/text_to_image_accuracy": 0.125,
    }
    said = "loss 2.5000 (chance 2.7726)  in-batch accuracy 18.8% (chance 6.2%)"
    with Activity(console) as shown:
        progress = Progress(shown, 300, 0, 16)
        with shown.doing(progress):
            progress.show(10, values)
            progress.at(13)
            wait_for(lambda text: f"step  13/300  {said}" in text, stream)
            progress.at(14)
            wait_for(lambda text: f"step  14/300  {said}" in text, stream)
            # And so does the time.
            moves = re.compile(r"left \S+  (\d:\d\d)")
            wait_for(lambda text: len(set(moves.findall(text))) > 1, stream)
            with shown.doing("saving step 14"):
                wait_for(lambda text: "saving step 14" in text, stream)


def test_tasks_within_tasks():
    stream = io.StringIO()
    with Activity(Console(file=stream, force_terminal=True)) as shown:
        with shown.doing("outer"):
            with pytest.raises(KeyError), shown.doing("inner"):
                wait_for(lambda text: "inner" in text, stream)
                raise KeyError
            wait_for(lambda text: text.rfind("outer") > text.rfind("inner"), stream)
    text = stream.getvalue()
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")  # the cursor is back


def test_a_quiet_console_shows_nothing(monkeypatch):
    monkeypatch.setattr(activity.threading, "Thread", None)  # none is started
    with Activity(Console(quiet=True)) as shown, shown.doing("reading"):
        pass


def test_durations():
    assert [duration(x) for x in (0.4, 61, 3723)] == ["0:00", "1:01", "1:02:03"]
