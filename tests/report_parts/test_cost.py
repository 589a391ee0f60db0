"""What a run has cost: rates, shares and joules against sums made by hand."""

import json
import socket

import pytest
import report_tools

from clipjax import cores
from clipjax.engine import matmul_rate
from clipjax.report_parts import cost_sections, peak_rate
from clipjax.run_record import status


@pytest.fixture
def place(tmp_path):
    """A finished run of this machine: batches of 16 at 32 images per second, 8 GFLOP
    per step, so 16 GFLOP per second."""
    place = report_tools.saved_run(tmp_path)
    report_tools.log(place, loss=[2.0, 1.0], time_images_per_second=[32.0, 32.0])
    config = json.loads((place / "config.json").read_text())
    config["data"]["batch_size"], config["model"]["precision"] = 16, "float32"
    (place / "config.json").write_text(json.dumps(config))
    (place / "program.json").write_text(json.dumps({"devices": 1, "flops": 8e9}))
    ran_on(place, platform="cpu", device="cpu", devices=1)
    say(place)
    return place


def ran_on(place, **changes):
    (place / "environment.json").write_text(json.dumps(changes))


def say(place, **changes):
    here = {"host": socket.gethostname(), "cpus": cores.usable(), "beat": 2e9}
    one = status.Status(**{"state": "finished", **here, **changes})
    status.write(place, one, sync=False)


def costs(place):
    section = cost_sections.cost_section(report_tools.read(place))
    return dict(map(tuple, section.blocks[0].pairs))


@pytest.fixture
def rate(monkeypatch):
    """An idle machine that multiplies at this rate, which can be set."""
    found = {"now": 64e9}
    monkeypatch.setattr(matmul_rate, "measured", lambda device, name: found["now"])
    monkeypatch.setattr(peak_rate.os, "getloadavg", lambda: (0.5, 9.0, 9.0))
    return found


@pytest.mark.usefixtures("rate")
def test_share_of_a_measured_rate(place):
    found = costs(place)
    assert found["FLOPs per image-text pair"] == "0.5 GFLOP"
    assert found["rate"] == "16 GFLOP/s" and found["FLOPs in all"] == "1.6e+10"
    assert found["share of the matmul peak"] == (
        "25.0 % of 64 GFLOP/s in float32, measured by this report on the run's machine"
    )


def test_a_busy_machine_measures_nothing(place, rate, monkeypatch):
    busy = "not measured: the machine is busy, make the report again later"
    rate["now"] = 15e9
    assert costs(place)["share of the matmul peak"] == busy
    rate["now"] = 64e9
    load = cores.usable() + 0.1
    monkeypatch.setattr(peak_rate.os, "getloadavg", lambda: (load, 0.0, 0.0))
    assert costs(place)["share of the matmul peak"] == busy


def test_share_of_a_published_rate(place):
    ran_on(place, platform="gpu", device="NVIDIA H200", devices=4)
    run = report_tools.read(place)
    assert peak_rate.share(run, 989.4e12) == (
        "50.0 % of 1,978.8 TFLOP/s in float32, as published"
    )
    run.config["model"]["precision"] = "bfloat16"
    assert peak_rate.share(run, 989.4e12).startswith("25.0 % of 3,957.6 TFLOP/s")


@pytest.mark.usefixtures("rate")
def test_why_there_is_no_share(place):
    def why():
        return costs(place)["share of the matmul peak"]

    say(place, host="another")
    assert why() == "not measured: make the report on the run's machine"
    say(place, state="running", beat=1.0)  # it is dead
    assert "measured by this report" in why()
    say(place, state="running", beat=9e9)
    assert why() == "not measured: the run has not ended"
    (place / "status.json").unlink()
    assert why() == "not measured: the run has not ended"
    ran_on(place, platform="gpu", device="NVIDIA Unheard Of", devices=1)
    assert why() == "not measured: no rate of NVIDIA Unheard Of is known"
    ran_on(place, platform="gpu", device=[], devices="many")
    assert why() == "not measured: no rate of [] is known"
    (place / "program.json").unlink()
    assert why() == "not measured"


@pytest.mark.usefixtures("rate")
def test_energy(place):
    assert costs(place)["energy"] == "not measured"
    say(place, energy={"gpus": 7200.0, "seconds": 60.0})
    assert costs(place)["energy"] == "2 Wh of GPUs; in 1:00"
    say(place, energy={"gpus": 9e6, "processors": 1234.4, "seconds": 3723.0})
    assert costs(place)["energy"] == (
        "2.50 kWh of GPUs; 1,234 J of processors, with all else that they did; "
        "in 1:02:03"
    )
    say(place, energy={"gpus": "many"})
    assert costs(place)["energy"] == "not measured"
