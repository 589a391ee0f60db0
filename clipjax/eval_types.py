"""What evaluators return, as clipjax.types has it: metrics and rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

# A table: column name -> its values, arrays or lists of equal length.
Rows = Mapping[str, "Sequence[Any] | np.ndarray"]


@dataclasses.dataclass(frozen=True)
class Metric:
    """One number of an evaluation, and what it means.

    value: not finite if there is none. chance: an uninformed model's, if it is known.
    unit: "fraction" (from 0 to 1, shown as a percentage), "rank" (from 1), "" (a plain
      number), or any other word, shown behind the number ("nats", "px").
    higher_is_better: decides the best checkpoint, and whether a table compares with
      chance by a ratio.
    low, high: an interval that holds the value, of 95 %; both or neither.
    n: how many queries, images or the like the value is over.

    Numbers of numpy become Python's. Raises TypeError for a field of another type,
    ValueError unless low <= value <= high, and for a negative n.

    >>> Metric(41.5, chance=90.0, unit="degrees", higher_is_better=False).mode
    'min'
    """

    value: float
    chance: float | None = None
    unit: str = ""
    higher_is_better: bool = True
    low: float | None = None
    high: float | None = None
    n: int | None = None

    def __post_init__(self) -> None:
        for name in ("value", "chance", "low", "high", "n"):
            kind = int if name == "n" else float
            number = _number(getattr(self, name), kind, name)
            object.__setattr__(self, name, number)
        if self.value is None:
            raise TypeError("Metric: value=None: must be float, nan if there is none")
        for name, kind in (("unit", str), ("higher_is_better", bool)):
            if not isinstance(value := getattr(self, name), kind):
                raise TypeError(f"Metric: {name}={value!r}: must be {kind.__name__}")
        if self.n is not None and self.n < 0:
            raise ValueError(f"Metric: n={self.n}: must be at least 0")
        if self.low is None and self.high is None:
            return
        if self.low is None or self.high is None:
            raise ValueError(f"{self}: an interval has both low and high")
        if not self.low <= self.value <= self.high:
            raise ValueError(f"{self}: its interval does not hold its value")

    @property
    def mode(self) -> str:
        """The better side: "max" or "min"."""
        return "max" if self.higher_is_better else "min"


def _number(value: Any, kind: type, name: str) -> Any:
    """A field of Metric as a Python number; None stays None."""
    if isinstance(value, np.ndarray | np.generic) and value.ndim == 0:
        value = value.item()
    allowed = (int, float) if kind is float else int
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, allowed):
        raise TypeError(f"Metric: {name}={value!r}: must be {kind.__name__}")
    return kind(value)


class Announced(NamedTuple):
    """What is known of an evaluator's metrics before it runs.

    units: metric -> unit; None if the evaluator does not say. data: the number of its
    source; evaluators of the same one have the same.
    """

    units: Mapping[str, str] | None
    data: int


@dataclasses.dataclass(frozen=True)
class EvalResult:
    """An evaluator's result.

    metrics: by name.
    primary: the metric that the best checkpoint and summaries use.
    size: what was evaluated, as text ("1000 images x 5000 captions").
    broken: examples that could not be read and were left out.
    rows: a table with one row per example or query; {} if the evaluator gives none. Its
      first column, `key`, holds the examples' keys. A column is an array of numbers
      [n] or [n k], or a list of texts, numbers, or lists of these.
    protocol: one line that says how the numbers are made. Two results on the same
      examples are comparable if their protocols are equal; "" says nothing.

    Raises TypeError for a metric that is no Metric, a size or protocol that is no text
    and rows that are no dict, ValueError if `primary` is none, for columns of different
    lengths or another first one, or a protocol of several lines.

    >>> rows = {"key": ["1.png", "2.png"], "right": [True, False]}
    >>> EvalResult({"top1": Metric(0.5)}, "top1", "2 images", rows=rows).primary
    'top1'
    """

    metrics: dict[str, Metric]
    primary: str
    size: str
    broken: int = 0
    rows: Rows = dataclasses.field(default_factory=dict, repr=False, compare=False)
    protocol: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.rows, Mapping):
            raise TypeError(f"rows are a {type(self.rows).__name__}: must be a dict")
        if not isinstance(self.size, str):
            raise TypeError(f"size={self.size!r}: must be a text, such as '12 images'")
        if not isinstance(self.protocol, str):
            raise TypeError(f"protocol={self.protocol!r}: must be a text")
        if len(self.protocol.splitlines()) > 1:
            raise ValueError(f"protocol={self.protocol!r}: give one line")
        lengths = {name: len(column) for name, column in self.rows.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"rows have columns of different lengths: {lengths}")
        if lengths and next(iter(lengths)) != "key":
            raise ValueError(
                f"rows begin with {next(iter(lengths))!r}: put `key` first"
            )
        for name, metric in self.metrics.items():
            if not isinstance(metric, Metric):
                raise TypeError(
                    f"metric {name!r} is {metric!r}: give a clipjax.types.Metric"
                )
        if self.primary not in self.metrics:
            raise ValueError(
                f"primary={self.primary!r} is none of {', '.join(self.metrics)}"
            )
