"""CPU time and memory of a process and its workers, against what the system says."""

import resource
import subprocess
import sys
import time

import psutil
import pytest

from clipjax.run_record import counters
from clipjax.run_record.counters import Counters, Gpus

BUSY = "import sys; x = bytearray(2**26); print(1, flush=True)\nwhile True: pass"


def burn(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def test_of_this_process():
    counts = Counters()
    first = counts.read()
    begin, spent = time.monotonic(), time.process_time()
    assert first["cpu_percent"] is None and first["cpus"] >= 1
    burn(0.2)
    second = counts.read()
    share = (time.process_time() - spent) / (time.monotonic() - begin)
    # The system counts in hundredths of a second.
    assert second["cpu_percent"] == pytest.approx(100 * share, abs=15)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    assert 2**23 < second["memory"] < 2 * peak
    assert 0 < second["memory_free"] <= psutil.virtual_memory().total


def test_workers_count_while_they_live(monkeypatch):
    monkeypatch.setattr(counters, "_CHILDREN_EVERY", 0.0)
    counts = Counters()
    alone = counts.read()["memory"]
    command = [sys.executable, "-c", BUSY]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout and process.stdout.readline()
        counts.read()
        time.sleep(0.2)
        both = counts.read()
        process.kill()
    assert both["memory"] > alone + 2**26 and both["cpu_percent"] > 10
    assert counts.read()["memory"] < both["memory"] - 2**26 // 2


def test_without_devices_nothing_is_claimed():
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:  # neither the package nor a driver
        assert Gpus().read() is None
    else:
        (first, *_) = Gpus().read() or pytest.fail("no device")
        assert first["name"] and 0 < first["memory"] <= first["memory_total"]
        assert first["temperature"] < 110 and first["power"] > 0
