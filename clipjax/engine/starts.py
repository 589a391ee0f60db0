"""RUN/starts.json: the commands that started and resumed a run, for its report."""

from __future__ import annotations

import dataclasses
import pathlib
import time
from collections.abc import Mapping
from typing import Any

from clipjax import atomic_files

FILE = "starts.json"
MOST = 100  # that are kept, the first one among them


@dataclasses.dataclass(frozen=True)
class Start:
    """A command that trains.

    command: for a shell. config: the file and the words after its colon. changed: key
    -> the value that the file gives and that of the run, for those that flags changed.
    """

    command: str
    config: str
    changed: Mapping[str, tuple[Any, Any]]


def add(workdir: pathlib.Path, start: Start, step: int) -> None:
    """Adds a start from this step on; a file that cannot be read begins anew.

    Raises OSError.
    """
    place = workdir / FILE
    before: list[Any] = []
    try:
        found = atomic_files.parse_json(place.read_text(encoding="utf-8"))
        before = list(found["starts"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    entry = {"time": round(time.time()), "step": step, **dataclasses.asdict(start)}
    kept = [*before[:1], *before[1:][-(MOST - 2) :], entry]
    atomic_files.write_json(place, {"starts": kept})
