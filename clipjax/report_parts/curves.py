"""Charts of numbers over steps: static SVG by matplotlib, in the page's colours.

matplotlib writes colours as numbers. Here each stands for one of the page's own, which
follow light and dark, and is replaced in the finished text.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from clipjax.report_parts.page import Chart

WIDTH, HEIGHT = 4.0, 2.7  # inches of 100 units
POINTS = 400  # that a line has at most
COLOURS = 8  # then they begin again
_INK, _GRID, _FAINT = "#010101", "#020202", "#030303"
_STYLES = ("-", (0, (4, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)))


class Line(NamedTuple):
    """Numbers over steps.

    steps, values: [n], in order; values that are not finite are gaps. run: the number
    of its run, for the colour if there are several. name: in the chart's legend.
    """

    steps: np.ndarray
    values: np.ndarray
    run: int = 0
    name: str = ""


class Level(NamedTuple):
    """A dashed line across the chart, such as chance."""

    value: float
    name: str


def chart(
    title: str,
    unit: str,
    lines: Sequence[Line],
    *,
    levels: Sequence[Level] = (),
    by_run: bool = False,
    log: bool = False,
) -> Chart | None:
    """A chart of lines; None if there is nothing to draw.

    unit: of the values, with which the vertical axis is labelled. by_run: colours tell
    runs apart, and dashes the names; else colours tell the names. log: a logarithmic
    vertical axis, if all values are above 0.
    """
    lines = [line for line in lines if np.isfinite(line.values).any()]
    if not lines:
        return None
    figure, axes = _axes()
    names = list(dict.fromkeys(line.name for line in lines))
    for line in lines:
        number = line.run if by_run else names.index(line.name)
        style = _STYLES[names.index(line.name) % len(_STYLES)] if by_run else "-"
        _draw(axes, line, _colour(number), style)
    for level in levels:
        axes.axhline(level.value, color=_FAINT, linewidth=1, linestyle=(0, (3, 3)))
    _limit(axes, lines, levels, log)
    for level in levels:
        low, high = axes.get_ylim()
        if low <= level.value <= high:
            axes.annotate(
                level.name,
                (1, level.value),
                xycoords=("axes fraction", "data"),
                xytext=(-2, 2),
                textcoords="offset points",
                ha="right",
                va="bottom",
                fontsize=8.5,
                color=_INK,
            )
    axes.set_xlabel("step")
    axes.set_ylabel(unit)
    if len(names) > 1:
        _legend(axes, names, by_run)
    return Chart(title, _svg(figure, title), _words(title, unit, lines))


def scatter(
    title: str, groups: Sequence[tuple[str, np.ndarray]], labels: tuple[str, str]
) -> Chart:
    """Points in a plane, a colour per group. groups: names and points [n 2]."""
    lines = -(-len(groups) // 3)  # of the legend
    figure, axes = _axes(height=3 + 0.17 * lines, top=0.08 + 0.17 * lines)
    for number, (name, points) in enumerate(groups):
        axes.scatter(
            *points.T,
            s=17,
            color=_colour(number),
            alpha=0.75,
            linewidths=0,
            label=name,
            marker="os^Dv"[number // COLOURS % 5],
        )
    axes.set_xlabel(labels[0])
    axes.set_ylabel(labels[1])
    axes.set_xticks([])
    axes.set_yticks([])
    if len(groups) > 1:
        axes.legend(
            frameon=False, fontsize=8.5, labelcolor=_INK, ncols=3, markerscale=1.8,
            loc="lower left", bbox_to_anchor=(0, 1), borderpad=0, labelspacing=0.25,
            handletextpad=0.2, columnspacing=1,
        )  # fmt: skip
    counts = ", ".join(f"{len(points)} {name}" for name, points in groups)
    return Chart(title, _svg(figure, title), f"{title}: {counts}")


def thin(steps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, ...]:
    """At most POINTS means of neighbouring values, and the lowest and highest of each.

    Returns steps, means, lows, highs. Values that are not finite are left out.
    """
    known = np.isfinite(values)
    steps, values = steps[known], values[known]
    if len(values) <= POINTS:
        return steps, values, values, values
    starts = np.linspace(0, len(values), POINTS + 1).astype(int)[:-1]
    counts = np.diff([*starts, len(values)])
    return (
        np.add.reduceat(steps.astype(float), starts) / counts,
        np.add.reduceat(values, starts) / counts,
        np.minimum.reduceat(values, starts),
        np.maximum.reduceat(values, starts),
    )


def _axes(height: float = HEIGHT, top: float = 0.24) -> tuple[Any, Any]:
    """A figure and its axes; height, top: inches, of the figure and above the axes."""
    import matplotlib.figure  # here: an extra, and slow to import
    import matplotlib.ticker

    matplotlib.rcParams.update(
        {"svg.fonttype": "none", "svg.hashsalt": "clipjax", "font.size": 9.5}
    )
    figure = matplotlib.figure.Figure(figsize=(WIDTH, height))
    # Fixed margins, as a layout that fits them to the labels takes as long as the rest.
    low = 0.46 / height
    axes = figure.add_axes((0.165, low, 0.815, 1 - low - top / height))
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(_FAINT)
    axes.tick_params(colors=_INK, color=_FAINT, length=3)
    axes.xaxis.label.set_color(_INK)
    axes.yaxis.label.set_color(_INK)
    axes.grid(axis="y", color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.xaxis.set_major_formatter(_short)
    axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(5, integer=True))
    return figure, axes


def _draw(axes: Any, line: Line, colour: str, style: Any) -> None:
    steps, means, lows, highs = thin(line.steps, line.values)
    if len(steps) == 1:
        axes.plot(steps, means, "o", color=colour, markersize=4)
        return
    if lows is not means:
        axes.fill_between(steps, lows, highs, color=colour, alpha=0.18, linewidth=0)
    few = len(steps) <= 25
    axes.plot(
        steps,
        means,
        color=colour,
        linewidth=1.6,
        linestyle=style,
        marker="o" if few else "",
        markersize=2.5,
        solid_joinstyle="round",
    )


def _limit(axes: Any, lines: Sequence[Line], levels: Sequence[Level], log: bool):
    """Vertical limits that a few extreme values do not decide."""
    values = np.concatenate([line.values[np.isfinite(line.values)] for line in lines])
    if log and values.min() > 0:
        axes.set_yscale("log")
        return
    low, high = np.percentile(values, [0.25, 99.75])
    near = [x.value for x in levels if x.value <= high + 2 * (high - low or abs(high))]
    low, high = min([low, *near]), max([high, *near])
    room = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
    floor = low - room
    if low >= 0 and low < 0.4 * high:
        floor = 0.0
    axes.set_ylim(floor, high + room)


def _legend(axes: Any, names: Sequence[str], by_run: bool) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D(
            [], [],
            color=_INK if by_run else _colour(number),
            linestyle=_STYLES[number % len(_STYLES)] if by_run else "-",
            linewidth=1.6,
            label=name,
        )
        for number, name in enumerate(names)
    ]  # fmt: skip
    axes.legend(
        handles=handles, loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderpad=0,
        frameon=False, fontsize=8.5, labelcolor=_INK, handlelength=1.6, columnspacing=1,
    )  # fmt: skip


def _colour(number: int) -> str:
    return f"#0a0a{number % COLOURS + 16:02x}"


def _svg(figure: Any, title: str) -> str:
    """The figure as an element in the page's colours, with identifiers of its own."""
    file = io.StringIO()
    figure.savefig(
        file, format="svg", transparent=True,
        metadata={"Date": None, "Creator": None, "Format": None, "Type": None},
    )  # fmt: skip
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<(metadata|style)\b.*?</\1>", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->\n?", "", text, flags=re.DOTALL)
    text = re.sub(r'<svg [^>]*?(viewBox="[^"]*")[^>]*>', r"<svg \1>", text, count=1)
    start = re.sub(r"\W+", "-", title.lower())
    text = re.sub(r'\bid="', f'id="{start}-', text)
    text = re.sub(r"(xlink:href=\"|url\()#", rf"\1#{start}-", text)
    text = text.replace("xlink:href", "href")
    text = re.sub(r'font-family: [^;"]*; ', "", text)
    for number in range(COLOURS):
        text = text.replace(_colour(number), f"var(--s{number})")
    for colour, name in (
        (_INK, "currentColor"),
        (_GRID, "var(--grid)"),
        (_FAINT, "var(--faint)"),
    ):
        text = text.replace(colour, name)
    return re.sub(r"\n\s*", "\n", text).strip()


def _short(value: float, _: Any = None) -> str:
    """A step as on an axis: 200, 20k, 1.5M."""
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= 10 * size or (abs(value) >= size and size > 1e3):
            return f"{value / size:g}{letter}"
    return f"{value:g}"


def _words(title: str, unit: str, lines: Sequence[Line]) -> str:
    parts = []
    for line in lines[:6]:
        known = line.values[np.isfinite(line.values)]
        ends = f"{line.name or 'it'} from {known[0]:.4g} to {known[-1]:.4g}"
        parts.append(ends)
    return f"{title}, {unit}: {'; '.join(parts)}".replace(", :", ":")
