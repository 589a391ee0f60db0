"""What evaluators found, for people (a table beside chance) and for programs (JSON)."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from clipjax.types import EvalResult


def table(results: Mapping[str, EvalResult]) -> Group:
    """A rich renderable: for each evaluator its size, metrics, chance and their ratio.

    The primary metric is marked with `*`. Ranks have no ratio: there less is better.
    """
    parts = []
    for label, result in results.items():
        title = f"{label}: {result.size}"
        if result.broken:
            title += f" ({result.broken} broken examples left out)"
        rows = Table(box=None, pad_edge=False, header_style="")
        rows.add_column("  metric", overflow="fold")
        for heading in ("value", "chance", "times chance"):
            rows.add_column(heading, justify="right", no_wrap=True)
        for name, value in result.metrics.items():
            primary = name == result.primary
            chance = result.chance.get(name)
            rows.add_row(
                Text(f"{'*' if primary else ' '} {name}"),  # no markup in names
                _quantity(name, value),
                "" if chance is None else _quantity(name, chance),
                _ratio(name, value, chance),
                style="bold" if primary else "",
            )
        parts += [Text(title), rows, Text()]
    return Group(*parts[:-1])


def sweep_table(sweep: Mapping[float, Mapping[str, EvalResult]]) -> Table:
    """A row for each share of interpolated weights, with the primary metrics."""
    rows = Table(box=None, pad_edge=False, header_style="")
    rows.add_column("share", justify="right")
    for label, result in next(iter(sweep.values())).items():
        rows.add_column(f"{label} {result.primary}", justify="right")
    for share, results in sweep.items():
        values = [
            _quantity(result.primary, result.metrics[result.primary])
            for result in results.values()
        ]
        rows.add_row(f"{share:g}", *values)
    return rows


def sweep_to_json(
    sweep: Mapping[float, Mapping[str, EvalResult]], meta: Mapping[str, Any]
) -> dict:
    """{"meta": ..., "sweep": [{"share": ..., "results": as in `to_json`}, ...]}."""
    points = [
        {"share": share, "results": to_json(results, {})["results"]}
        for share, results in sweep.items()
    ]
    return {"meta": _plain(meta), "sweep": points}


def text(results: Mapping[str, EvalResult], width: int = 80) -> str:
    """The table as plain lines, for logs and pipes."""
    file = io.StringIO()
    console = Console(file=file, width=width, no_color=True, force_terminal=False)
    console.print(table(results))
    lines = file.getvalue().splitlines()
    return "\n".join(line.rstrip() for line in lines) + "\n"


def to_json(results: Mapping[str, EvalResult], meta: Mapping[str, Any]) -> dict:
    """{"meta": ..., "results": {label: the EvalResult's fields}} of JSON values.

    A number that is not finite, which JSON does not have, becomes null. Raises
    TypeError for what has no JSON form.
    """
    fields = ("primary", "metrics", "chance", "size", "broken")
    return {
        "meta": _plain(meta),
        "results": {
            label: {field: _plain(getattr(result, field)) for field in fields}
            for label, result in results.items()
        },
    }


def _quantity(name: str, value: float) -> str:
    """A fraction as a percentage; a rank as it is."""
    if not math.isfinite(value):
        return str(value)
    if _is_rank(name):
        return f"{value:.1f}"
    percent = 100 * value
    # Chance in a large gallery has its digits far behind the point.
    return f"{percent:.2g} %" if 0 < percent < 0.1 else f"{percent:.2f} %"


def _ratio(name: str, value: float, chance: float | None) -> str:
    if not chance or _is_rank(name) or not math.isfinite(value):
        return ""
    return f"{value / chance:.1f}"


def _is_rank(name: str) -> bool:
    return name.endswith("_rank")


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
