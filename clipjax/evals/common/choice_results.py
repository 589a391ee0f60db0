"""Rows and metrics of choices between captions."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from clipjax.evals.common import choices as choosing
from clipjax.evals.common import intervals
from clipjax.evals.common.choice_plans import Made
from clipjax.evals.common.choices import Choice
from clipjax.evals.common.intervals import Hits
from clipjax.evals.common.text_likelihood import Bigrams
from clipjax.types import Metric, Rows

ACCURACY, TEXT_ONLY = "accuracy", "text_only_accuracy"
CEILING = "order_blind_ceiling"
MACRO = "macro_"  # before the names of means over groups
_COLUMNS = {ACCURACY: "hit", TEXT_ONLY: "text_only", CEILING: "order_blind"}


class Texts(NamedTuple):
    """rows: float32 [m e]. places: text -> its row."""

    rows: np.ndarray
    places: Mapping[str, int]


def table(
    kind: str,
    found: Sequence[Choice],
    made: Made,
    embeds: Texts,
    model: Bigrams,
    grouped: bool,
) -> Rows:
    """The rows of one kind's choices; see CaptionChoice.run."""
    flat, seen = choosing.flat(found), made.seen
    places = np.array([choice.place for choice in found])
    texts = np.array([embeds.places[text] for text in flat.texts])
    scores = choosing.similarities(seen.embed, embeds.rows, places[flat.owners], texts)
    ends = flat.starts + flat.sizes
    likely = choosing.likelihoods(found, made.pictures, model)
    rows: Rows = {
        "key": [seen.keys[place] for place in places],
        "protocol": [kind] * len(found),
        "query": np.array([choice.query for choice in found]),
        "captions": [list(choice.captions) for choice in found],
        "scores": [
            scores[start:end].tolist()
            for start, end in zip(flat.starts, ends, strict=True)
        ],
        "hit": choosing.hits(scores, flat),
        "text_only": choosing.hits(likely, flat),
        "order_blind": choosing.hits(choosing.order_blind(found), flat),
    }
    if grouped:
        groups = {
            "picture": made.pictures[places],
            "group": [choice.group for choice in found],
            "counted": np.array([choice.counted for choice in found]),
        }
        rows = {**rows, **groups}
    return rows


def names(kinds: Sequence[str], grouped: bool) -> list[str]:
    """The names of the metrics of these kinds."""
    starts = [f"{kind}/{x}" for kind in kinds for x in ("", MACRO)[: 1 + grouped]]
    starts += ["mean_"] if len(kinds) > 1 else []
    found = [f"{start}{name}" for start in starts for name in _COLUMNS]
    return found + ([f"mean_{MACRO}{ACCURACY}"] if grouped and len(kinds) > 1 else [])


def metrics(made: Made, tables: Mapping[str, Rows], grouped: bool) -> dict[str, Metric]:
    """By the names of `names`.

    tables: kind -> its rows, of the kinds with choices.
    """
    shares = {
        kind: _hits(made.kinds[kind], rows, made.pictures)
        for kind, rows in tables.items()
    }
    macros = {
        kind: _macros(made.kinds[kind], shares[kind]) if grouped else {}
        for kind in tables
    }
    found: dict[str, Metric] = {}
    for kind in made.kinds:
        for name in names([kind], grouped):
            found[name] = Metric(float("nan"), unit="fraction", n=0)
        for name, own in shares.get(kind, {}).items():
            found[f"{kind}/{name}"] = _exact(name, intervals.share(own))
        for name, metric in macros.get(kind, {}).items():
            found[f"{kind}/{MACRO}{name}"] = _exact(name, metric)
    if len(made.kinds) > 1:
        for name in _COLUMNS:
            parts = [own[name] for own in shares.values()]
            found[f"mean_{name}"] = _exact(name, intervals.mean(parts))
        if grouped:
            each = [own[ACCURACY] for own in macros.values() if own]
            found[f"mean_{MACRO}{ACCURACY}"] = _mean(each)
    return found


def _hits(found: Sequence[Choice], rows: Rows, pictures: np.ndarray) -> dict[str, Hits]:
    """By the metric's name."""
    groups = pictures[[choice.place for choice in found]]
    chance = float(np.mean([1 / len(choice.captions) for choice in found]))
    return {
        name: Hits(
            np.asarray(rows[column]), groups, None if name == CEILING else chance
        )
        for name, column in _COLUMNS.items()
    }


def _macros(found: Sequence[Choice], shares: Mapping[str, Hits]) -> dict[str, Metric]:
    """The means over the groups that count; empty if none has a choice."""
    counted = np.flatnonzero([choice.counted for choice in found])
    if not len(counted):
        return {}
    _, labels = np.unique([choice.group for choice in found], return_inverse=True)
    metrics = {}
    for name, (values, pictures, chance) in shares.items():
        assert pictures is not None  # of `_hits`
        metrics[name] = intervals.grouped_class_mean(
            values[counted], labels[counted], pictures[counted], chance
        )
    return metrics


def _mean(parts: Sequence[Metric]) -> Metric:
    """Of macro accuracies of kinds, whose images may be the same."""
    if not parts:
        return Metric(float("nan"), unit="fraction", n=0)
    return intervals.mean_of_metrics(parts, [0] * len(parts))


def _exact(name: str, metric: Metric) -> Metric:
    """The ceiling follows from the texts alone, so it has no interval."""
    if name != CEILING:
        return metric
    return dataclasses.replace(metric, low=None, high=None)
