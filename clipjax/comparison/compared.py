"""Models against a baseline: `compare_evaluations`."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from clipjax import registry, results
from clipjax.comparison import matching, paired_tests
from clipjax.comparison.differences import Difference, Flip, LeftOut, Shared
from clipjax.comparison.shared_rows import SharedRows, unlike
from clipjax.evals.common import result_rows
from clipjax.results import Evaluation
from clipjax.types import Rows, UserError

FILE = "compare.json"


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What `compare_evaluations` returns.

    baseline: its folder. models: the others', in order. differences: by evaluator,
    model and metric. shared, left_out: what was paired and what was not.
    rows: by evaluator, a row per shared query and model: `key`, `model`, what names the
      query, `baseline_X` and `X` for score, rank, prediction and hit (the probability
      that a right answer comes first) or an evaluator's own values, and `flip`: 1 if
      the model is better by its hit or the evaluator's own value, -1 if worse, else 0.
    """

    baseline: str
    models: list[str]
    shared: list[Shared]
    differences: list[Difference]
    left_out: list[LeftOut]
    rows: dict[str, Rows] = dataclasses.field(repr=False)
    _sides: Mapping[tuple[str, str], SharedRows] = dataclasses.field(repr=False)

    def to_json(self) -> dict[str, Any]:
        """All but the rows, as JSON values."""
        return {
            "baseline": self.baseline,
            "models": self.models,
            "shared": [dataclasses.asdict(one) for one in self.shared],
            "differences": [dataclasses.asdict(one) for one in self.differences],
            "left_out": [dataclasses.asdict(one) for one in self.left_out],
        }

    def flips(self, difference: Difference, count: int) -> tuple[list[Flip], ...]:
        """The `count` queries that a model is better at by most, and those worse."""
        side = self._sides[difference.label, difference.model]
        return side.flips(difference, count)


def compare_evaluations(
    baseline: str | os.PathLike[str],
    *others: str | os.PathLike[str],
    evals: Sequence[str] = (),
    metrics: Sequence[str] = (),
) -> Comparison:
    """Compares evaluations of models on the same examples, query by query.

    Args:
      baseline, others: folders of evaluations, or runs: then the newest one of their
        own data. Each of the others is compared with the baseline.
      evals: the evaluators' labels; all that they share if empty.
      metrics: "LABEL/NAME" or "NAME"; all that can be paired if empty.

    Raises:
      UserError: if a folder is none, an evaluation's rows cannot be read, they have no
        evaluator or metric of that name, or they are not comparable: other evaluators,
        protocols, data or right answers.

    >>> found = compare_evaluations("runs/a/evaluations/2", "runs/b/evaluations/2")
    >>> one = found.differences[0]
    >>> one.low <= one.difference <= one.high
    True
    """
    if not others:
        raise UserError(
            f"{baseline} alone cannot be compared: name two or more runs or evaluations"
        )
    first = matching.find(baseline)
    rest = [matching.find(name) for name in others]
    seen = [one.folder for one in (first, *rest)]
    twice = [place for i, place in enumerate(seen) if place in seen[:i]]
    if twice:
        raise UserError(f"{twice[0]} is named twice: name another evaluation")
    labels = _labels(first, rest, evals)
    _check_metrics(metrics, labels, [first, *rest])
    made = _Maker(first, metrics)
    for label in labels:
        ours = first.rows(label) if label in first.results else {}
        for other in rest:
            made.pair(label, other, ours)
    if not made.paired:
        why = made.left_out[0]
        raise UserError(
            f"{why.label}/{why.metric} of {first.folder} and {why.model} cannot be "
            f"paired: {why.reason}"
        )
    made.compute()
    adjusted = paired_tests.holm([one.p for one in made.differences])
    return Comparison(
        str(first.folder),
        [str(one.folder) for one in rest],
        made.shared,
        [
            dataclasses.replace(one, p_holm=p)
            for one, p in zip(made.differences, adjusted, strict=True)
        ],
        made.left_out,
        {label: _joined(tables) for label, tables in made.tables.items()},
        made.sides,
    )


def _labels(
    first: Evaluation, rest: Sequence[Evaluation], wanted: Sequence[str]
) -> list[str]:
    for one in (first, *rest):
        for label in wanted:
            if label not in one.results:
                near = registry.suggest(label, one.results)
                raise UserError(
                    f"{one.folder} has no evaluator {label!r}.{near} It has "
                    f"{', '.join(one.results)}"
                )
        if not first.results.keys() & one.results.keys():
            raise UserError(
                f"{first.folder} has {', '.join(first.results)} and {one.folder} "
                f"{', '.join(one.results)}: they share no evaluator"
            )
    every = dict.fromkeys(label for one in (first, *rest) for label in one.results)
    return [label for label in every if label in wanted or not wanted]


def _check_metrics(
    wanted: Sequence[str], labels: Sequence[str], every: Sequence[Evaluation]
) -> None:
    known = {
        f"{label}/{name}": name
        for one in every
        for label in labels
        if label in one.results
        for name in one.results[label].metrics
    }
    for metric in wanted:
        if metric not in known and metric not in known.values():
            near = registry.suggest(metric, [*known, *known.values()])
            raise UserError(f"no evaluator gives {metric!r}.{near}")


class _Maker:
    """Collects a comparison's parts, evaluator by evaluator and model by model."""

    def __init__(self, first: Evaluation, wanted: Sequence[str]):
        self._first = first
        self._wanted = wanted
        self.shared: list[Shared] = []
        self.differences: list[Difference] = []
        self.left_out: list[LeftOut] = []
        self.paired: dict[tuple[str, str], list[str]] = {}
        self.tables: dict[str, list[Rows]] = {}
        self.sides: dict[tuple[str, str], SharedRows] = {}

    def pair(self, label: str, other: Evaluation, ours: Rows) -> None:
        """Finds what an evaluator of the baseline and of another model share.

        Raises UserError if they are not comparable.
        """
        first, model = self._first, str(other.folder)
        sides = [one.results.get(label) for one in (first, other)]
        before, after = [{} if one is None else one.metrics for one in sides]
        names = [
            name
            for name in before | after
            if not {name, f"{label}/{name}"}.isdisjoint(self._wanted or [name])
        ]
        theirs: Rows = {}
        matched = None
        if names and before and after:
            matching.check_same(label, first, other)
            theirs = other.rows(label)
            if ours and theirs:
                matched = matching.match(label, first, other, ours, theirs)
        for name in names:
            if name not in before or name not in after:
                lacking = first.folder if name in after else other.folder
                why = f"{lacking} lacks it"
            elif not ours or not theirs:
                why = f"{other.folder if ours else first.folder} has no rows of it"
            else:
                why = unlike(name, before[name], ours)
                why = why or unlike(name, after[name], theirs)
            if why:
                self.left_out.append(LeftOut(label, name, model, why))
            else:
                self.paired.setdefault((label, model), []).append(name)
        if matched is None:
            return
        self.sides[label, model] = SharedRows(
            matching.take(ours, matched.first), matching.take(theirs, matched.second)
        )
        primary = first.results[label].primary
        compared = primary in self.paired.get((label, model), [])
        counts = len(matched.first), matched.only_first, matched.only_second
        self.shared.append(Shared(label, model, primary if compared else "", *counts))

    def compute(self) -> None:
        """The differences of all that is paired, and the rows of a report."""
        for (label, model), names in self.paired.items():
            side, result = self.sides[label, model], self._first.results[label]
            self.differences += [
                side.difference(label, model, name, result.metrics[name])
                for name in names
            ]
            primary = result.primary if result.primary in names else names[0]
            more = result.metrics[primary].higher_is_better
            table = side.report(model, names, primary, more)
            self.tables.setdefault(label, []).append(table)


def write(comparison: Comparison, folder: pathlib.Path) -> None:
    """Writes compare.json, and the rows of each evaluator as LABEL.parquet.

    Raises OSError if it cannot be written.
    """
    results.write_tables(folder, FILE, comparison.to_json(), comparison.rows)


def _joined(tables: Sequence[Rows]) -> Rows:
    """The tables one below the other, with the columns that all of them have."""
    names = [name for name in tables[0] if all(name in table for table in tables)]
    return result_rows.join([{name: table[name] for name in names} for table in tables])
