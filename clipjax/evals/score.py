"""`evals=retrieval+zeroshot+score`: the mean of other evaluators' metrics, one number.

Improving-CLIP studies compare models by such a mean: of recall at 1 in both directions
and the zero-shot top-1 accuracy. It encodes nothing; `checkpoint.best=score/mean` keeps
the best checkpoint by it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from clipjax import registry
from clipjax.evals.common import protocol
from clipjax.evals.common.intervals import mean_of_metrics
from clipjax.types import Announced, EvalResult, Metric, UserError

SUMMARY = True  # made of other evaluators' results; see types.Summary
_SHOWN = 12  # metrics that a message lists


def make(others: Mapping[str, Announced], *, of: tuple[str, ...] = ()) -> Score:
    """The mean of metrics with one unit.

    Args:
      of: their names, "retrieval/mean_recall@1"; empty: the primary metric of every
        other evaluator.

    Raises:
      UserError: if there is no other evaluator, or no such metric, if one is named
        twice, or if their units differ, which those of all primary metrics do if the
        evaluators have no unit in common.

    >>> others = {"retrieval": Announced({"mean_recall@1": "fraction"}, data=0)}
    >>> score = make(others, of=("retrieval/mean_recall@1",))
    >>> recall = Metric(0.5, chance=0.01, unit="fraction", n=100)
    >>> result = EvalResult({"mean_recall@1": recall}, "mean_recall@1", "100 images")
    >>> score.summarise({"retrieval": result}).metrics["mean"].value
    0.5
    """
    if not others:
        raise UserError(
            "evals=score is the mean of other evaluators' metrics, and there is none: "
            "choose evals=retrieval+zeroshot+score"
        )
    units = {}
    for name in of:
        unit = _unit(name, others)
        if of.count(name) > 1:
            raise UserError(f"evals.score.of names {name!r} twice")
        if unit is not None:
            units[name] = unit
    _check_units(units)
    if not of:
        _check_shared(others)
    data = {label: other.data for label, other in others.items()}
    return Score(of, data, next(iter(units.values()), None))


def _unit(name: str, others: Mapping[str, Announced]) -> str | None:
    """A metric's unit, None if it is not known before the evaluator runs."""
    label, _, metric = name.partition("/")
    units = others[label].units if label in others else {}
    if units is None or metric in units:
        return None if units is None else units[metric]
    known = [f"{x}/{one}" for x, other in others.items() for one in other.units or ()]
    near = registry.suggest(name, known)
    nearby = [one for one in known if one.startswith(f"{label}/")] or known
    more = ", ..." if len(nearby) > _SHOWN else ""
    raise UserError(
        f"evals.score.of: there is no metric {name!r}.{near} Known: "
        f"{', '.join(nearby[:_SHOWN])}{more}"
    )


def _check_units(units: Mapping[str, str]) -> None:
    first = next(iter(units), "")
    for name, unit in units.items():
        if unit != units[first]:
            one, other = (x or "a plain number" for x in (units[first], unit))
            raise UserError(
                f"evals.score.of: {first} ({one}) and {name} ({other}) have different "
                "units, and their mean none: name metrics of one unit"
            )


def _check_shared(others: Mapping[str, Announced]) -> None:
    """Raises UserError if no unit is of a metric of every evaluator, so that their
    primary ones differ.
    """
    known = {label: set(x.units.values()) for label, x in others.items() if x.units}
    if known and not set.intersection(*known.values()):
        units = "; ".join(
            f"{label}: {', '.join(sorted(x or 'plain numbers' for x in own))}"
            for label, own in known.items()
        )
        raise UserError(
            "evals.score.of is empty, which takes every evaluator's primary metric, "
            f"and these have no unit in common ({units}): name metrics of one unit by "
            "--evals.score.of"
        )


@dataclasses.dataclass(frozen=True)
class Score:
    """The mean; see `make`.

    of: the names of its parts. data: the number of each evaluator's source. unit: None
    if it is not known.

    What the number does not mean. It weighs the parts alike, whatever their chance and
    spread, so the part that varies most decides. A higher mean may hide a lower part:
    read the parts too.
    """

    of: tuple[str, ...]
    data: Mapping[str, int]
    unit: str | None

    def metric_units(self) -> dict[str, str] | None:
        """See types.Evaluator."""
        return None if self.unit is None else {"mean": self.unit}

    def summarise(self, results: Mapping[str, EvalResult]) -> EvalResult:
        """Metric "mean"; chance is the mean of the parts' chances, n the sum of theirs.

        The interval combines those of the parts (MOVER; Zou and Donner 2008,
        doi:10.1002/sim.3095): parts on different data are independent, parts on the
        same data vary together at worst, so it is too wide rather than too narrow.

        Raises UserError if a part is absent from the results, or units or directions
        differ.
        """
        names = self.of or tuple(
            f"{label}/{result.primary}" for label, result in results.items()
        )
        parts: dict[str, Metric] = {}
        for name in names:
            label, _, metric = name.partition("/")
            if metric not in results[label].metrics:
                has = ", ".join(list(results[label].metrics)[:_SHOWN])
                raise UserError(
                    f"evals.score.of: {label} gave no metric {metric!r}: it gave {has}"
                )
            parts[name] = results[label].metrics[metric]
        _check_units({name: part.unit for name, part in parts.items()})
        first, *rest = parts.values()
        if any(part.higher_is_better != first.higher_is_better for part in rest):
            raise UserError(
                f"evals.score.of: of some of {', '.join(names)} more is better, of "
                "others less, and their mean says nothing: name metrics of one kind"
            )
        values = list(parts.values())
        groups = [self.data[name.partition("/")[0]] for name in names]
        mean = mean_of_metrics(values, groups)
        labels = dict.fromkeys(name.partition("/")[0] for name in names)
        how = [f"{label}: {results[label].protocol}" for label in labels]
        what = f"mean of {', '.join(names)}"
        return EvalResult(
            {"mean": mean}, "mean", what, protocol=protocol.joined(what, *how)
        )
