"""Runs parts as processes, one after the other, and keeps what they report in a JSON.

A part is a function of a module, `function(report, tiny)`; `report(name, value)` adds a
measurement, which is in the JSON within a second. child.py is its process.
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

BUDGET = 300.0  # seconds, those for which the parts' limits are meant
LEAST = 8.0  # seconds under which no part is begun


@dataclasses.dataclass(frozen=True)
class Part:
    """target: "module:function". limit: seconds of a budget of BUDGET."""

    target: str
    limit: float


def log_of(out: pathlib.Path) -> pathlib.Path:
    """The file beside the JSON with all that the parts print."""
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
    """Runs the parts in order; returns what is in the JSON.

    A part that raises, dies or outlasts its limit is recorded as such, with its error's
    last line and what it had reported, and the next begins. No part runs on after
    `budget` seconds, of which more than BUDGET raise the limits in proportion. A
    signal that ends this process ends the part, too.
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
    with _stopped_by_signals(), tempfile.TemporaryDirectory() as scratch:
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
                    reason = f"the budget of {budget:g} s was spent"
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
    given = environment.get("PYTHONPATH", "").split(os.pathsep)
    paths = [str(here.parent), str(here), *filter(None, given)]
    environment["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(paths))
    environment["JAX_TRACEBACK_FILTERING"] = "off"
    if tiny:
        # What is compiled serves several parts, and its speed is nobody's concern.
        environment["JAX_PLATFORMS"] = "cpu"
        environment["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "true"
        environment["JAX_COMPILATION_CACHE_DIR"] = str(folder / "cache" / "xla")
        environment["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    # All of the device's memory at once: none is allocated within a step. What is left
    # is for libraries that take theirs beside XLA.
    environment.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "true")
    environment.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.92")
    environment.setdefault("CLIPJAX_CACHE", str(folder / "cache"))  # nothing compiled
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
        time.sleep(min(2.0, limit))  # until the driver has its memory back
    elif ending is not None:
        record.update(ending)
    else:
        how = process.returncode
        told = signal.Signals(-how).name if how < 0 else f"status {how}"
        record.update(status="failed", error=f"ended by {told}; last: {last}")


def _kill(process: subprocess.Popen) -> None:
    """Ends the process and those it has started, which are in its group."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _take(lines: pathlib.Path, record: dict[str, Any]) -> dict[str, Any] | None:
    """Puts what a part has reported in its record; returns its ending, if any."""
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
def _stopped_by_signals():
    """SIGTERM and SIGHUP end as Ctrl-C does, so that the part is ended as well.

    SIGINT too: a shell ignores it for what it runs in the background.
    """

    def stop(number, frame):
        raise KeyboardInterrupt

    ending = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    kept = {number: signal.signal(number, stop) for number in ending}
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
