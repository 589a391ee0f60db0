"""What a comparison finds."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Shared:
    """How many rows of an evaluator a model shares with the baseline.

    rows: these. only_baseline, only_model: those that the other lacks. primary: the
    evaluator's metric for summaries, "" if it is not compared.
    """

    label: str
    model: str
    primary: str
    rows: int
    only_baseline: int
    only_model: int


@dataclasses.dataclass(frozen=True)
class Difference:
    """A metric of a model against the baseline's, over the rows that they share.

    label: the evaluator's. model: its folder. baseline, value: the two values.
    difference: value - baseline, of which low and high are the 95 % interval.
    p: how often chance gives a difference as large; test: by which test. p_holm: p,
      adjusted for all differences of this comparison (Holm).
    better, worse: queries that the model does better or worse at.
    n: queries. images: their images, or groups of images that are paired (`cell`),
      which are the units of the interval and the test.
    unit, higher_is_better: as of types.Metric.
    """

    label: str
    metric: str
    model: str
    baseline: float
    value: float
    difference: float
    low: float
    high: float
    p: float
    p_holm: float
    test: str
    better: int
    worse: int
    n: int
    images: int
    unit: str
    higher_is_better: bool


@dataclasses.dataclass(frozen=True)
class LeftOut:
    """A metric that cannot be paired, and why."""

    label: str
    metric: str
    model: str
    reason: str


@dataclasses.dataclass(frozen=True)
class Flip:
    """A query whose hit, rank or other value differs.

    key: its image's. query: what else names it. baseline, value: the two values of the
    metric, and ranks and answers, if the rows have them.
    """

    key: str
    query: str
    baseline: float
    value: float
    ranks: tuple[float, float] | None
    answers: tuple[str, str] | None
