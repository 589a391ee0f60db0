"""What RUN/status.json says of a run, and what became of the run since."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from clipjax.run_record import status as statuses
from clipjax.run_record.status import Status
from clipjax.types import UserError


def sample(**changes):
    now = time.time()
    own = {"pid": os.getpid(), "born": statuses.born(os.getpid())}
    own |= {"machine": statuses.here(), "started": now - 60, "beat": now - 1}
    return Status(**{"state": "running", **own, **changes})


def test_it_comes_back(tmp_path):
    assert statuses.read(tmp_path) is None and statuses.read(tmp_path / "no") is None
    warned = [statuses.Warned(5.0, "warning: é")]
    one = sample(step=3, warnings=warned, gpus=[{"name": "A", "power": None}])
    statuses.write(tmp_path, one, sync=True)
    assert statuses.read(tmp_path) == one
    assert [path.name for path in tmp_path.iterdir()] == ["status.json"]


def test_of_another_version(tmp_path):
    place = tmp_path / "status.json"
    place.write_text('{"state": "finished", "beat": 5, "colour": "green"}')
    found = statuses.read(tmp_path)
    assert found is not None and found.condition() == ("finished", 5)


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", "null", "{}", '{"state": "running", "beat": "now"}'),
        *('{"state": "running", "warnings": 3}', '{"state": "on", "warnings": [[1]]}'),
        *('{"state": "on"}', "[" * 99999),
    ],
)
def test_a_damaged_file(tmp_path, text):
    (tmp_path / "status.json").write_text(text)
    with pytest.raises(UserError, match="status.json is damaged"):
        statuses.read(tmp_path)


def test_every_field_of_another_type_is_damage(tmp_path):
    """Or it would end in a traceback where it is shown."""
    statuses.write(tmp_path, sample(), sync=True)
    place = tmp_path / "status.json"
    fields = json.loads(place.read_text())
    text = {name for name, value in fields.items() if isinstance(value, str)}
    lists = {"warnings", "gpus", "device_memory"}
    wrong = {
        "NaN": fields.keys(),
        "1e300": fields.keys(),
        "true": fields.keys(),
        '[{"name": 5}]': fields.keys(),
        '{"peak": "x"}': fields.keys(),
        '"x"': fields.keys() - text,
        "-1": text | lists | {"pid"},
        "null": ("pid", "beat", "state", "warnings", "warnings_total", "processes"),
        '[{"power": "much"}]': ["gpus"],
        '[[5, "a"], [6]]': ["warnings"],
        '[["now", "a"]]': ["warnings"],
    }
    for value, names in wrong.items():
        for name in names:
            text = json.dumps({**fields, name: 5}).replace(
                f'"{name}": 5', f'"{name}": {value}'
            )
            place.write_text(text)
            with pytest.raises(UserError, match="status.json is damaged"):
                statuses.read(tmp_path)


def test_a_file_that_cannot_be_read(tmp_path):
    (tmp_path / "status.json").mkdir()
    with pytest.raises(UserError, match="status.json cannot be read"):
        statuses.read(tmp_path)


def test_conditions_of_a_run_on_this_machine():
    one = sample()
    assert one.condition() == ("running", one.started) and not one.condition().over
    assert one.condition(one.beat + 31) == ("silent", one.beat)
    assert not one.condition(one.beat + 31).over
    for word in ("finished", "stopped", "failed"):
        condition = sample(state=word, beat=7.0).condition()
        assert condition == (word, 7.0) and condition.over


def test_a_process_that_is_gone_is_dead_at_once():
    process = subprocess.Popen(["sleep", "100"])
    one = sample(pid=process.pid, born=statuses.born(process.pid))
    assert one.condition().word == "running"
    process.send_signal(signal.SIGKILL)
    while os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT) is None:
        pass
    assert one.condition() == ("dead", one.beat)  # nobody has waited for it yet
    process.wait()
    assert one.condition() == ("dead", one.beat) and one.condition().over


def test_another_process_with_its_pid_is_not_the_run():
    assert sample(born=statuses.born(os.getpid()) - 100).condition().word == "dead"


def test_elsewhere_the_last_beat_counts():
    one = sample(machine="other boot pid:[1]", pid=1, born=0.0)
    assert one.condition().word == "running"
    assert one.condition(one.beat + 31) == ("dead", one.beat)
    assert one.condition(one.beat - 100).word == "running"  # its clock is ahead


def test_reading_takes_no_jax(tmp_path):
    statuses.write(tmp_path, sample(), sync=False)
    code = (
        "import sys; from clipjax.run_record import metric_log, status; "
        "log = metric_log.MetricLog(sys.argv[1]); log.update(); "
        "print(status.read(sys.argv[1]).condition().word, 'jax' in sys.modules)"
    )
    printed = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert printed.stdout.split() == ["running", "False"]
    assert json.loads((tmp_path / "status.json").read_text())["state"] == "running"
