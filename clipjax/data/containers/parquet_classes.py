"""The classes of parquet files: their numbers, and what they are called."""

from __future__ import annotations

import pathlib

import numpy as np

from clipjax.data.annotations import class_naming
from clipjax.data.containers import parquet_rows
from clipjax.data.storage import local
from clipjax.types import UserError


def ids(
    base: pathlib.Path,
    scanned: tuple[parquet_rows.Rows, ...],
    files: list[str],
    classes: str,
    problems: list[str],
) -> dict[str, list[str]]:
    """Returns label set -> its classes as the files, or the file `classes`, write them.

    files: those of all splits, whose texts are the names of a label set of text.

    Raises UserError if files differ in them.
    """
    first = scanned[0]
    for rows in scanned[1:]:
        if (rows.columns.labels, rows.columns.text_labels) != (
            first.columns.labels,
            first.columns.text_labels,
        ):
            raise UserError(
                f"{rows.path} has other labels or class names than {first.path}: read "
                f"them apart, by the option shards"
            )
    sets = {name: list(names) for name, names in first.columns.labels.items()}
    if classes:
        if len(sets) != 1:
            raise UserError(
                f"classes={classes} names one label set, and {base} has "
                f"{', '.join(sets) or 'none'}: choose it by the option labels"
            )
        return dict.fromkeys(
            sets, local.read_lines(local.inside(base, classes, "classes"))
        )
    for name in first.columns.text_labels:
        unscanned = {base / file for file in files} - {rows.path for rows in scanned}
        texts = {text for rows in scanned for text in rows.label_texts[name]}
        texts.update(
            *(parquet_rows.label_texts(path, name) for path in sorted(unscanned))
        )
        sets[name] = sorted(texts)
    for name, names in list(sets.items()):
        if not names:
            largest = max(int(f.labels[name].max(initial=-1)) for f in scanned)
            if largest < 0:
                del sets[name]
                problems.append(f"the column {name} holds no class at all, left out")
                continue
            if largest > 10**6:
                raise UserError(
                    f"{first.path}: the column {name} holds {largest}, no number of a "
                    f"class; choose another by the option labels"
                )
            sets[name] = [str(i) for i in range(largest + 1)]
            problems.append(
                f"the column {name} does not say what its classes are called, but for "
                "their numbers; the options classes and class_names name them"
            )
    return sets


def named(
    ids: dict[str, list[str]], class_names: str, problems: list[str]
) -> dict[str, list[str]]:
    """Returns label set -> names by the option class_names; see `name_classes`.

    problems: gets what was changed.
    """
    found = {}
    for label_set, own in ids.items():
        found[label_set], notes = class_naming.name_classes(own, class_names)
        problems += [f"{label_set}: {note}" for note in notes]
    return found


def numbers(rows: parquet_rows.Rows, label: str, names: list[str]) -> np.ndarray:
    """Returns a file's classes, int32 [rows]; texts become their index in `names`."""
    if label not in rows.label_texts:
        return rows.labels[label]
    number_of = {name: i for i, name in reversed(list(enumerate(names)))}
    places = [
        number_of.get(text, parquet_rows.NO_LABEL) for text in rows.label_texts[label]
    ]
    return np.array([*places, parquet_rows.NO_LABEL], np.int32)[rows.labels[label]]
