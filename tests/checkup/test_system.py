"""Disk, shared memory, file limits and clock: which states are faults."""

import dataclasses
import os
import shutil
import time

import pytest

from clipjax.checkup import system
from clipjax.checkup.system import Machine

WELL = Machine(
    disk_free=10**12,
    shared_size=10**10,
    shared_free=10**10,
    files=4096,
    memory=10**10,
    memory_free=10**10,
    clock=time.time(),
    skew=0.0,
)


def faults(tmp_path, *, saves=0, batches=None, **changes):
    machine = dataclasses.replace(WELL, **changes)
    found = system.checks(machine, tmp_path, saves=saves, batches=batches)
    return [one for one in found if one.state != "ok"]


def test_this_machine_is_what_the_system_says(tmp_path):
    machine = system.ask(tmp_path)
    free = shutil.disk_usage(tmp_path).free
    assert machine.disk_free == pytest.approx(free, abs=2**30)
    pages = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert machine.memory == pytest.approx(pages, rel=0.02)
    assert 0 < machine.memory_free <= machine.memory
    assert machine.skew is not None and abs(machine.skew) < 5
    assert system.ask(tmp_path / ".").clock == pytest.approx(time.time(), abs=60)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("options", [{}, {"saves": 10**9, "batches": 10**9}])
def test_a_machine_without_faults(tmp_path, options):
    assert faults(tmp_path, **options) == []
    assert len([*system.checks(WELL, tmp_path, **options)]) == 5


@pytest.mark.parametrize(
    ("changes", "state", "words", "mend"),
    [
        ({"disk_free": 10**6}, "warning", "has 1 MB free", "free space"),
        (
            {"disk_free": 10**9, "saves": 10**10},
            "error",
            "take 10 GB",
            "checkpoint.keep",
        ),
        ({"shared_size": 2**26}, "warning", "little for data.workers", "--shm-size"),
        (
            {"shared_free": 2**26, "batches": 10**9},
            *("error", "has 67.1 MB free; the workers' batches take 1 GB", "workers=0"),
        ),
        (
            {"shared_size": None, "shared_free": None, "batches": 5},
            *("warning", "there is no /dev/shm", "data.workers=0"),
        ),
        ({"files": 256}, "warning", "may open 256 files", "ulimit -n 4096"),
        ({"clock": 86400.0}, "error", "the clock says 1970-01-02", "set it"),
        ({"skew": -90.0}, "warning", "differs by -90 s", "NTP"),
        ({"skew": None}, "error", "cannot be written", "--workdir"),
    ],
)
def test_a_fault_and_its_mend(tmp_path, changes, state, words, mend):
    (one,) = faults(tmp_path, **changes)
    assert one.state == state and words in one.line() and mend in one.mend


def test_small_shared_memory_is_enough_without_workers(tmp_path):
    assert faults(tmp_path, shared_size=2**20, shared_free=2**20, batches=0) == []


def test_no_limit_of_files(tmp_path):
    assert faults(tmp_path, files=-1) == []


def test_the_nearest_folder_that_is_there(tmp_path):
    assert system.existing(tmp_path / "a" / "b") == tmp_path
    assert system.existing(tmp_path) == tmp_path
