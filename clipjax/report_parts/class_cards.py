"""A classification per class: recalls, the confusion matrix, and wrong images."""

from __future__ import annotations

import numpy as np

from clipjax import class_recalls, result_tables
from clipjax.report_parts.example_source import Examples
from clipjax.report_parts.page import Answer, Card, Gallery, Table
from clipjax.report_parts.thumbnails import Pictures
from clipjax.types import Rows

MOST = 12  # classes of a whole confusion matrix
LINES = 12  # of a table of classes


def tables(rows: Rows, label_set: str) -> list[Table]:
    """A table per class, and the confusion matrix, or what is confused most."""
    recalls = class_recalls.recalls(rows, label_set)
    lines = [
        [
            one.name,
            f"{one.mistaken or 'not finite'} ({one.count})" if one.count else "",
            f"{one.recall.n:,}",
            result_tables.quantity(one.recall),
            result_tables.interval(one.recall),
        ]
        for one in recalls[:LINES]
    ]
    less = len(recalls) > LINES
    title = f"{label_set}: " + (f"the {LINES} lowest recalls" if less else "recalls")
    head = ["class", "mostly taken for", "images", "recall", "95 % interval"]
    found = [Table(head, lines, title, texts=2)]
    if len(recalls) <= MOST:
        found.append(_matrix(rows, label_set))
    else:
        pairs = class_recalls.confusions(rows, label_set)[:LINES]
        lines = [
            [x.name, x.mistaken or "not finite", f"{x.count:,}", f"{x.images:,}"]
            for x in pairs
        ]
        head = ["class", "taken for", "images", "of"]
        found.append(Table(head, lines, f"{label_set}: most confused", texts=2))
    return found


def _matrix(rows: Rows, label_set: str) -> Table:
    """Shares of each class's images by prediction."""
    labels, predictions, names, _ = class_recalls.columns(rows, label_set)
    own = np.unique(labels).tolist()
    order = np.union1d(labels, predictions).tolist()
    shares = [
        [float((predictions[labels == row] == column).mean()) for column in order]
        for row in own
    ]
    return Table(
        ["class", *(names[x] or "not finite" for x in order)],
        [
            [names[row] or "not finite", *(f"{100 * x:.0f}" if x else "" for x in line)]
            for row, line in zip(own, shares, strict=True)
        ],
        f"{label_set}: what a class's images are taken for, in %",
        shades=[[None, *line] for line in shares],
    )


def mistakes(
    rows: Rows,
    label_set: str,
    examples: Examples | None,
    pictures: Pictures,
    most: int,
) -> Gallery | None:
    """The wrong images of which the model is most certain, of different mistakes."""
    kept = np.array([name == label_set for name in rows["label_set"]])
    wrong = kept & (np.asarray(rows["label"]) != np.asarray(rows["prediction"]))
    places = np.flatnonzero(wrong)
    if not len(places):
        return None
    places = places[np.argsort(-np.asarray(rows["score"])[places], kind="stable")]
    seen: set[tuple[str, str]] = set()
    first, later = [], []
    for at in places.tolist():
        pair = str(rows["label_name"][at]), str(rows["prediction_name"][at])
        (later if pair in seen else first).append(at)
        seen.add(pair)
    cards = []
    for at in (first + later)[:most]:
        picture = ""
        if examples is not None:
            picture = examples.picture(pictures, str(rows["key"][at]))
        taken = str(rows["prediction_name"][at]) or "not finite"
        answers = [
            Answer("wrong", taken),
            Answer("right", str(rows["label_name"][at])),
        ]
        rank = float(rows["rank"][at])
        cards.append(Card(picture, [], f"right class: rank {rank:g}", "wrong", answers))
    title = f"{label_set}: mistakes it is most certain of ({len(places):,} of"
    return Gallery(cards, f"{title} {int(kept.sum()):,})")
