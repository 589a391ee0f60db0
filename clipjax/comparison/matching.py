"""Evaluations to compare: found, checked, and their rows put side by side."""

from __future__ import annotations

import collections
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from clipjax import paths, registry, results
from clipjax.results import Evaluation
from clipjax.types import Rows, UserError

LEAST_SHARED = 0.9  # of the larger side's rows
QUERY = ("key", "protocol", "direction", "fold", "query", "label_set")
_SAME_DATA = ("captions", "right", "label", "label_name")


class Matched(NamedTuple):
    """The rows that two tables share.

    first, second: int [n], their places in either. only_first, only_second: how many
    rows the other lacks.
    """

    first: np.ndarray
    second: np.ndarray
    only_first: int
    only_second: int


def find(name: str | os.PathLike[str]) -> Evaluation:
    """The evaluation of a folder, or a run's newest that is of its own data.

    Raises UserError if it is neither, or the run has none.
    """
    place = paths.local(name, "a run or an evaluation")
    if not place.is_dir():
        raise UserError(f"{name}: there is no such folder: name a run or an evaluation")
    runs_own = (place / "config.json").exists() or (place / results.FOLDER).is_dir()
    if (place / results.FILE).exists() or not runs_own:
        return results.read(place)
    own = results.own_folders(place)
    if not own:
        every = results.folders(place)
        others = ", ".join(str(at.relative_to(place)) for at in every)
        raise UserError(
            f"{name} has no evaluation of its own data"
            + (f"; name one of its others ({others})" if every else "")
            + f": make it by python -m clipjax.evaluate --workdir {name}"
        )
    return results.read(own[-1])


def check_same(label: str, one: Evaluation, other: Evaluation) -> None:
    """Raises UserError unless the results of an evaluator are comparable."""
    for what, read in _MADE_BY.items():
        before, after = read(label, one), read(label, other)
        if before != after:
            raise UserError(
                f"{label}: {what} {before or 'none'!r} in {one.folder} and "
                f"{after or 'none'!r} in {other.folder}, so their numbers are not "
                "comparable: evaluate both alike, or compare other evaluators by "
                "--evals=LABEL"
            )


def match(
    label: str, one: Evaluation, other: Evaluation, first: Rows, second: Rows
) -> Matched:
    """The rows of the same queries, in the first table's order.

    Rows are of the same query if their key, protocol, direction, fold, query and label
    set are equal, as far as they have these, and their number among such rows.

    Raises UserError if an example has no key, less than LEAST_SHARED is shared, or a
    query has other captions or right answers.
    """
    for side, rows in ((one, first), (other, second)):
        if "" in rows["key"]:
            raise UserError(
                f"{label}: examples of {side.folder} have no key, so they cannot be "
                "paired: give the source's examples keys (types.Example) and evaluate "
                "again"
            )
    names = [name for name in QUERY if name in first and name in second]
    places = dict(_numbered(second, names))
    ours, theirs = [], []
    for query, place in _numbered(first, names):
        if query in places:
            ours.append(place)
            theirs.append(places[query])
    found = Matched(
        np.array(ours, np.int64),
        np.array(theirs, np.int64),
        len(first["key"]) - len(ours),
        len(second["key"]) - len(ours),
    )
    most = max(len(first["key"]), len(second["key"]))
    if len(ours) < LEAST_SHARED * most:
        alone = next(iter(sorted(set(second["key"]) - set(first["key"]))), "")
        such = f", such as {alone!r} of the second alone" if alone else ""
        raise UserError(
            f"{label}: {one.folder} and {other.folder} share {len(ours)} of "
            f"{len(first['key'])} and {len(second['key'])} rows{such}: evaluate both "
            "on the same data"
        )
    for name in _SAME_DATA:
        if name in first and name in second:
            _check_data(name, label, one, other, first, second, found)
    return found


def take(rows: Rows, places: np.ndarray) -> dict[str, Any]:
    """The rows at these places."""
    return {
        name: column[places]
        if isinstance(column, np.ndarray)
        else [column[place] for place in places.tolist()]
        for name, column in rows.items()
    }


def _numbered(rows: Rows, names: list[str]) -> Iterator[tuple[Any, int]]:
    """Each row's query, told apart from others by a number, and the row's place."""
    seen: collections.Counter[Any] = collections.Counter()
    columns = [
        column.tolist() if isinstance(column := rows[name], np.ndarray) else column
        for name in names
    ]
    for place, query in enumerate(zip(*columns, strict=True)):
        yield (query, seen[query]), place
        seen[query] += 1


def _check_data(
    name: str,
    label: str,
    one: Evaluation,
    other: Evaluation,
    first: Rows,
    second: Rows,
    found: Matched,
) -> None:
    for a, b in zip(found.first.tolist(), found.second.tolist(), strict=True):
        if first[name][a] == second[name][b]:
            continue
        if name == "right" and "/same_" in str(first["protocol"][a]):
            continue  # other images are right, too, of which some may be broken
        before, after = map(registry.short_repr, (first[name][a], second[name][b]))
        raise UserError(
            f"{label}: {name} of {first['key'][a]!r} is {before} in {one.folder} and "
            f"{after} in {other.folder}: evaluate both on the same data"
        )


def _evaluator(label: str, evaluation: Evaluation) -> str:
    return _section(evaluation.meta, "evals", label).get("name", label)


def _section(values: Any, *keys: str) -> Mapping[str, Any]:
    for key in keys:
        values = values.get(key) if isinstance(values, Mapping) else None
    return values if isinstance(values, Mapping) else {}


_MADE_BY = {
    "the evaluator is": _evaluator,
    "the protocol is": lambda label, evaluation: evaluation.results[label].protocol,
}


def title(folder: str) -> str:
    """A folder as it is shown: from the working directory, if it is in it."""
    place, here = pathlib.Path(folder), pathlib.Path.cwd()
    return str(place.relative_to(here) if place.is_relative_to(here) else place)
