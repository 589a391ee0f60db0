"""Comparisons as text."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from rich.console import Group
from rich.table import Table
from rich.text import Text

from clipjax.comparison.compared import Comparison
from clipjax.comparison.differences import Difference, Flip, LeftOut
from clipjax.result_tables import cut

_SIDE = re.compile(r"((?:.+/)?(?:image_to_text|text_to_image|mean(?=_recall@)))_(.+)")
_LISTED = 3  # names of what is left out
_SHOWN = 160  # characters of what names a query; a caption may have a million


def table(
    comparison: Comparison, names: Sequence[str], show: int = 0, every: bool = False
) -> Group:
    """A rich renderable: each evaluator's differences, model by model.

    names: of the baseline and the models, in their order. show: how many of the queries
    that flip most to list, either way, for each evaluator's primary metric, or for
    every one.
    """
    letters = [_letter(i) for i in range(len(names))]
    lines = [f"{a}: {b}" for a, b in zip(letters, names, strict=True)]
    lines[0] += " (baseline)"
    parts = [Text("\n".join(lines)), Text()]
    letter = dict(zip([comparison.baseline, *comparison.models], letters, strict=True))
    for one in comparison.shared:
        found = [
            difference
            for difference in comparison.differences
            if (difference.label, difference.model) == (one.label, one.model)
        ]
        if not found:
            continue
        head = f"{one.label}, {letter[one.model]} against A: {one.rows} rows are paired"
        if one.only_baseline or one.only_model:
            alone = f"{one.only_baseline} only in A and {one.only_model} only in "
            head += f" ({alone}{letter[one.model]} are left out)"
        parts += [Text(head), _differences(found, letter[one.model]), Text()]
        for difference in found if show else ():
            if every or difference.metric == one.primary or not one.primary:
                parts += _flips(comparison, difference, show)
    if comparison.left_out:
        parts += [Text(line) for line in _left_out(comparison.left_out)] + [Text()]
    count = len(comparison.differences)
    adjusted = f"; pH: p adjusted for all {count} (Holm)" if count > 1 else ""
    return Group(*parts, Text(f"+/-: queries better and worse{adjusted}"))


def _differences(found: Sequence[Difference], letter: str) -> Table:
    rows = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="")
    rows.add_column("  metric", overflow="fold")
    heads = "A", letter, f"{letter} - A", "95 % interval", "p", "pH", "+/-", "n"
    for heading in heads:
        rows.add_column(heading, justify="right", no_wrap=True)
    above = ""
    for one in found:
        match = _SIDE.fullmatch(one.metric)
        group, name = match.groups() if match else ("", one.metric)
        if not match and len(name) > 16:
            group, _, name = name.rpartition("/")
        if group and group != above:  # a line per part: the column is narrow
            for part in re.split("(?<=/)", group):
                rows.add_row(Text(f"  {part}"))
        above = group
        unit = {"fraction": "%", "rank": "", "": ""}.get(one.unit, f" {one.unit}")
        start = "   " if group else "  "
        texts = [
            *numbers(one),
            p_value(one.p),
            p_value(one.p_holm),
            f"{one.better}/{one.worse}",
            str(one.n),
        ]
        sure = "bold" if one.p_holm < 0.05 else ""
        rows.add_row(Text(f"{start}{name}{unit}"), *map(Text, texts), style=sure)
    return rows


def numbers(one: Difference) -> list[str]:
    """A difference's two values, itself and its interval, without the unit."""
    return [
        _number(one.baseline, one.unit),
        _number(one.value, one.unit),
        _number(one.difference, one.unit, "+"),
        " ".join(_number(end, one.unit, "+") for end in (one.low, one.high)),
    ]


def _flips(comparison: Comparison, one: Difference, show: int) -> Iterator[Text]:
    for what, flips in zip(
        ("better", "worse"), comparison.flips(one, show), strict=True
    ):
        total = one.better if what == "better" else one.worse
        if total:
            yield Text(f"  {one.metric}, {what}: {len(flips)} of {total}")
        for flip in flips:
            what = f"{cut(flip.key, _SHOWN)} {cut(flip.query, _SHOWN)}"
            yield Text(f"    {what}: {_change(flip, one.unit)}")
    if one.better or one.worse:
        yield Text()


def _change(flip: Flip, unit: str) -> str:
    if flip.ranks is not None:
        change = f"rank {flip.ranks[0]:g} -> {flip.ranks[1]:g}"
    else:
        before, after = (_number(x, unit) for x in (flip.baseline, flip.value))
        change = f"{before} -> {after}{' %' if unit == 'fraction' else ''}"
    if flip.answers is not None:
        change += f", {' -> '.join(cut(x, _SHOWN) or 'none' for x in flip.answers)}"
    return change


def _left_out(found: Sequence[LeftOut]) -> Iterator[str]:
    by_reason: dict[tuple[str, str], list[str]] = {}
    for one in found:
        names = by_reason.setdefault((one.label, one.reason), [])
        if one.metric not in names:
            names.append(one.metric)
    for (label, reason), names in by_reason.items():
        more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
        yield f"{label}: not compared: {', '.join(names[:_LISTED])}{more}: {reason}"


def _number(value: float, unit: str, sign: str = "") -> str:
    if unit == "fraction":
        return f"{100 * value:{sign}.2f}"
    return f"{value:{sign}.1f}" if unit == "rank" else f"{value:{sign}.4g}"


def p_value(p: float) -> str:
    """p with four digits, without the zero before the point."""
    return "<.0001" if p < 0.0001 else f"{p:.4f}".removeprefix("0")


def _letter(number: int) -> str:
    """A to Z, then A1, B1 and so on."""
    turn, place = divmod(number, 26)
    return "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[place] + (str(turn) if turn else "")
