"""A part's process: python -m accelerator.child MODULE:FUNCTION LINES [--tiny]

It writes a line of JSON per measurement to the file LINES, and a last one with the
status.
"""

from __future__ import annotations

import importlib
import json
import pathlib
import sys
import traceback
from typing import Any


class Absent(Exception):
    """Raised if the part cannot be measured here: a package or device is absent."""


class Report:
    """Writes a measurement's name and value, which must be valid as JSON, to a file."""

    def __init__(self, path: pathlib.Path):
        self._path = path

    def __call__(self, name: str, value: Any) -> None:
        print(f"{name}: {value}", flush=True)
        self.write({name: value})

    def write(self, entry: dict[str, Any]) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")


def message(error: BaseException) -> str:
    """Returns an error as one line, truncated if it is long."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= 400 else f"{text[:300]} ... {text[-90:]}"


def main(target: str, path: str, tiny: bool) -> None:
    report = Report(pathlib.Path(path))
    module, _, function = target.partition(":")
    try:
        getattr(importlib.import_module(module), function)(report, tiny)
    except Absent as error:
        report.write({"status": "not available", "reason": str(error)})
    except Exception as error:
        traceback.print_exc()
        report.write({"status": "failed", "error": message(error)})
    else:
        report.write({"status": "done"})


if __name__ == "__main__":
    # The parts raise the Absent of this module as imported by its name.
    from accelerator import child

    child.main(sys.argv[1], sys.argv[2], "--tiny" in sys.argv[3:])
