"""The rows that two evaluations share, and the differences between them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from clipjax.comparison import matching, paired_tests, row_metrics
from clipjax.comparison.differences import Difference, Flip
from clipjax.comparison.paired_tests import Pairs
from clipjax.comparison.row_metrics import Queries
from clipjax.evals.common import bootstrap, result_rows
from clipjax.types import Metric, Rows

_SHOWN = ("score", "rank", "prediction", "prediction_name")  # columns of a report
_ALIKE = 1e-9  # values that differ less are equal


@dataclasses.dataclass(frozen=True)
class SharedRows:
    """An evaluator's shared rows of the baseline and of one model, in one order."""

    first: Rows
    second: Rows

    def pairs(self, name: str) -> tuple[Pairs, Queries, Queries]:
        """A metric's values in pairs, and the queries of the baseline and the model.

        Raises KeyError if the rows have no values of it.
        """
        one, other = (row_metrics.of(name, rows) for rows in (self.first, self.second))
        if one is None or other is None:
            raise KeyError(name)
        # Queries of one picture, or of one group of images, vary together.
        units = [x for x in ("picture", "cell", "key") if x in self.first][0]
        keys = np.array(self.first[units])[one.places]
        _, groups = np.unique(keys, return_inverse=True)
        return Pairs(one.values, other.values, one.weights, groups), one, other

    def flips(self, difference: Difference, count: int) -> tuple[list[Flip], ...]:
        """As Comparison.flips."""
        pairs, queries, _ = self.pairs(difference.metric)
        places = queries.places
        gain = pairs.second - pairs.first
        gain = gain if difference.higher_is_better else -gain
        moved = np.zeros(len(gain))
        if "rank" in self.first:
            before, after = (
                np.asarray(rows["rank"], float)[places]
                for rows in (self.first, self.second)
            )
            moved = np.log(before) - np.log(after)
        order = np.lexsort((-moved, -gain))
        best = order[:count][gain[order[:count]] > _ALIKE]
        worst = order[::-1][:count][gain[order[::-1][:count]] < -_ALIKE]
        values = list(zip(places, pairs.first, pairs.second, strict=True))
        return tuple(
            [self._flip(*values[at]) for at in ats.tolist()] for ats in (best, worst)
        )

    def _flip(self, place: int, before: float, after: float) -> Flip:
        first, second = self.first, self.second
        ranks = answers = None
        if "rank" in first:
            ranks = float(first["rank"][place]), float(second["rank"][place])
        if "prediction_name" in first:
            answers = first["prediction_name"][place], second["prediction_name"][place]
        words = [str(first[x][place]) for x in ("direction", "query") if x in first]
        if first.get("direction", {place: ""})[place].startswith("text"):
            words.append(repr(first["captions"][place][0]))
        if "scores" in first:
            words = [first["protocol"][place], repr(first["captions"][place][0])]
        if "match" in first:
            kind = "right" if first["match"][place] else "wrong"
            words = [f"{kind} pair", repr(first["captions"][place][0])]
        if "label_set" in first:
            words.append(f"{first['label_set'][place]}={first['label_name'][place]}")
        key = first["key"][place]
        return Flip(key, " ".join(words), float(before), float(after), ranks, answers)

    def difference(
        self, label: str, model: str, name: str, metric: Metric
    ) -> Difference:
        """A metric's difference, not yet adjusted for others.

        label, model: as of Difference. metric: the baseline's, for its kind.
        """
        pairs, one, other = self.pairs(name)
        first, second = pairs.first, pairs.second
        before, after = one.metric, other.metric
        if one.median:
            low, high = bootstrap.median_difference(first, second, pairs.groups)
            p, test = paired_tests.median_swaps(pairs), "swaps"
        else:
            low, high = _mean_interval(pairs, metric.unit)
            p, test = paired_tests.sign_flips(pairs), "sign flips"
        gain = second - first if metric.higher_is_better else first - second
        return Difference(
            label,
            name,
            model,
            before,
            after,
            after - before,
            min(low, after - before),
            max(high, after - before),
            p,
            p,
            test,
            int((gain > _ALIKE).sum()),
            int((gain < -_ALIKE).sum()),
            len(first),
            int(pairs.groups.max()) + 1,
            metric.unit,
            metric.higher_is_better,
        )

    def report(
        self, model: str, paired: Sequence[str], primary: str, more: bool
    ) -> Rows:
        """The rows of Comparison.rows of one model.

        paired: its metrics. primary: the one that flips are of, if the rows are not of
        ranks, and whether more of it is better.
        """
        first, second = self.first, self.second
        count = len(first["key"])
        same = [x for x in matching.QUERY if x in first and x in second and x != "key"]
        table: dict[str, Any] = {"key": first["key"], "model": [model] * count}
        table |= {name: first[name] for name in same}
        names = [name for name in _SHOWN if name in first and name in second]
        names += [name for name in paired if name in first and name not in names]
        for name in names:
            table[f"baseline_{name}"], table[name] = first[name], second[name]
        before, after = _hits_of(first), _hits_of(second)
        if before is not None and after is not None:
            table["baseline_hit"], table["hit"] = before, after
            more = True
        else:
            before, after = (
                np.asarray(rows[primary], float) for rows in (first, second)
            )
        gain = after - before if more else before - after
        table["flip"] = (gain > _ALIKE).astype(np.int8) - (gain < -_ALIKE)
        return table


def _hits_of(rows: Rows) -> np.ndarray | None:
    """How likely each row hits; None if they are not of ranks, choices or matches."""
    if "ties" in rows and "rank" in rows:
        return result_rows.ranks_of(rows).hits(1)
    if "hit" in rows and ("scores" in rows or "half" in rows):
        return np.asarray(rows["hit"], float)
    return None


def _mean_interval(pairs: Pairs, unit: str) -> tuple[float, float]:
    if unit == "fraction":
        return paired_tests.share_interval(pairs)
    first, second, _, groups = pairs
    step = 1.0 if unit == "rank" else float(np.ptp(np.concatenate([first, second])))
    return bootstrap.mean_difference(first, second, groups, step=step)


def unlike(name: str, metric: Metric, rows: Rows) -> str:
    """Why rows are not those of a metric; "" if they give its value."""
    found = row_metrics.of(name, rows)
    if found is None:
        return "the rows have no value per query for it"
    if math.isclose(found.metric, metric.value, rel_tol=1e-6, abs_tol=_ALIKE):
        return ""
    return f"the rows give {found.metric:.6g}, and it is {metric.value:.6g}"
