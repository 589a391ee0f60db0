"""Parts for tests of benchmarks/accelerator: good, failing, dying and hanging ones."""

import json
import os
import pathlib
import subprocess
import sys
import time

from accelerator.child import Absent


def good(report, tiny):
    report("tiny", tiny)
    report("rate", {"images_per_second": 3.0})


def raises(report, tiny):
    report("before", 1)
    raise ValueError("no such\nkernel")


def dies(report, tiny):
    report("before", 2)
    print("Fatal: the driver is gone", file=sys.stderr, flush=True)
    os._exit(7)


def hangs(report, tiny):
    """With a process of its own, whose id it reports."""
    helper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(99)"])
    report("helper", helper.pid)
    print("compiling", flush=True)
    time.sleep(99)


def absent(report, tiny):
    raise Absent("torch is not installed")


def watches(report, tiny):
    """Ends when the JSON shows what it has reported."""
    report("seen", "soon")
    path, end = pathlib.Path(os.environ["WATCHED"]), time.monotonic() + 20
    while "soon" not in json.dumps(json.loads(path.read_text())["parts"]):
        assert time.monotonic() < end, "never seen"
        time.sleep(0.05)
