"""Metric files: what is written, and what a resumed run keeps of them."""

import csv
import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorboardX.proto import event_pb2

from clipjax.engine.metrics import MetricWriter
from clipjax.run_record import metric_log


def write(folder, resume_step, *rows, tensorboard=False):
    writer = MetricWriter(folder, resume_step, tensorboard=tensorboard)
    for step, values in rows:
        writer.write_scalars(step, values)
    writer.close()


def table(folder):
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def events(folder):
    """Events of all event files; a record is its length, crc, data, crc."""
    for path in sorted((folder / "tensorboard").iterdir()):
        content, place = path.read_bytes(), 0
        while place < len(content):
            size = int.from_bytes(content[place : place + 8], "little")
            yield event_pb2.Event.FromString(content[place + 12 : place + 12 + size])
            place += 16 + size


def scalars(folder):
    return [
        (event.step, value.tag, value.simple_value)
        for event in events(folder)
        for value in event.summary.value
    ]


def test_rows_in_all_three_files(tmp_path):
    write(tmp_path, 0, (2, {"a": 1.5}), (4, {"a": 2.5, "b": 3}), tensorboard=True)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    found = [json.loads(line) for line in lines]
    assert [(r["step"], r["a"], r.get("b")) for r in found] == [
        (2, 1.5, None),
        (4, 2.5, 3),
    ]
    assert all(row["time"] > 1e9 for row in found)
    assert [(r["step"], r["a"], r["b"]) for r in table(tmp_path)] == [
        ("2", "1.5", ""),
        ("4", "2.5", "3.0"),
    ]
    assert scalars(tmp_path) == [(2, "a", 1.5), (4, "a", 2.5), (4, "b", 3.0)]
    assert next(events(tmp_path)).file_version == "brain.Event:2"


def test_rows_after_the_restored_step_are_dropped(tmp_path):
    write(tmp_path, 0, *[(step, {"a": step}) for step in (1, 2, 3, 4)])
    write(tmp_path, 2, (3, {"a": 30.0}))
    wanted = [(1, 1.0), (2, 2.0), (3, 30.0)]
    assert [(row["step"], row["a"]) for row in metric_log.rows(tmp_path)] == wanted
    assert [(int(r["step"]), float(r["a"])) for r in table(tmp_path)] == wanted


def test_tensorboard_is_told_what_to_drop(tmp_path):
    write(tmp_path, 0, (1, {"a": 1.0}), (2, {"a": 2.0}), tensorboard=True)
    write(tmp_path, 1, (2, {"a": 20.0}), tensorboard=True)
    start = event_pb2.SessionLog.START
    found = [(e.step, e.session_log.status) for e in events(tmp_path) if e.step]
    # A reader drops what an earlier file has from the step of a start on.
    assert found == [(1, start), (1, 0), (2, 0), (2, start), (2, 0)]


def test_rows_survive_a_kill(tmp_path):
    writer = MetricWriter(tmp_path, 0, tensorboard=True)
    writer.write_scalars(1, {"a": 1.0})
    # Read before it is closed:
    assert scalars(tmp_path) == [(1, "a", 1.0)]
    assert [row["a"] for row in metric_log.rows(tmp_path)] == [1.0]
    assert [row["a"] for row in table(tmp_path)] == ["1.0"]
    writer.close()


@settings(deadline=None)
@given(cut=st.integers(1, 60))
def test_half_a_line_is_dropped(tmp_path_factory, cut):
    folder = tmp_path_factory.mktemp("run")
    write(folder, 0, (1, {"a": 1.0}), (2, {"a": 2.0}))
    path = folder / "metrics.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    kept = [row["step"] for row in metric_log.rows(folder)]
    last = len(whole.splitlines()[-1])
    # Without its newline only, a line is whole.
    assert kept == ([1, 2] if cut == 1 else [1] if cut <= last + 2 else [])
    write(folder, 2, (3, {"a": 3.0}))
    steps = [row["step"] for row in metric_log.rows(folder)]
    assert steps == [*kept, 3] == [int(row["step"]) for row in table(folder)]


def test_other_bytes_in_the_file_are_dropped(tmp_path):
    write(tmp_path, 0, (1, {"a": 1.0}))
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(b'\xff\x00\n[1]\n{"step": null}\n{"a": 1}\n{"step": 2, "a"')
    write(tmp_path, 9, (10, {"a": 3.0}))
    assert [row["step"] for row in metric_log.rows(tmp_path)] == [1, 10]


def test_values_that_are_not_finite_come_back(tmp_path):
    write(tmp_path, 0, (1, {"a": math.nan, "b": math.inf}))
    write(tmp_path, 1)
    (row,) = metric_log.rows(tmp_path)
    assert math.isnan(row["a"]) and row["b"] == math.inf
    assert table(tmp_path)[0]["b"] == "inf"


@pytest.mark.parametrize("text", ["", None])
def test_nothing_to_read(tmp_path, text):
    if text is not None:
        (tmp_path / "metrics.jsonl").write_text(text)
    assert list(metric_log.rows(tmp_path)) == []
