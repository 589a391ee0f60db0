"""Results of evaluations on disk: a folder each, which `read` and `folders` find.

    evaluations/200/results.json        metrics, and what was evaluated
    evaluations/200/retrieval.parquet   a row per query or example, per evaluator

A folder is whole or absent, and none is ever replaced.
"""

from __future__ import annotations

import dataclasses
import errno
import itertools
import math
import os
import pathlib
import re
import urllib.parse
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from clipjax import atomic_files, paths
from clipjax.types import EvalResult, Metric, Rows, UserError

FILE = "results.json"
FOLDER = "evaluations"  # in a run, or in the working directory
_LONGEST = 120  # characters of a folder's name
_ELSEWHERE = ("workdir",)  # facts that differ if a run's folder is moved

# Results by the evaluators' labels, and what was evaluated: `Evaluation.meta`.
Part = tuple[Mapping[str, EvalResult], Mapping[str, Any]]
Tables = Mapping[str, Rows]  # by labels


class Evaluation(NamedTuple):
    """An evaluation that was written.

    folder: its own.
    meta: what was evaluated: "workdir" or "model", "step", "ema", "evals" and "data",
      whose options are as in a config, and "interpolate" and "share" of mixed weights.
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
        key=lambda place: (_step(parts[place][0]), parts[place]),
    )


def save(folder: pathlib.Path, parts: Mapping[str, Part]) -> tuple[pathlib.Path, bool]:
    """Writes evaluations of one model, each with its rows.

    folder: where to; a folder that exists keeps its content: the new one gets -2, -3,
    ... at its name's end, unless that holds the same results.
    parts: the name of a folder in it, or "" for itself -> its evaluation.

    Returns the folder, and whether it is new.

    Raises OSError if it cannot be written, TypeError for a value without a JSON form.
    """
    contents = {name: to_json(*part) for name, part in parts.items()}
    folder.parent.mkdir(parents=True, exist_ok=True)
    for number in itertools.count(1):
        place = folder
        if number > 1:
            place = folder.with_name(f"{folder.name}-{number}")
        if place.exists() and (not place.is_dir() or any(place.iterdir())):
            if _holds(place, contents):
                return place, False
            continue
        try:
            with atomic_files.new_folder(place) as scratch:
                for name, content in contents.items():
                    (scratch / name).mkdir(exist_ok=True)
                    _write(scratch / name, content, parts[name][0])
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST):  # made by another
                continue
            raise
        return place, True
    raise AssertionError


def new_folder(name: str | os.PathLike[str]) -> pathlib.Path:
    """The folder that `out` or --out names.

    Raises UserError if it has content, or is a file.
    """
    place = paths.local(name, "a folder of results")
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise UserError(f"{place} exists: name a new folder for the results by --out")
    return place


def write_tables(
    folder: pathlib.Path, file: str, content: Mapping[str, Any], tables: Tables
) -> None:
    """Writes a new folder of one JSON file and LABEL.parquet for each table.

    file: the JSON's name. content: JSON values.

    Raises OSError if it cannot be written.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with atomic_files.new_folder(folder) as scratch:
        atomic_files.write_json(scratch / file, _plain(content))
        for label, rows in tables.items():
            _write_rows(scratch / _file(label), rows)


def folder_name(*words: str | int) -> str:
    """A folder's name from words; "" is left out."""
    name = "-".join(str(word) for word in words if word != "")
    return re.sub(r"[^\w.@+-]", "_", name)[:_LONGEST]


def to_json(results: Mapping[str, EvalResult], meta: Mapping[str, Any]) -> dict:
    """{"meta": ..., "results": {label: the EvalResult's fields}} of JSON values: its
    "metrics" {name: the Metric's fields}, its "rows" their number.

    A number that is not finite, which JSON does not have, becomes null. Raises
    TypeError for what has no JSON form.
    """
    written = {}
    for label, result in results.items():
        fields = dataclasses.asdict(dataclasses.replace(result, rows={}))
        written[label] = {**fields, "rows": _count(result.rows)}
    return {"meta": _plain(meta), "results": _plain(written)}


def _holds(folder: pathlib.Path, contents: Mapping[str, Any]) -> bool:
    """Whether a folder has the same evaluations, with their rows."""
    for name, content in contents.items():
        try:
            there = atomic_files.parse_json((folder / name / FILE).read_bytes())
        except (OSError, ValueError):
            return False
        if _content(there) != _content(content):
            return False
        for label, fields in content["results"].items():
            if fields["rows"] and not (folder / name / _file(label)).exists():
                return False
    return True


def _content(value: Any) -> Any:
    meta = {k: v for k, v in value.get("meta", {}).items() if k not in _ELSEWHERE}
    return meta, value.get("results")


def _write(
    folder: pathlib.Path, content: Any, results: Mapping[str, EvalResult]
) -> None:
    atomic_files.write_json(folder / FILE, content)
    for label, fields in content["results"].items():
        if fields["rows"]:
            _write_rows(folder / _file(label), results[label].rows)


def _file(label: str) -> str:
    """The file of an evaluator's rows."""
    return f"{urllib.parse.quote(label, safe='@+')}.parquet"


def _count(rows: Rows) -> int:
    return len(rows["key"]) if rows else 0


def _step(name: str) -> int:
    digits = re.match(r"\d+", name)
    return int(digits[0]) if digits else -1


def _metric(fields: dict[str, Any]) -> Metric:
    value = fields.pop("value")
    return Metric(math.nan if value is None else value, **fields)


def _write_rows(place: pathlib.Path, rows: Rows) -> None:
    import pyarrow  # here: its import takes long
    import pyarrow.parquet

    columns = {name: _column(pyarrow, values) for name, values in rows.items()}
    # Opened here: pyarrow takes some paths for addresses.
    with atomic_files.name_errors(place), place.open("wb") as file:
        pyarrow.parquet.write_table(pyarrow.table(columns), file)


def _column(pyarrow: Any, values: Any) -> Any:
    if not isinstance(values, np.ndarray):
        return pyarrow.array([_encodable(value) for value in values])
    if values.ndim == 1:
        return pyarrow.array(values)
    width = int(np.prod(values.shape[1:]))
    flat = pyarrow.array(values.reshape(-1))
    return pyarrow.FixedSizeListArray.from_arrays(flat, width)


def _encodable(value: Any) -> Any:
    """A text whose bytes that are not UTF-8 are escaped, as in the JSON."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, (list, tuple)):
        return [_encodable(inner) for inner in value]
    return value


def _read_rows(place: pathlib.Path, count: int) -> Rows:
    import pyarrow
    import pyarrow.parquet

    again = "evaluate again"
    try:
        with place.open("rb") as file:
            table = pyarrow.parquet.read_table(file)
    except (OSError, pyarrow.ArrowException) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{place} cannot be read ({reason}): {again}") from error
    if len(table) != count:
        raise UserError(f"{place} has {len(table)} rows of {count}: {again}")
    return {name: _values(table[name]) for name in table.column_names}


def _values(column: Any) -> Any:
    import pyarrow.types as kinds

    if kinds.is_fixed_size_list(column.type):
        flat = column.combine_chunks().flatten()
        return flat.to_numpy(zero_copy_only=False).reshape(len(column), -1)
    if kinds.is_primitive(column.type):
        return column.to_numpy()
    return column.to_pylist()


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
