"""The report of 100,000 logged rows: its CPU time and memory."""

import json
import os
import subprocess
import sys

import pytest
import report_tools

ROWS = 100_000
# Of CPU time, which other processes lengthen too: a run alone takes about half.
SECONDS, BYTES = 40, 2**30


@pytest.mark.slow
def test_time_and_memory_are_bounded(tmp_path):
    place = report_tools.run(tmp_path, model=True)
    first = json.loads((place / "metrics.jsonl").read_text().splitlines()[0])
    row = {f"train/metric_{n}": 0.123456789 for n in range(18)} | first
    with (place / "metrics.jsonl").open("w") as file:
        for step in range(1, ROWS + 1):
            row |= {"step": step, "time": 1e9 + step, "train/loss": 4 / step + 1}
            file.write(json.dumps(row) + "\n")
    argv = [sys.executable, "-m", "clipjax.report", str(place)]
    argv.append(f"--out={tmp_path / 'r.html'}")
    environment = {**os.environ, "XLA_FLAGS": ""}
    process = subprocess.Popen(argv, env=environment)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = status  # which Popen does not see
    assert status == 0
    assert used.ru_utime + used.ru_stime < SECONDS
    assert used.ru_maxrss * 1024 < BYTES
    assert "100,000 of" in (tmp_path / "r.html").read_text()
