"""`evaluate --suite FILE`: models on named evaluations, in one table.

    {"flowers": {"evals": "zeroshot", "data": "imagefolder", "split": "test",
                 "data_options": {"path": "DATA/flowers"}}}

Each evaluation is a folder, OUT/MODEL/NAME, which is whole or absent: a killed suite
goes on with those that are missing.
"""

from __future__ import annotations

import csv
import inspect
import io
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console

from clipjax import atomic_files, paths, registry, result_tables, results, whole_runs
from clipjax.engine import assemble
from clipjax.results import Evaluation
from clipjax.types import UserError
from clipjax.weights import read_model

FILE = "suite.json"  # in the suite's folder: what its evaluations are
_COLUMNS = (
    "model step evaluation evaluator metric value low high n chance unit "
    "higher_is_better primary protocol"
)

# An evaluation's name -> keywords of whole_runs.evaluate_model.
Suite = dict[str, dict[str, Any]]


def read(file: str | os.PathLike[str]) -> Suite:
    """Reads a suite's file.

    Raises UserError if it cannot be read, or an evaluation has a keyword or a type of
    value that evaluate_model does not take.
    """
    place = paths.local(file, "a suite")
    form = 'write {"NAME": {"evals": "zeroshot", "data": "imagefolder", ...}, ...}'
    try:
        content = atomic_files.parse_json(place.read_bytes())
    except OSError as error:
        raise UserError(atomic_files.describe_os_error(error)) from error
    except ValueError as error:
        raise UserError(f"{place} is no JSON ({error}): {form}") from error
    if not isinstance(content, dict) or not content:
        raise UserError(f"{place} names no evaluations: {form}")
    known = inspect.signature(whole_runs.evaluate_model).parameters
    known = {k: v for k, v in known.items() if k not in ("model", "out", "console")}
    for name, entry in content.items():
        if name != results.folder_name(name) or name in ("", ".", ".."):
            raise UserError(f"{place}: {name!r} cannot be a folder's name: rename it")
        if not isinstance(entry, dict):
            raise UserError(f"{place}: {name} is {entry!r}: {form}")
        for key, value in entry.items():
            if key not in known:
                raise UserError(
                    f"{place}: {name} has an unknown key {key!r}."
                    f"{registry.suggest(key, known)} Known: {', '.join(known)}"
                )
            _check_type(f"{place}: {name}: {key}", value, known[key].default)
    return {name: _tuples(entry) for name, entry in content.items()}


def run(
    models: Sequence[str],
    file: str | os.PathLike[str],
    out: str | os.PathLike[str],
    console: Console,
) -> list[str]:
    """Evaluates what is missing, and writes table.csv and table.md after each.

    Args:
      models: runs or released models. file: the suite's. out: its folder, new or one
        that this suite has begun.

    Returns a line for each evaluation that failed; the others are made all the same.

    Raises UserError if the file is wrong, two models have one name, or the folder is
    another suite's.
    """
    suite = read(file)
    top = paths.local(out, "a folder of results")
    places = _places(models, top)
    _claim(top, suite)
    failed = []
    for model, place in places.items():
        for name, options in suite.items():
            if (place / name / results.FILE).exists():
                before = results.read(place / name)
                _check_model(before, model)
                line = f"{place / name}: there already{_later(before, model, options)}"
                console.print(line, soft_wrap=True)
                continue
            try:
                whole_runs.evaluate_model(
                    model, out=place / name, console=console, **options
                )
            except UserError as error:
                failed.append(f"{name} of {model}: {error}")
                console.print(f"failed: {failed[-1]}", soft_wrap=True)
            _write_tables(top, places, suite)
    _write_tables(top, places, suite)
    console.print(f"written: {top / 'table.csv'} and table.md", soft_wrap=True)
    return failed


def _places(models: Sequence[str], top: pathlib.Path) -> dict[str, pathlib.Path]:
    """Each model's folder of results."""
    found: dict[str, pathlib.Path] = {}
    for model in models:
        name = pathlib.Path(os.path.normpath(model)).name
        if read_model.is_foreign(model):
            name = read_model.short_name(model)
        place = top / results.folder_name(name)
        if place in found.values():
            raise UserError(
                f"two models are called {place.name!r}: rename a folder, or evaluate "
                "them into different ones"
            )
        found[model] = place
    return found


def _claim(top: pathlib.Path, suite: Suite) -> None:
    """Keeps the suite in its folder; raises UserError if an evaluation was another."""
    place, before = top / FILE, {}
    if place.exists():
        before = read(place)
    elif results.is_taken(top):
        raise UserError(f"{top} exists and is no suite's: name a new folder by --out")
    for name in before.keys() & suite.keys():
        # One that has failed everywhere has no results, and may be mended.
        made = any(top.glob(f"*/{name}/{results.FILE}"))
        if made and before[name] != suite[name]:
            raise UserError(
                f"{top} has results of another {name!r}, {before[name]}: rename it in "
                "the suite's file, or name a new folder by --out"
            )
    top.mkdir(parents=True, exist_ok=True)
    atomic_files.write_json(place, before | suite)


def _check_model(evaluation: Evaluation, model: str) -> None:
    meta = evaluation.meta
    before = meta.get("workdir", meta.get("model"))
    if before not in (model, str(paths.local(model, "a run"))):
        raise UserError(
            f"{evaluation.folder} has results of {before}, not of {model}: rename a "
            "model's folder, or name a new folder by --out"
        )


def _later(evaluation: Evaluation, model: str, options: Mapping[str, Any]) -> str:
    """What to say of results of another step than would be evaluated now; "" if they
    are of that, or of a released model.
    """
    if read_model.is_foreign(model):
        return ""
    before = evaluation.meta.get("step")
    now = assemble.find_step(
        paths.local(model, "a run"), str(options.get("checkpoint", "best"))
    )
    if now in (before, None):
        return ""
    return (
        f", of step {before}, and the run has step {now} by now: remove the folder to "
        "evaluate that"
    )


def _write_tables(
    top: pathlib.Path, places: Mapping[str, pathlib.Path], suite: Suite
) -> None:
    """table.csv, with a line per metric; table.md, with a column per model."""
    found = {
        (place.name, name): results.read(place / name)
        for place in places.values()
        for name in suite
        if (place / name / results.FILE).exists()
    }
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS.split())
    for (model, name), evaluation in found.items():
        for line in _lines(evaluation):
            writer.writerow([model, evaluation.meta.get("step"), name, *line])
    models = [place.name for place in places.values()]
    rows = {
        (name, label): result.primary
        for (_, name), evaluation in found.items()
        for label, result in evaluation.results.items()
    }
    lines = [f"| evaluation | metric | {' | '.join(models)} |"]
    lines.append("|---|---|" + "---|" * len(models))
    for (name, label), primary in rows.items():
        cells = [_cell(found.get((model, name)), label, primary) for model in models]
        lines.append(f"| {name} | {label}/{primary} | {' | '.join(cells)} |")
    for file, content in {
        "table.csv": text.getvalue(),
        "table.md": "\n".join(lines) + "\n",
    }.items():
        with atomic_files.open_to_write(top / file) as written:
            written.write(content)


def _lines(evaluation: Evaluation) -> Iterator[list[Any]]:
    for label, result in evaluation.results.items():
        for name, one in result.metrics.items():
            values = [one.value, one.low, one.high, one.n, one.chance, one.unit]
            rest = [one.higher_is_better, name == result.primary, result.protocol]
            yield [label, name, *values, *rest]


def _cell(evaluation: Evaluation | None, label: str, name: str) -> str:
    if evaluation is None or label not in evaluation.results:
        return ""
    metric = evaluation.results[label].metrics.get(name)
    if metric is None:
        return ""
    ends = result_tables.interval(metric)
    return result_tables.quantity(metric) + (f" ({ends})" if ends else "")


def _check_type(where: str, value: Any, default: Any) -> None:
    kind = dict if default is None else type(default)
    if not isinstance(value, kind) and not (
        where.endswith("checkpoint") and _int(value)
    ):
        raise UserError(f"{where} is {value!r}: give a JSON {_JSON[kind]}")


def _int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _tuples(value: Any) -> Any:
    """Lists as tuples, which options are."""
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


_JSON = {str: "text", bool: "true or false", dict: "object"}
