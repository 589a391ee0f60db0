"""Runs parts as processes, one after the other, and collects their results in a JSON.

A part is a function of a module, `function(report, tiny)`; `report(name, value)` adds a
measurement, which is in the JSON within a second. child.py is the process.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from typing import Any

from accelerator import derived, packages
from clipjax import atomic_files

BUDGET = 300.0  # seconds that the parts' limits assume
LEAST = 8.0  # no part starts with fewer seconds


@dataclasses.dataclass(frozen=True)
class Part:
    """target: "module:function". limit: seconds, if the budget is BUDGET."""

    target: str
    limit: float


def log_of(out: pathlib.Path) -> pathlib.Path:
    """Returns the file beside the JSON that has all parts' output."""
    return out.with_suffix(".log")


def run(
    parts: Mapping[str, Part],
    out: pathlib.Path,
    *,
    facts: Callable[[], dict[str, Any]] = dict,
    budget: float = BUDGET,
    tiny: bool = False,
    wheels: pathlib.Path | None = None,
) -> dict[str, Any]:
    """Runs the parts in order; returns the JSON's content.

    If a part raises, dies or exceeds its limit, the JSON says so with the error's last
    line and the part's results so far, and the next part starts. No part runs after
    `budget` seconds. A budget above BUDGET raises the limits in proportion. A signal
    that ends this process ends the part, too.
    """
    end = time.monotonic() + budget
    found: dict[str, Any] = {
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "tiny": tiny,
        **facts(),
        "parts": {name: {"status": "not run"} for name in parts},
    }
    atomic_files.write_json(out, found)
    log = log_of(out)
    log.write_bytes(b"")
    with _interrupted_by_signals(), tempfile.TemporaryDirectory() as scratch:
        folder = pathlib.Path(scratch)
        environment = _environment(folder, tiny)
        if wheels is not None:
            found["wheels"] = packages.install(wheels, folder / "site", log)
            environment["PYTHONPATH"] += os.pathsep + str(folder / "site")
        atomic_files.write_json(out, found)
        try:
            for name, part in parts.items():
                left = end - time.monotonic()
                record = found["parts"][name]
                limit = part.limit * max(1.0, budget / BUDGET)
                if left < min(LEAST, limit):
                    reason = f"the budget of {budget:g} s is spent"
                    record.update(status="not run", reason=reason)
                else:
                    limit = min(limit, left)
                    _run(name, part, limit, record, found, out, environment, folder)
                _say(name, record)
                atomic_files.write_json(out, found)
        finally:
            for record in found["parts"].values():
                if record["status"] == "running":  # a signal ends this process
                    record["status"] = "stopped"
            found["seconds"] = round(time.monotonic() - end + budget, 1)
            atomic_files.write_json(out, found)
    return found


def _environment(folder: pathlib.Path, tiny: bool) -> dict[str, str]:
    environment = dict(os.environ)
    here = pathlib.Path(__file__).parents[1]
    inherited = environment.get("PYTHONPATH", "").split(os.pathsep)
    paths = [str(here.parent), str(here), *filter(None, inherited)]
    environment["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(paths))
    environment["JAX_TRACEBACK_FILTERING"] = "off"
    if tiny:
        # Parts share compiled programs, whose speed does not matter.
        environment["JAX_PLATFORMS"] = "cpu"
        environment["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "true"
        environment["JAX_COMPILATION_CACHE_DIR"] = str(folder / "cache" / "xla")
        environment["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    # XLA takes the device's memory at once, so that no step allocates any. The rest is
    # for libraries that allocate memory beside XLA.
    environment.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "true")
    environment.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.92")
    environment.setdefault("CLIPJAX_CACHE", str(folder / "cache"))  # an empty cache
    environment.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
    return environment


def _run(
    name: str,
    part: Part,
    limit: float,
    record: dict[str, Any],
    found: dict[str, Any],
    out: pathlib.Path,
    environment: dict[str, str],
    folder: pathlib.Path,
) -> None:
    """Runs one part's process and fills its record."""
    lines, printed = folder / f"{name}.jsonl", folder / f"{name}.log"
    lines.touch()
    command = [sys.executable, "-m", "accelerator.child", part.target, str(lines)]
    if found["tiny"]:
        command.append("--tiny")
    record.update(status="running", limit=round(limit, 1), results={})
    atomic_files.write_json(out, found)
    start = time.monotonic()
    read = 0
    with printed.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
        try:
            while process.poll() is None and time.monotonic() - start < limit:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(min(0.5, limit))
                if lines.stat().st_size > read:
                    read = lines.stat().st_size
                    _take(lines, record)
                    derived.add(found["parts"])
                    atomic_files.write_json(out, found)
            late = process.poll() is None
        finally:
            _kill(process)
    record["seconds"] = round(time.monotonic() - start, 1)
    last = _last_line(printed)
    with log_of(out).open("ab") as log:
        log.write(f"=== {name}\n".encode() + printed.read_bytes())
    ending = _take(lines, record)
    derived.add(found["parts"])
    if late:
        record.update(status="timed out", error=f"after {limit:.0f} s; last: {last}")
        time.sleep(min(2.0, limit))  # until the driver frees its memory
    elif ending is not None:
        record.update(ending)
    else:
        how = process.returncode
        cause = signal.Signals(-how).name if how < 0 else f"status {how}"
        record.update(status="failed", error=f"ended by {cause}; last: {last}")


def _kill(process: subprocess.Popen) -> None:
    """Kills the process and its children, which are in its group."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _take(lines: pathlib.Path, record: dict[str, Any]) -> dict[str, Any] | None:
    """Adds a part's results to its record; returns its last line, if it has ended."""
    for line in lines.read_text(encoding="utf-8").splitlines(keepends=True):
        if line.endswith("\n"):
            entry = json.loads(line)
            if "status" in entry:
                return entry
            record["results"].update(entry)
    return None


def _last_line(printed: pathlib.Path) -> str:
    text = printed.read_text(encoding="utf-8", errors="replace")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:400] if lines else "nothing printed"


def _say(name: str, record: dict[str, Any]) -> None:
    why = record.get("error") or record.get("reason") or ""
    took = f" in {record['seconds']} s" if "seconds" in record else ""
    print(f"{name}: {record['status']}{took}{': ' if why else ''}{why}", flush=True)


@contextlib.contextmanager
def _interrupted_by_signals():
    """In the block, SIGTERM and SIGHUP act as Ctrl-C, so that the part ends as well.

    SIGINT is set too, because a shell ignores it for background commands.
    """

    def stop(number, frame):
        raise KeyboardInterrupt

    ending = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    previous = {number: signal.signal(number, stop) for number in ending}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
