"""A survey for people: lines for the terminal, and the rows that the page shares."""

from __future__ import annotations

import numpy as np
from rich.console import Group
from rich.table import Table
from rich.text import Text

from clipjax.data.prepare.survey import Survey, spread, usable

SHOWN = 20  # classes at most in a table; of more the largest and smallest
HEADINGS = ("smallest", "5 %", "median", "95 %", "largest")


def counts(found: Survey) -> list[tuple[str, str]]:
    """(what, how many) of a survey."""
    rows = [
        ("examples", f"{found.examples:,}"),
        ("broken", f"{len(found.broken):,}"),
        ("images", ", ".join(f"{n:,} {f}" for f, n in found.formats.most_common())),
        ("image bytes", size(sum(found.size)) if any(found.size) else ""),
    ]
    if found.words:
        without = sum(n == 0 for n in found.captions)
        rows += [
            ("captions", f"{len(found.words):,}"),
            ("images without a caption", f"{without:,}" if without else ""),
            ("captions of only spaces", f"{found.blank:,}" if found.blank else ""),
            (
                "captions that came before",
                f"{found.repeated:,}" if found.repeated else "",
            ),
        ]
    rows += [(f"other: {name}", form) for name, form in found.others.items()]
    return [(what, value) for what, value in rows if value]


def spreads(found: Survey) -> list[tuple[str, tuple[float, ...]]]:
    """(what, its spread) of what can be measured."""
    wide, high = np.array(found.wide), np.array(found.high)
    rows = [
        ("width", spread(found.wide)),
        ("height", spread(found.high)),
        ("shortest side", spread(np.minimum(wide, high))),
        ("width / height", spread(wide / np.maximum(high, 1))),
        ("kilobytes", spread(np.array(found.size) / 1e3) if any(found.size) else ()),
    ]
    if found.words:
        rows += [
            ("captions an image", spread(found.captions)),
            ("words a caption", spread(found.words)),
            ("characters a caption", spread(found.letters)),
        ]
    return [(what, row) for what, row in rows if row]


def classes(found: Survey, name: str) -> list[tuple[str, int]]:
    """(class, images) of a label set, the largest first."""
    order = np.argsort(-found.labels[name], kind="stable")
    names = found.class_names[name]
    return [(names[i], int(found.labels[name][i])) for i in order]


def balance(found: Survey, name: str) -> str:
    """How even a label set is, in words."""
    numbers = found.labels[name]
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
    if found.unlabelled[name]:
        words += f"; {found.unlabelled[name]:,} images without a label"
    return words


def number(value: float) -> str:
    """A measured number, short."""
    if value == int(value):
        return f"{int(value):,}"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def size(count: int) -> str:
    """Bytes in a unit that people read."""
    amount = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 1000:
            return f"{amount:.3g} {unit}"
        amount /= 1000
    return f"{amount:,.3g} TB"


def tables(found: Survey, title: str) -> Group:
    """A survey as a rich renderable."""
    parts: list = [Text(title, style="bold"), Text()]
    what = _table("", "")
    for row in counts(found):
        what.add_row(*map(Text, row))
    parts += [what, Text()]
    if usable(found):
        measured = _table("", *HEADINGS)
        for name, values in spreads(found):
            measured.add_row(Text(name), *(number(value) for value in values))
        parts += [measured, Text()]
    for name in found.labels:
        rows = classes(found, name)
        parts.append(Text(balance(found, name)))
        shown = _table("", "images", "")
        most = max(1, rows[0][1]) if rows else 1
        for label, many in rows[:SHOWN]:
            bar = "#" * round(30 * many / most)
            shown.add_row(Text(label), f"{many:,}", Text(bar, style="cyan"))
        parts.append(shown)
        if len(rows) > SHOWN:
            parts.append(Text(f"  and {len(rows) - SHOWN} smaller classes"))
        parts.append(Text())
    return Group(*parts)


def _table(*headings: str) -> Table:
    some = any(headings)
    made = Table(box=None, pad_edge=False, header_style="dim", show_header=some)
    for i, heading in enumerate(headings):
        left = not i or not heading
        made.add_column(
            heading, justify="left" if left else "right", no_wrap=i > 0, overflow="fold"
        )
    return made
