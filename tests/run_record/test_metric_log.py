"""metrics.jsonl read while a run writes it: what came since, and what is no row."""

import json
import math
import time

import numpy as np
import pytest

from clipjax.engine.metrics import MetricWriter
from clipjax.run_record import metric_log
from clipjax.run_record.metric_log import MetricLog


@pytest.fixture
def file(tmp_path):
    return tmp_path / "metrics.jsonl"


def add(file, *texts):
    with file.open("ab") as opened:
        for text in texts:
            opened.write(text if isinstance(text, bytes) else text.encode())


def line(step, **values):
    return json.dumps({"step": step, "time": 100.0 + step, **values}) + "\n"


def test_no_file_then_rows(file):
    log = MetricLog(file.parent)
    assert not log.update() and log.names() == [] and len(log) == 0
    assert log.last_step() is None and log.last("a") is None
    assert [part.shape for part in log.series("a")] == [(0,)] * 3
    add(file, line(1, a=0.5), line(1, b=7), line(2, a=0.25))
    assert log.update() and not log.update()
    assert log.names() == ["a", "b"]
    steps, times, values = log.series("a")
    assert steps.tolist() == [1, 2] and steps.dtype == np.int64
    assert times.tolist() == [101.0, 102.0] and values.tolist() == [0.5, 0.25]
    assert log.series("b")[0].tolist() == [1]
    assert (log.last_step(), log.last("b"), log.broken) == (2, 7.0, 0)


def test_only_what_was_added_is_parsed(file, monkeypatch):
    parsed = []
    parse = metric_log._parse
    monkeypatch.setattr(
        metric_log, "_parse", lambda lines: parsed.extend(lines) or parse(lines)
    )
    log = MetricLog(file.parent)
    for step in range(5):
        add(file, line(step, a=step))
        assert log.update()
    assert len(parsed) == 5 and log.series("a")[2].tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("cut", [1, 5, len(line(2, a=2.0)) - 1])
def test_half_a_line_waits_for_its_end(file, cut):
    log = MetricLog(file.parent)
    text = line(2, a=2.0)
    add(file, line(1, a=1.0), text[:-cut])
    log.update()
    # Without its newline only, a line is whole.
    assert log.series("a")[2].tolist() == ([1.0, 2.0] if cut == 1 else [1.0])
    add(file, text[-cut:], line(3, a=3.0))
    log.update()
    assert log.series("a")[2].tolist() == [1.0, 2.0, 3.0] and log.broken == 0


BROKEN = [
    b'{"step": 2, "a"\n',
    b"\xff\xfe\x00\n",
    b"[1, 2]\n",
    b'{"a": 1.0}\n',
    b'{"step": null}\n',
    b'{"step": -1}\n',
    b'{"step": 1e400}\n',
    b'{"step": 99999999999999999999}\n',
    b'{"step": 2, "a": "much"}\n',
    b'{"step": 2, "a": {"b": 1}}\n',
    b"[" * 100_000 + b"\n",
]


@pytest.mark.parametrize("text", BROKEN, ids=[str(i) for i in range(len(BROKEN))])
def test_a_broken_line_is_counted(file, text):
    add(file, line(1, a=1.0), text, b"\n", line(3, a=3.0))
    log = MetricLog(file.parent)
    log.update()
    assert log.series("a")[0].tolist() == [1, 3] and log.broken == 1
    assert [row["step"] for row in metric_log.rows(file.parent)] == [1, 3]


TWO = '{"step": 3}, {"step": 4}\n'
# No line is a row, and some are, or would seem so, together with their neighbours.
TOGETHER = [
    ['{"step": 2, "a": [{"b": 1}\n', '{"c": 2}], "a": 1}\n', TWO],
    ['{"step": 2, "a": {"b": 1}\n', '"c": 1, "step": 1}}\n', TWO],
    ['{"step": 2, "a": "1\n', '{", "a": 1}\n', TWO],
    ['{"step": 2, "a": "x"}\n', '{"step": 3},\n', TWO],
]


@pytest.mark.parametrize("texts", TOGETHER, ids=range(len(TOGETHER)))
@pytest.mark.parametrize("chunk", [2**18, 50, 1])
def test_each_line_is_a_row_for_itself(file, monkeypatch, texts, chunk):
    monkeypatch.setattr(metric_log, "_CHUNK", chunk)
    add(file, line(1, a=1.0), *texts, line(9, a=9.0), *texts[1:], '{"step": 10, "a')
    log = MetricLog(file.parent)
    log.update()
    assert log.series("a")[0].tolist() == [1, 9] and log.broken == 5
    assert [row["step"] for row in metric_log.rows(file.parent)] == [1, 9]
    add(file, '": 10}\n')
    log.update()
    assert log.series("a")[2].tolist() == [1, 9, 10] and log.broken == 5


def test_rows_with_other_names_between(file):
    for step in range(0, 9, 3):
        add(file, line(step, a=step), line(step + 1, b=1), line(step + 2, a=-1, b=-2))
    log = MetricLog(file.parent)
    log.update()
    assert log.series("a")[0].tolist() == [0, 2, 3, 5, 6, 8]
    assert log.series("a")[2].tolist() == [0, -1, 3, -1, 6, -1]
    assert log.series("b")[0].tolist() == [1, 2, 4, 5, 7, 8]


def test_a_line_without_end_is_not_kept_in_memory(file, monkeypatch):
    monkeypatch.setattr(metric_log, "_LONGEST", 100)
    add(file, line(1, a=1.0), b"x" * 950, b"\n", line(2, a=2.0))
    log = MetricLog(file.parent)
    log.update()
    assert log.series("a")[0].tolist() == [1, 2] and log.broken == 10


def test_values_that_are_not_finite(file):
    add(file, '{"step": 1, "time": 1, "a": NaN, "b": -Infinity}\n{"step": 2, "a": 1}\n')
    log = MetricLog(file.parent)
    log.update()
    assert math.isnan(log.series("a")[2][0]) and log.series("b")[2][0] == -math.inf
    assert math.isnan(log.series("a")[1][1])  # a row without a time


def test_a_resumed_run_replaces_what_it_does_again(file):
    """The writer of a run drops later rows, and the reader follows."""
    log = MetricLog(file.parent)

    def write(resume_step, *pairs):
        writer = MetricWriter(file.parent, resume_step, tensorboard=False)
        for step, value in pairs:
            writer.write_scalars(step, {"a": value})
        writer.close()

    write(0, (1, 1.0), (2, 2.0), (3, 3.0))
    assert log.update() and log.series("a")[2].tolist() == [1.0, 2.0, 3.0]
    write(1)  # shorter
    assert log.update() and log.series("a")[2].tolist() == [1.0]
    write(1, (2, 20.0), (3, 30.0), (4, 40.0))
    log.update()
    write(2, (3, 31.0), (4, 41.0), (5, 51.0))  # longer than what was read
    assert log.update()
    assert log.series("a")[0].tolist() == [1, 2, 3, 4, 5]
    assert log.series("a")[2].tolist() == [1.0, 20.0, 31.0, 41.0, 51.0]


def test_a_file_that_is_gone_or_emptied(file):
    add(file, line(1, a=1.0), "broken\n")
    log = MetricLog(file.parent)
    log.update()
    file.write_bytes(b"")
    assert log.update() and len(log) == 0 and log.broken == 0
    add(file, line(4, a=4.0))
    assert log.update() and log.last_step() == 4
    file.unlink()
    assert log.update() and len(log) == 0 and not log.update()


@pytest.mark.thorough
def test_a_long_run_is_read_in_seconds(file):
    names = [f"train/{i}" for i in range(24)]
    with file.open("w") as opened:
        for step in range(100_000):
            opened.write(line(step, **{name: step / 7 for name in names}))
    log = MetricLog(file.parent)
    begin = time.process_time()
    log.update()
    assert time.process_time() - begin < 20
    assert log.series("train/23")[2].sum() == pytest.approx(sum(range(100_000)) / 7)
    held = sum(x.itemsize * len(x) for pair in log._series.values() for x in pair)
    assert held < 40e6
    begin = time.process_time()
    add(file, line(100_000, a=1.0))
    assert log.update() and time.process_time() - begin < 0.1
