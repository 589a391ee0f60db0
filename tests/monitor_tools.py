"""Runs for the tests of the monitor: their files, and a process whose heart beats."""

import contextlib
import json
import os
import subprocess
import sys
import time

from clipjax.run_record import status as statuses

BEATING = """
import pathlib, sys, time
from clipjax.run_record import heartbeat
from clipjax.run_record.heartbeat import Heartbeat, Warnings
heartbeat.EVERY = 0.1
warnings = Warnings()
warnings.add("warning: replaced a broken example, 7: [red]no[/red]\\x1b[2J")
doing = lambda: ("evaluating step 40: retrieval", time.time() - 3)
folder = pathlib.Path(sys.argv[1])
record = Heartbeat(folder, 100, warnings=warnings, doing=doing, warn=print)
record.position = lambda: (40, 600.0)
with record:
    print("here", flush=True)
    number = int(sys.stdin.readline())
    record.ended(number)
"""


@contextlib.contextmanager
def beating(folder):
    """A process that says it is in step 40 of 100; a signal's number ends it."""
    folder.mkdir(exist_ok=True)
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", BEATING, str(folder)]
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        try:
            assert process.stdout and process.stdout.readline()
            yield process
        finally:
            process.kill()


def say(folder, **changes):
    """Writes the status of a run that this process would be."""
    folder.mkdir(exist_ok=True)
    own = {"pid": os.getpid(), "born": statuses.born(os.getpid()), "host": "here"}
    own |= {"machine": statuses.here(), "started": time.time() - 60}
    own |= {"state": "running", "beat": time.time(), "total_steps": 100, **changes}
    statuses.write(folder, statuses.Status(**own), sync=False)


def log(folder, *pairs, start=0, **more):
    """Adds rows with these losses to a run's numbers."""
    folder.mkdir(exist_ok=True)
    with (folder / "metrics.jsonl").open("a") as file:
        for step, loss in enumerate(pairs, start + 1):
            row = {"step": step, "time": time.time(), "train/loss": loss, **more}
            file.write(json.dumps(row) + "\n")
