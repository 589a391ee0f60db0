"""Joules of GPUs and processors, added up by hand."""

import pytest

from clipjax.run_record import energy
from clipjax.run_record.energy import Energy


@pytest.fixture(autouse=True)
def powercap(tmp_path, monkeypatch):
    """Where a machine's processors are counted; it has none yet."""
    monkeypatch.setattr(energy, "POWERCAP", tmp_path / "powercap")
    return tmp_path / "powercap"


def count(powercap, domain, microjoules, name="package-0", most=10**9):
    folder = powercap / domain
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "name").write_text(f"{name}\n")
    (folder / "energy_uj").write_text(f"{microjoules}\n")
    (folder / "max_energy_range_uj").write_text(f"{most}\n")


def gpu(**values):
    return {"name": "A", "energy": None, "power": None, **values}


def test_nothing_is_counted():
    one = Energy()
    assert one.read(0.0, None) is None and one.read(9.0, []) is None
    assert one.read(20.0, [gpu()]) is None


def test_energy_of_devices():
    one = Energy()
    first = one.read(5.0, [gpu(energy=0.0), gpu(energy=7.0)])
    assert first == {"gpus": 0.0, "seconds": 0.0}
    found = one.read(7.0, [gpu(energy=300.0), gpu(energy=107.0)])
    assert found == {"gpus": 400.0, "seconds": 2.0}
    # The first one's driver was loaded again, and counts from 0.
    found = one.read(8.0, [gpu(energy=2.0), gpu(energy=117.0)])
    assert found == {"gpus": 410.0, "seconds": 3.0}


def test_power_where_energy_is_not_counted():
    one = Energy()
    one.read(0.0, [gpu(power=90.0), gpu(energy=1.0)])
    found = one.read(2.0, [gpu(power=100.0), gpu(energy=51.0)])
    assert found == {"gpus": 250.0, "seconds": 2.0}
    assert one.read(4.0, [gpu(power=100.0), gpu()]) == found  # one says nothing
    assert one.read(5.0, [gpu(power=30.0), gpu(energy=99.0)]) == {
        "gpus": 280.0,
        "seconds": 3.0,
    }


def test_processors_and_not_their_parts(powercap):
    one = Energy()
    count(powercap, "intel-rapl:0", 999_000_000)
    count(powercap, "intel-rapl:1", 5_000_000, "package-1")
    count(powercap, "intel-rapl:0:0", 0, "core")
    count(powercap, "intel-rapl:2", 0, "psys")
    assert one.read(0.0, None) == {"processors": 0.0, "seconds": 0.0}
    count(powercap, "intel-rapl:0", 4_000_000)  # past its largest value
    count(powercap, "intel-rapl:1", 7_500_000, "package-1")
    count(powercap, "intel-rapl:0:0", 3_000_000, "core")
    count(powercap, "intel-rapl:2", 9_000_000, "psys")
    assert one.read(2.0, None) == {"processors": 7.5, "seconds": 2.0}


def test_a_counter_that_cannot_be_read(powercap):
    count(powercap, "intel-rapl:0", 1)
    (powercap / "intel-rapl:0" / "energy_uj").unlink()
    (powercap / "intel-rapl:0" / "energy_uj").mkdir()
    assert Energy().read(0.0, None) is None


def test_a_resumed_run_goes_on_from_there(powercap):
    count(powercap, "intel-rapl:0", 100)
    one = Energy({"gpus": 50.0, "processors": 20.0, "seconds": 10.0})
    one.read(0.0, None)
    count(powercap, "intel-rapl:0", 2_000_100)
    found = one.read(3.0, None)
    assert found == {"gpus": 50.0, "processors": 22.0, "seconds": 13.0}


@pytest.mark.parametrize("before", [None, 3, [1], {"gpus": "many"}, {"gpus": -1.0}])
def test_of_a_damaged_status(before):
    assert Energy(before).read(0.0, None) is None
