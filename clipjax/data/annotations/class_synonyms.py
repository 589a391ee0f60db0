"""Reads a file of class names in which a class may have several."""

from __future__ import annotations

import collections
import pathlib
from collections.abc import Sequence, Set
from typing import Any

from clipjax.data.annotations import class_tables
from clipjax.data.storage import json_files, local
from clipjax.types import UserError

BETWEEN = ";"  # separates the names of a class
FORM = '{"class": "name", "class": ["name", "another"]} or a list of these'

Names = tuple[str, ...]


def read(
    path: pathlib.Path, names: Sequence[str], ids: Sequence[str] = ()
) -> list[Names]:
    """Returns the names of each class, at least one, without repetitions.

    A text file has a class per line, in the order of the classes: `NAME` or
    `NAME; NAME`. Or it is a mapping: `CLASS<TAB>NAME; NAME`, or `n01440764 tench, Tinca
    tinca` as in ImageNet's LOC_synset_mapping.txt, whose commas separate names. JSON is
    a list or an object, `{CLASS: NAME or [NAME, ...]}`; Keras's {"0": ["n01440764",
    "tench"]} too. CLASS is the class's folder, its name in the data if no other class
    has it, or its number from 0. A mapping may name more classes than there are.

    If all folders are numbers, the order is that of the numbers, as in
    `class_tables.in_order`.

    Args:
      names: of the classes in the data. ids: their folders; () if they have none.

    Raises UserError for a file of another form, a list of another length than the
    classes, and a class that is not named or that is named twice.
    """
    if path.suffix.lower() == ".json":
        listed, named = _from_json(path, set(ids))
    else:
        listed, named = _from_lines(path, set(ids), len(names))
    if named:
        return _by_class(path, named, names, ids)
    ordered = class_tables.in_order(ids) if ids else names
    if len(listed) != len(names):
        first = ", ".join(ordered[:3])
        raise UserError(
            f"{path} names {len(listed)} classes, and the data has {len(names)} "
            f"({first}{', ...' if len(names) > 3 else ''}): name each, in this order"
        )
    if not ids:
        return listed
    place = {folder: at for at, folder in enumerate(ordered)}
    return [listed[place[folder]] for folder in ids]


def join(names: Names) -> str:
    """A class's names as one text.

    >>> join(("crane", "crane bird"))
    'crane; crane bird'
    """
    return f"{BETWEEN} ".join(names)


def _from_lines(
    path: pathlib.Path, ids: Set[str], count: int
) -> tuple[list[Names], list[tuple[str, Names]]]:
    """(a plain list, []) or ([], class and its names)."""
    lines = local.read_lines(path)
    lines = [] if lines == [""] else lines
    between = class_tables.separator(lines, ids, count)
    if not between:
        where = [f"{path}, line {number}" for number in range(1, len(lines) + 1)]
        return [_split(line, at) for line, at in zip(lines, where, strict=True)], []
    named = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        name, gap, names = line.partition(between)
        where = f"{path}, line {number}"
        if not gap:
            raise UserError(f"{where}: write CLASS<TAB>NAME")
        names = names if between == "\t" else names.replace(",", BETWEEN)
        named.append((name.strip(), _split(names, where)))
    return [], named


def _from_json(
    path: pathlib.Path, ids: Set[str]
) -> tuple[list[Names], list[tuple[str, Names]]]:
    """The same of a JSON file."""
    content: Any = json_files.read(path)
    items: Any = content.items() if isinstance(content, dict) else ()
    if isinstance(content, list):
        items = enumerate(content)
    elif not isinstance(content, dict) or not content:
        raise UserError(
            f"{path}: write {FORM}; it holds {json_files.describe(content)}"
        )
    found = []
    for key, value in items:
        where = f"{path}, {key!r}" if isinstance(key, str) else f"{path}, entry {key}"
        texts = value if isinstance(value, list) else [value]
        if not texts or not all(isinstance(text, str) for text in texts):
            raise UserError(
                f"{where}: write {FORM}; it holds {json_files.describe(value)}"
            )
        if isinstance(key, str) and len(texts) > 1 and texts[0] in ids:
            key, *texts = texts  # Keras: number, then [folder, name]
        found.append((key, _split(BETWEEN.join(texts), where)))
    if isinstance(content, list):
        return [names for _, names in found], []
    return [], found


def _split(text: str, where: str) -> Names:
    names = tuple(dict.fromkeys(name.strip() for name in text.split(BETWEEN)))
    if "" in names:
        raise UserError(f"{where}: a name is blank")
    return names


def _by_class(
    path: pathlib.Path,
    named: list[tuple[str, Names]],
    names: Sequence[str],
    ids: Sequence[str],
) -> list[Names]:
    """The names in the order of the classes."""
    places = {str(at): at for at in range(len(names))}
    if ids and all(map(str.isdecimal, ids)):
        places = {}  # a number is a folder then
    counts = collections.Counter(names)
    places |= {name: at for at, name in enumerate(names) if counts[name] == 1}
    places |= {folder: at for at, folder in enumerate(ids)}
    found: dict[int, Names] = {}
    for key, own in named:
        at = places.get(key, -1)
        if at in found:
            raise UserError(f"{path} names the class {key!r} twice")
        if at >= 0:
            found[at] = own
    for at, label in enumerate(ids or names):
        if at not in found:
            raise UserError(
                f"{path} does not name the class {label!r}; it names "
                f"{', '.join(repr(key) for key, _ in named[:3])}"
            )
    return [found[at] for at in range(len(names))]
