"""What is seen of a run: live, finished, killed, stopped, empty, damaged."""

import json
import math
import signal
import time
import types

import pytest
from monitor_tools import beating, log, say

from clipjax import results
from clipjax.monitoring import snapshot
from clipjax.monitoring.snapshot import Watched, find
from clipjax.types import EvalResult, Metric, UserError


def condition(folder):
    return Watched(folder).look().condition.word


def wait_for(look, word, seconds=20):
    limit = time.monotonic() + seconds
    while look().condition.word != word:
        assert time.monotonic() < limit
        time.sleep(0.02)


def test_live_then_killed(tmp_path):
    with beating(tmp_path / "run") as process:
        log(tmp_path / "run", 2.5, 2.0)
        watched = Watched(tmp_path / "run")
        live = watched.look()
        assert (live.step, live.total_steps) == (40, 100)
        assert live.running and live.status and live.status.seconds_left == 600.0
        assert live.log.last("train/loss") == 2.0 and live.disk_free
        assert (live.numbers_age() or 0) < 60
        process.kill()
        process.wait()
        dead = watched.look()
        assert dead.condition.word == "dead" and dead.condition.over
        assert dead.step == 40 and not dead.troubles


@pytest.mark.parametrize(("number", "word"), [(0, "finished"), (15, "stopped")])
def test_ended(tmp_path, number, word):
    with beating(tmp_path / "run") as process:
        watched = Watched(tmp_path / "run")
        assert watched.look().running
        process.communicate(f"{number}\n")
        over = watched.look()
        assert over.condition.word == word and over.status
        assert over.status.reason == (signal.Signals(number).name if number else "")


def test_suspended(tmp_path, monkeypatch):
    monkeypatch.setattr("clipjax.run_record.status.SILENT", 0.5)
    with beating(tmp_path / "run") as process:
        watched = Watched(tmp_path / "run")
        process.send_signal(signal.SIGSTOP)
        wait_for(watched.look, "silent")
        process.send_signal(signal.SIGCONT)
        wait_for(watched.look, "running")


@pytest.mark.parametrize("ahead", [-3600, 3600])
def test_the_clock_of_another_machine_may_be_wrong(tmp_path, monkeypatch, ahead):
    """After the first look the run's beats count, not when they say that they were."""
    clock = [100.0]
    here = types.SimpleNamespace(time=time.time, monotonic=lambda: clock[0])
    monkeypatch.setattr(snapshot, "time", here)
    beat = time.time() + ahead

    def look(seconds, beat):
        clock[0] += seconds
        say(tmp_path, machine="another", beat=beat)
        found = watched.look()
        return found.condition.word, found.settled

    watched = Watched(tmp_path)
    by_clocks = ("dead", False) if ahead < 0 else ("running", True)
    assert look(0, beat) == look(20, beat) == by_clocks
    assert look(2, beat + 22) == ("running", True)  # it goes on
    assert look(29, beat + 22) == ("running", True)
    assert look(2, beat + 22) == ("dead", True)
    assert look(2, beat + 90) == ("running", True)  # it was held up
    silent = Watched(tmp_path)
    assert silent.look().condition.word == by_clocks[0]
    clock[0] += 31
    assert silent.look().condition.word == "dead" and silent.look().settled


def test_folders_that_say_nothing(tmp_path):
    assert condition(tmp_path) == "empty"
    log(tmp_path / "old", 1.0, 0.5)
    old = Watched(tmp_path / "old").look()
    assert (old.condition.word, old.step, old.total_steps) == ("unknown", 2, 0)
    with pytest.raises(UserError, match="nowhere is no folder"):
        Watched(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file is no folder"):
        Watched(tmp_path / "file")
    watched = Watched(tmp_path / "old")
    (tmp_path / "old" / "metrics.jsonl").unlink()
    (tmp_path / "old").rmdir()
    gone = watched.look()
    assert gone.condition.word == "absent" and gone.step == 0


def test_damaged_files(tmp_path):
    log(tmp_path, 1.0, math.nan)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3\n{"step": 4, "time": 1, "train/bad_total": 2}\n{"st')
    (tmp_path / "status.json").write_text('{"state": "runn')
    place = tmp_path / "evaluations" / "2"
    place.mkdir(parents=True)
    (place / "results.json").write_text("{")
    found = Watched(tmp_path).look()
    assert found.condition.word == "unknown" and found.step == 4
    told = "\n".join(found.troubles)
    assert "status.json is damaged" in told and "results.json cannot be read" in told
    assert "the loss is nan" in told and "2 steps were not finite" in told
    assert "1 lines of metrics.jsonl are broken" in told
    plain = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert plain["numbers"]["train/loss"] is None and plain["broken_lines"] == 1


def test_evaluations_newest_first_and_read_once(tmp_path, monkeypatch):
    say(tmp_path)
    for step in range(1, 8):
        metric = Metric(step / 10, low=0.0, high=1.0, chance=0.01, n=5)
        one = EvalResult({"top1": metric}, "top1", "5 images")
        folder = tmp_path / "evaluations" / str(step)
        results.save(folder, {"": ({"zeroshot": one}, {"step": step})})
    watched = Watched(tmp_path)
    found = watched.look().evaluations
    assert [step for _, step, _ in found] == [7, 6, 5, 4, 3]
    assert found[0][0] == "7" and found[0][2][0].startswith("zeroshot top1 0.7")
    monkeypatch.setattr(results, "read", None)
    assert watched.look().evaluations == found


@pytest.mark.parametrize(
    ("size", "words"),
    [(2**60, "no further save fits"), (0, ""), (1, "")],
)
def test_room_for_the_next_save(tmp_path, size, words):
    say(tmp_path, next_size=size)
    assert words in "\n".join(Watched(tmp_path).look().troubles)
    assert bool(Watched(tmp_path).look().troubles) == bool(words)
    say(tmp_path, next_size=size, state="finished")
    assert not Watched(tmp_path).look().troubles


def test_room_for_one_save(tmp_path, monkeypatch):
    monkeypatch.setattr(snapshot, "_free", lambda *_: 150)
    say(tmp_path, next_size=100)
    (line,) = Watched(tmp_path).look().troubles
    assert line == "only one further save fits on the disk"


def test_little_memory(tmp_path):
    say(tmp_path, memory=99, memory_free=1)
    assert "memory is left" in Watched(tmp_path).look().troubles[0]
    say(tmp_path, memory=90, memory_free=10)
    assert not Watched(tmp_path).look().troubles


def test_a_folder_of_runs(tmp_path):
    for name in ("b", "a"):
        say(tmp_path / name)
    (tmp_path / "other").mkdir()
    assert [one.name for one in find([str(tmp_path)])] == [
        *(str(tmp_path / "a"), str(tmp_path / "b"))
    ]
    assert [one.name for one in find([str(tmp_path / "b"), str(tmp_path / "a")])] == [
        *(str(tmp_path / "b"), str(tmp_path / "a"))
    ]
    with pytest.raises(UserError, match="is no folder"):
        find([str(tmp_path / "c")])
