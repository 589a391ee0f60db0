"""A survey as text: tables for the terminal, and rows shared with the HTML page."""

from __future__ import annotations

import numpy as np
from rich.console import Group
from rich.table import Table
from rich.text import Text

from clipjax import byte_sizes
from clipjax.data.prepare.survey import Survey, spread, usable

SHOWN = 20  # largest number of classes in a table
HEADINGS = ("smallest", "5 %", "median", "95 %", "largest")


def counts(survey: Survey) -> list[tuple[str, str]]:
    """(name, number as text) per count of a survey."""
    rows = [
        ("examples", f"{survey.examples:,}"),
        ("broken", f"{len(survey.broken):,}"),
        ("images", ", ".join(f"{n:,} {f}" for f, n in survey.formats.most_common())),
        ("image bytes", byte_sizes.text(sum(survey.size)) if any(survey.size) else ""),
    ]
    if survey.words:
        without = sum(n == 0 for n in survey.captions)
        rows += [
            ("captions", f"{len(survey.words):,}"),
            ("images without a caption", f"{without:,}" if without else ""),
            ("captions of only spaces", f"{survey.blank:,}" if survey.blank else ""),
            (
                "captions that came before",
                f"{survey.repeated:,}" if survey.repeated else "",
            ),
        ]
    rows += [(f"other: {name}", form) for name, form in survey.others.items()]
    return [(what, value) for what, value in rows if value]


def spreads(survey: Survey) -> list[tuple[str, tuple[float, ...]]]:
    """(name, spread) per measured quantity."""
    wide, high = np.array(survey.wide), np.array(survey.high)
    rows = [
        ("width", spread(survey.wide)),
        ("height", spread(survey.high)),
        ("shortest side", spread(np.minimum(wide, high))),
        ("width / height", spread(wide / np.maximum(high, 1))),
        ("kilobytes", spread(np.array(survey.size) / 1e3) if any(survey.size) else ()),
    ]
    if survey.words:
        rows += [
            ("captions an image", spread(survey.captions)),
            ("words a caption", spread(survey.words)),
            ("characters a caption", spread(survey.letters)),
        ]
    return [(what, row) for what, row in rows if row]


def classes(survey: Survey, name: str) -> list[tuple[str, int]]:
    """(class, images) per class of a label set, largest first."""
    order = np.argsort(-survey.labels[name], kind="stable")
    names = survey.class_names[name]
    return [(names[i], int(survey.labels[name][i])) for i in order]


def balance(survey: Survey, name: str) -> str:
    """A sentence about how balanced a label set is."""
    numbers = survey.labels[name]
    words = f"{name}: {len(numbers)} classes"
    if empty := int((numbers == 0).sum()):
        words += f", {empty} of them without images"
    if numbers.any():
        ratio = numbers.max() / max(1, numbers[numbers > 0].min())
        words += (
            f"; the largest has {ratio:.3g} times the images of the smallest"
            if ratio > 1
            else "; all that have images have equally many"
            if empty
            else ", all of the same size"
        )
    if survey.unlabelled[name]:
        words += f"; {survey.unlabelled[name]:,} images without a label"
    return words


def number(value: float) -> str:
    """A measured number as short text."""
    if value == int(value):
        return f"{int(value):,}"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def tables(survey: Survey, title: str) -> Group:
    """A survey as a rich renderable."""
    parts: list = [Text(title, style="bold"), Text()]
    count_table = _table("", "")
    for row in counts(survey):
        count_table.add_row(*map(Text, row))
    parts += [count_table, Text()]
    if usable(survey):
        spread_table = _table("", *HEADINGS)
        for name, values in spreads(survey):
            spread_table.add_row(Text(name), *(number(value) for value in values))
        parts += [spread_table, Text()]
    for name in survey.labels:
        rows = classes(survey, name)
        parts.append(Text(balance(survey, name)))
        class_table = _table("", "images", "")
        most = max(1, rows[0][1]) if rows else 1
        for label, count in rows[:SHOWN]:
            bar = "#" * round(30 * count / most)
            class_table.add_row(Text(label), f"{count:,}", Text(bar, style="cyan"))
        parts.append(class_table)
        if len(rows) > SHOWN:
            parts.append(Text(f"  and {len(rows) - SHOWN} smaller classes"))
        parts.append(Text())
    return Group(*parts)


def _table(*headings: str) -> Table:
    header = any(headings)
    table = Table(box=None, pad_edge=False, header_style="dim", show_header=header)
    for i, heading in enumerate(headings):
        left = not i or not heading
        table.add_column(
            heading, justify="left" if left else "right", no_wrap=i > 0, overflow="fold"
        )
    return table
