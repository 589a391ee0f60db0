"""The folder of a study: whose it is, and what was checked.

study.json    the study, its cells' configs and steps; written once
journal.log   all runs: see study_journal.py
runs/         an ordinary run's folder each; may be deleted once the study is done
workers/      what each process does
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from clipjax import atomic_files, config_check
from clipjax.results import is_taken
from clipjax.studies import run_child
from clipjax.studies.study_cells import Cell
from clipjax.studies.study_file import Study
from clipjax.types import UserError

FILE = "study.json"
# What may change when a study goes on: it changes no run, only how many there are and
# how they are compared.
_FREE = ("axes", "seeds", "paired", "control", "minutes", "spread", "wanted")


def check_optuna() -> None:
    """Raises UserError if Optuna, which keeps the journal, is not installed."""
    if importlib.util.find_spec("optuna") is None:
        raise UserError("a study needs Optuna: pip install -e '.[study]'")


def check(
    study: Study,
    cells: Sequence[Cell],
    folder: pathlib.Path,
    say: Callable[[str], None],
) -> dict[str, int]:
    """The steps of a run of each cell, by its name; writes nothing.

    Raises UserError if the folder is another study's, or a run would be refused.
    """
    steps: dict[str, int] = {}
    if (folder / FILE).exists():
        before = _read(folder)
        _compare(before, study, cells, folder)
        steps = {x: before["cells"][x]["steps"] for x in before["cells"]}
    elif is_taken(folder):
        raise UserError(f"{folder} exists and is no study's: give another --workdir")
    new = [cell for cell in cells if cell.name not in steps]
    if new:
        say(f"cells to check before anything runs: {len(new)}")
        steps.update(run_child.check(study, new))
    return steps


def claim(
    study: Study, cells: Sequence[Cell], steps: Mapping[str, int], folder: pathlib.Path
) -> None:
    """Makes the folder this study's.

    Raises UserError if another process has made it another one's meanwhile.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        known = _read(folder)["cells"] if (folder / FILE).exists() else {}
        if known and all(cell.name in known for cell in cells):
            return
        made = {
            cell.name: {
                "folder": cell.folder,
                "values": dict(cell.values),
                "steps": steps[cell.name],
                "config": config_check.to_dict(cell.config),
            }
            for cell in cells
        }
        content = {"study": _plain(study), "cells": {**known, **made}}
        if known:  # cells were added
            atomic_files.write_json(folder / FILE, content)
        else:
            atomic_files.write_json_once(folder / FILE, content)
    except OSError as error:
        raise UserError(atomic_files.describe_os_error(error)) from error
    _compare(_read(folder), study, cells, folder)


def _compare(
    before: Mapping[str, Any],
    study: Study,
    cells: Sequence[Cell],
    folder: pathlib.Path,
) -> None:
    """Raises UserError if what a folder has is of another study."""
    now, other = _plain(study), []
    for key, value in now.items():
        if key not in _FREE and before["study"].get(key) != value:
            other.append(f"{key}: {before['study'].get(key)!r} -> {value!r}")
    for cell in cells:
        saved = before["cells"].get(cell.name)
        if saved is None:
            continue
        if saved["folder"] != cell.folder:
            other.append(f"{cell.name} has another folder, {saved['folder']}")
        # Options that are newer than the study get their defaults.
        config = config_check.to_dict(config_check.from_dict(saved["config"]))
        found = config_check.differences(config, cell.config)
        other += [
            f"{cell.name}: {key}: {old!r} -> {new!r}"
            for key, (old, new) in found.items()
        ]
    if other:
        raise UserError(
            f"{folder} holds another study ({'; '.join(other[:4])}): give another "
            "--workdir, or those values again"
        )


def _read(folder: pathlib.Path) -> dict[str, Any]:
    place = folder / FILE
    try:
        found = atomic_files.parse_json(place.read_bytes())
        if not isinstance(found["study"], dict) or not isinstance(found["cells"], dict):
            raise ValueError("it has no study")
        return found
    except OSError as error:
        raise UserError(atomic_files.describe_os_error(error)) from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{place} is damaged ({error}): restore it") from error


def _plain(study: Study) -> dict[str, Any]:
    """A study as JSON values."""
    return json.loads(json.dumps(dataclasses.asdict(study), default=str))
