"""Evaluators' results as text: tables with intervals and chance."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from clipjax import class_recalls
from clipjax.types import EvalResult, Metric

CLASSES = 8  # lines of each table of classes
_CLASS = 40  # characters of a class's name, which may be several
_ROOM = 28  # characters of a name that leave room for the numbers in 80 columns


def table(results: Mapping[str, EvalResult]) -> Group:
    """A rich renderable: each evaluator's size and metrics, with their intervals,
    chance and the ratio to it. A column without numbers is left out.

    Metrics of one group ("a/x", "a/y") come below the group's name if they are long. A
    `*` marks the primary metric. A metric of which less is better has no ratio.
    """
    parts = []
    for label, result in results.items():
        title = f"{label}: {result.size}"
        if result.broken:
            title += f" ({result.broken} broken examples left out)"
        rows = Table(box=None, pad_edge=False, header_style="")
        rows.add_column("  metric", overflow="fold")
        shown = columns(result)
        for heading in shown:
            rows.add_column(heading, justify="right", no_wrap=True)
        groups = {
            name.rpartition("/")[0] for name in result.metrics if len(name) > _ROOM
        }
        above = ""
        for name, *cells in zip(result.metrics, *shown.values(), strict=True):
            primary = name == result.primary
            group, _, rest = name.rpartition("/")
            if group and group in groups:
                if group != above:
                    rows.add_row(Text(f"  {group}/"))
                name = f"  {rest}"
            above = group
            rows.add_row(
                Text(f"{'*' if primary else ' '} {name}"),  # no markup in names
                *map(Text, cells),
                style="bold" if primary else "",
            )
        parts += [Text(title), rows, Text()]
    return Group(*parts[:-1])


def columns(result: EvalResult) -> dict[str, list[str]]:
    """Heading -> the cells of the metrics, without the columns that are empty."""
    found = {
        heading: [cell(metric) for metric in result.metrics.values()]
        for heading, cell in _COLUMNS.items()
    }
    return {heading: cells for heading, cells in found.items() if any(cells)}


def class_tables(results: Mapping[str, EvalResult]) -> Group:
    """A rich renderable: for each label set of more than two classes, after a blank
    line those with the lowest recall, and the pairs most often confused; at most
    CLASSES each.
    """
    parts = []
    for label, result in results.items():
        for label_set in class_recalls.label_sets(result.rows):
            found = class_recalls.recalls(result.rows, label_set)
            pairs = class_recalls.confusions(result.rows, label_set)
            names = {one.name for one in found} | {pair.mistaken for pair in pairs}
            if len(names - {""}) <= 2:
                continue
            heads = "  lowest recall", "images", "recall", "95 % interval"
            worst = _plain_table(*heads, "mostly taken for")
            for one in found[:CLASSES]:
                mistaken = cut(one.mistaken, _CLASS) or "(not finite)"
                mistaken = f"{mistaken} ({one.count})" if one.count else ""
                cells = str(one.recall.n), quantity(one.recall), interval(one.recall)
                name = f"  {cut(one.name, _CLASS)}"
                worst.add_row(*map(Text, (name, *cells, mistaken)))
            heads = "  most confused", "images", "of", "share", "taken for"
            confused = _plain_table(*heads)
            for pair in pairs[:CLASSES]:
                cells = str(pair.count), str(pair.images), f"{100 * pair.share:.1f} %"
                mistaken = cut(pair.mistaken, _CLASS) or "(not finite)"
                name = f"  {cut(pair.name, _CLASS)}"
                confused.add_row(*map(Text, (name, *cells, mistaken)))
            parts += [Text(), Text(f"{label}, classes of {label_set}"), worst]
            parts += [confused] if pairs else []
    return Group(*parts)


def cut(text: str, most: int) -> str:
    """A text on one line, without the middle if it has more characters.

    >>> cut("crane;\\na bird of long legs", 12)
    'crane; ... g legs'
    """
    text = " ".join(text.split())
    if len(text) <= most:
        return text
    return f"{text[: most // 2].rstrip()} ... {text[-(most // 2) :].lstrip()}"


def _plain_table(first: str, *others: str) -> Table:
    """A table whose first and last column are texts, the others numbers."""
    made = Table(box=None, pad_edge=False, header_style="")
    made.add_column(Text(first), overflow="fold")
    for name in others[:-1]:
        made.add_column(Text(name), justify="right", no_wrap=True)
    made.add_column(Text(others[-1]), overflow="fold")
    return made


def sweep_table(sweep: Mapping[float, Mapping[str, EvalResult]]) -> Table:
    """A row for each share of interpolated weights, with the primary metrics."""
    rows = Table(box=None, pad_edge=False, header_style="")
    rows.add_column("share", justify="right")
    for label, result in next(iter(sweep.values())).items():
        rows.add_column(f"{label} {result.primary}", justify="right")
    for share, results in sweep.items():
        values = [
            Text(quantity(result.metrics[result.primary]))
            for result in results.values()
        ]
        rows.add_row(f"{share:g}", *values)
    return rows


def main_metric(label: str, result: EvalResult, *, intervals: bool = False) -> str:
    """An evaluator's primary metric in a line, with chance and broken examples.

    intervals: with its 95 % interval too.
    """
    metric = result.metrics[result.primary]
    ends = interval(metric) if intervals else ""
    beside = [f"95 % interval {ends}"] if ends else []
    beside += [f"chance {chance(metric)}"] if chance(metric) else []
    line = f"{label} {result.primary} {quantity(metric)}"
    line += f" ({', '.join(beside)})" if beside else ""
    if result.broken:
        line += f", {result.broken} unreadable examples left out"
    return line


def text(results: Mapping[str, EvalResult], width: int = 80) -> str:
    """The table as plain lines, for logs and pipes."""
    file = io.StringIO()
    console = Console(file=file, width=width, no_color=True, force_terminal=False)
    console.print(table(results))
    lines = file.getvalue().splitlines()
    return "\n".join(line.rstrip() for line in lines) + "\n"


def quantity(metric: Metric) -> str:
    """The value with its unit."""
    return _with_unit(metric.value, metric.unit)


def chance(metric: Metric) -> str:
    """Chance with its unit; empty if it is not known."""
    return "" if metric.chance is None else _with_unit(metric.chance, metric.unit)


def _with_unit(value: float, unit: str) -> str:
    word = {"fraction": "%", "rank": ""}.get(unit, unit)
    number = _number(value, unit)
    return f"{number} {word}" if word and math.isfinite(value) else number


def _number(value: float, unit: str) -> str:
    """The value as text, without the unit; a fraction as a percentage."""
    value = float(value)
    if not math.isfinite(value):
        return str(value)
    if unit == "rank":
        return f"{value:.1f}"
    if unit == "fraction":
        percent = 100 * value
        # Chance in a large gallery is far below 1 %.
        return f"{percent:.2g}" if 0 < percent < 0.1 else f"{percent:.2f}"
    whole = value.is_integer() or abs(value) >= 1000
    return f"{value:.0f}" if whole and abs(value) < 1e12 else f"{value:.4g}"


def interval(metric: Metric) -> str:
    """Both ends of the interval without the unit; empty if there is none."""
    if metric.low is None or metric.high is None:
        return ""
    return " - ".join(_number(end, metric.unit) for end in (metric.low, metric.high))


def times_chance(metric: Metric) -> str:
    """The ratio of value and chance; empty if it says nothing."""
    base = metric.chance or 0.0
    if not (metric.higher_is_better and base > 0 and math.isfinite(metric.value)):
        return ""
    return f"{metric.value / base:.1f}"


_COLUMNS = {
    "value": quantity,
    "95 % interval": interval,
    "chance": chance,
    "times chance": times_chance,
}
