"""Results of evaluations on disk: a folder each, which `read` and `folders` find.

    evaluations/200/results.json        metrics, and what was evaluated
    evaluations/200/retrieval.parquet   a row per query or example, per evaluator

A folder is whole or absent, and none is ever replaced.
"""

from __future__ import annotations

import dataclasses
import errno
import math
import os
import pathlib
import re
import urllib.parse
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from clipjax import atomic_files, paths, row_files
from clipjax.types import EvalResult, Metric, Rows, UserError

FILE = "results.json"
FOLDER = "evaluations"  # in a run, or in the working directory
_LONGEST = 120  # bytes of a folder's name
_ELSEWHERE = ("workdir",)  # facts that differ if a run's folder is moved
_NUMBERS = ("value", "chance", "low", "high")  # a Metric's, which may be infinite

# Results by the evaluators' labels, and what was evaluated: `Evaluation.meta`.
Part = tuple[Mapping[str, EvalResult], Mapping[str, Any]]
Tables = Mapping[str, Rows]  # by labels
_Files = dict[str, bytes]  # name -> content


class Evaluation(NamedTuple):
    """An evaluation that was written.

    folder: its own.
    meta: what was evaluated: "workdir" or "model", "identity" (clipjax/identity.py),
      "step", "ema", "evals" and "data", whose options are as in a config,
      "interpolate" and "share" of mixed weights, which have no identity, and "failed",
      label -> error of the evaluators that have no results.
    results: by the evaluators' labels, without rows, which `rows` reads.
    counts: by the same, the number of rows.
    """

    folder: pathlib.Path
    meta: dict[str, Any]
    results: dict[str, EvalResult]
    counts: dict[str, int]

    def rows(self, label: str) -> Rows:
        """An evaluator's table: column -> array [n] or [n k], or a list of n values;
        {} if the evaluator gave none.

        Raises UserError if there is no such evaluator, or its file cannot be read or
        has another number of rows than was written.

        >>> retrieval = results.read("runs/quickstart/evaluations/2").rows("retrieval")
        >>> len(retrieval["key"]) == len(retrieval["rank"])
        True
        """
        if label not in self.results:
            raise UserError(
                f"{self.folder} has no evaluator {label!r}: it has "
                f"{', '.join(self.results)}"
            )
        count = self.counts[label]
        return _read_rows(self.folder / _file(label), count) if count else {}


def read(folder: str | os.PathLike[str]) -> Evaluation:
    """Reads an evaluation's folder.

    Raises UserError if it is none, or its results.json is damaged.

    >>> evaluation = results.read("runs/quickstart/evaluations/2")
    >>> evaluation.meta["step"], list(evaluation.results)
    (2, ['retrieval'])
    """
    place = pathlib.Path(folder) / FILE
    try:
        content = atomic_files.parse_json(place.read_bytes())
        if not isinstance(content["meta"], dict):
            raise ValueError("its meta is no object")
        found, counts = {}, {}
        for label, fields in content["results"].items():
            counts[label] = int(fields.pop("rows"))
            metrics = fields["metrics"].items()
            fields["metrics"] = {name: _metric(values) for name, values in metrics}
            found[label] = EvalResult(**fields)
        return Evaluation(place.parent, content["meta"], found, counts)
    except (FileNotFoundError, NotADirectoryError) as error:
        inner = sorted(at.parent.name for at in place.parent.glob(f"*/{FILE}"))
        near = f"; in it are {', '.join(inner)}: name one" if inner else ""
        raise UserError(
            f"{folder} is no evaluation's folder: it has no {FILE}{near}"
        ) from error
    except OSError as error:
        raise UserError(atomic_files.describe_os_error(error)) from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(
            f"{place} cannot be read ({error}): it is damaged, or a later version of "
            "clipjax wrote it; evaluate again"
        ) from error


def folders(run: str | os.PathLike[str]) -> list[pathlib.Path]:
    """The folders of a run's evaluations, by step and name; [] if there are none.

    >>> [place.name for place in results.folders("runs/quickstart")]
    ['2']
    """
    top = pathlib.Path(run, FOLDER)
    # Hidden ones are not whole: see atomic_files.new_folder.
    found = [place.parent for place in top.glob(f"**/{FILE}")]
    parts = {place: place.relative_to(top).parts for place in found}
    return sorted(
        (place for place in found if not any(x[0] == "." for x in parts[place])),
        key=lambda place: (*_order(parts[place][0]), parts[place]),
    )


def own_folders(run: str | os.PathLike[str]) -> list[pathlib.Path]:
    """Those of a run's own evaluators and data, by step and age: `STEP`, and `STEP-2`,
    `STEP-3` and so on of later ones. Other names say what is not the run's own.
    """
    top = pathlib.Path(run, FOLDER)
    own = (place for place in folders(run) if place.parent == top)
    return [place for place in own if re.fullmatch(r"\d+(-\d+)?", place.name)]


def save(folder: pathlib.Path, parts: Mapping[str, Part]) -> tuple[pathlib.Path, bool]:
    """Writes evaluations of one model, each with its rows.

    folder: where to; a folder that exists keeps its content: the new one gets -2, -3,
    ... at its name's end, unless that holds the same results.
    parts: the name of a folder in it, or "" for itself -> its evaluation.

    Returns the folder, and whether it is new.

    Raises OSError if it cannot be written, UserError for a column of rows that Parquet
    cannot hold, TypeError for a value without a JSON form.
    """
    files = {name: _files(*part) for name, part in parts.items()}
    folder.parent.mkdir(parents=True, exist_ok=True)
    place, number = folder, 1
    while True:
        if is_taken(place):
            if _holds(place, files):
                return place, False
            number += 1
            place = folder.with_name(f"{folder.name}-{number}")
            continue
        atomic_files.remove_leftovers(place)
        try:
            with atomic_files.new_folder(place) as scratch:
                _fill(scratch, files)
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST) and is_taken(place):
                continue  # another process was faster, perhaps with the same results
            raise
        return place, True


def check(results: Mapping[str, EvalResult]) -> None:
    """Raises as `save` for rows that cannot be written."""
    _files(results, {})


def is_taken(folder: pathlib.Path) -> bool:
    """Whether a folder has content, or is a file."""
    return folder.exists() and (not folder.is_dir() or any(folder.iterdir()))


def new_folder(name: str | os.PathLike[str]) -> pathlib.Path:
    """The folder that `out` or --out names.

    Raises UserError if it has content, or is a file.
    """
    place = paths.local(name, "a folder of results")
    if is_taken(place):
        raise UserError(f"{place} exists: name a new folder for the results by --out")
    if place.is_mount():  # the results' folder is renamed to it
        raise UserError(
            f"{place} is a mount point, which no other folder can replace: name a new "
            f"folder in it by --out, such as {place / 'results'}"
        )
    return place


def write_tables(
    folder: pathlib.Path, file: str, content: Mapping[str, Any], tables: Tables
) -> None:
    """Writes a new folder of one JSON file and LABEL.parquet for each table.

    file: the JSON's name. content: JSON values.

    Raises OSError if it cannot be written, UserError as `save`.
    """
    files = {file: _json(_plain(content)), **_row_files(tables)}
    folder.parent.mkdir(parents=True, exist_ok=True)
    with atomic_files.new_folder(folder) as scratch:
        _fill(scratch, {"": files})


def folder_name(*words: str | int) -> str:
    """A folder's name from words; "" is left out. Hidden names are for scratch."""
    name = "-".join(str(word) for word in words if word != "")
    name = re.sub(r"[^\w.@+-]|^\.", "_", name)
    return name.encode()[:_LONGEST].decode("utf-8", "ignore")


def to_json(results: Mapping[str, EvalResult], meta: Mapping[str, Any]) -> dict:
    """{"meta": ..., "results": {label: the EvalResult's fields}} of JSON values: its
    "metrics" {name: the Metric's fields}, its "rows" their number.

    JSON has no number that is not finite: it becomes null, and a metric's infinity the
    text "inf" or "-inf". Raises TypeError for what has no JSON form.
    """
    written = {}
    for label, result in results.items():
        fields = dataclasses.asdict(dataclasses.replace(result, rows={}))
        for metric in fields["metrics"].values():
            metric.update({k: str(metric[k]) for k in _NUMBERS if _infinite(metric[k])})
        written[label] = {**fields, "rows": _count(result.rows)}
    return {"meta": _plain(meta), "results": _plain(written)}


def _files(results: Mapping[str, EvalResult], meta: Mapping[str, Any]) -> _Files:
    """The files of an evaluation's folder."""
    tables = {label: x.rows for label, x in results.items() if _count(x.rows)}
    return {FILE: _json(to_json(results, meta)), **_row_files(tables)}


def _json(content: Mapping[str, Any]) -> bytes:
    return atomic_files.json_text(content).encode("utf-8", "backslashreplace")


def _row_files(tables: Tables) -> _Files:
    return {_file(label): row_files.encode(x, label) for label, x in tables.items()}


def _fill(folder: pathlib.Path, parts: Mapping[str, _Files]) -> None:
    for name, files in parts.items():
        (folder / name).mkdir(exist_ok=True)
        for file, content in files.items():
            place = folder / name / file
            with atomic_files.name_errors(place):  # the folder is synced as a whole
                place.write_bytes(content)


def _holds(folder: pathlib.Path, parts: Mapping[str, _Files]) -> bool:
    """Whether a folder has the same evaluations, with their rows."""
    for name, files in parts.items():
        for file, content in files.items():
            try:
                there = (folder / name / file).read_bytes()
                read = _content if file == FILE else row_files.decode
                old, new = read(there), read(content)
            except (OSError, ValueError):
                return False
            if not (old == new if file == FILE else row_files.are_alike(old, new)):
                return False
    return True


def _content(text: bytes) -> Any:
    value = atomic_files.parse_json(text)
    if not isinstance(value, dict) or not isinstance(value.get("meta"), dict):
        return None
    meta = {k: v for k, v in value["meta"].items() if k not in _ELSEWHERE}
    return meta, value.get("results")


def _file(label: str) -> str:
    """The file of an evaluator's rows."""
    return f"{urllib.parse.quote(label, safe='@+')}.parquet"


def _count(rows: Rows) -> int:
    return len(rows["key"]) if rows else 0


def _order(name: str) -> tuple[int, str, int]:
    """A folder's step, -1 without one; its name; and its number among those of it."""
    digits = re.match(r"\d+", name)
    numbered = re.fullmatch(r"(.+?)-(\d+)", name)
    first, number = numbered.groups() if numbered else (name, "1")
    return int(digits[0]) if digits else -1, first, int(number)


def _metric(fields: dict[str, Any]) -> Metric:
    value = fields.pop("value")
    ends = {k: float(v) for k, v in fields.items() if k in _NUMBERS and v is not None}
    return Metric(math.nan if value is None else float(value), **{**fields, **ends})


def _infinite(value: float | None) -> bool:
    return value is not None and math.isinf(value)


def _read_rows(place: pathlib.Path, count: int) -> Rows:
    again = "evaluate again"
    try:
        rows = row_files.decode(place.read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(f"{place} cannot be read ({error}): {again}") from error
    if (there := _count(rows)) != count:
        raise UserError(f"{place} has {there} rows of {count}: {again}")
    return rows


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (str, bool, int)):
        return value
    raise TypeError(f"{type(value).__name__} has no JSON form: {value!r}")
