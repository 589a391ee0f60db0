"""Reads the class of each image, and the classes' names, from text files."""

from __future__ import annotations

import os
import pathlib
import re
from collections.abc import Iterator, Sequence, Set
from typing import Any

from clipjax.data.annotations import image_list
from clipjax.data.storage import json_files, local
from clipjax.types import UserError

BOXES = re.compile(r"(\S+)(?: \d+){4}(?: .*)?")  # a class, its box, and further ones


def names(path: pathlib.Path, classes: Sequence[str]) -> list[str]:
    """Returns the name of each class folder.

    The file is a mapping, `FOLDER<TAB>NAME` per line or `n01440764 tench, Tinca tinca`
    as in ImageNet's LOC_synset_mapping.txt (the first name is taken); or a plain list,
    a name per line in the order of the classes (see `in_order`). JSON is an object
    {"folder": "name"}, a list of names, or {"0": ["n01440764", "tench"]} as Keras has
    it.

    Raises UserError for a line of another form, a class without a name, and a list of
    another length than the classes.
    """
    if path.suffix.lower() == ".json":
        listed, name_of = _from_json(path, set(classes))
    else:
        listed, name_of = _from_lines(path, set(classes))
    if name_of:
        if unnamed := [name for name in classes if name not in name_of]:
            raise UserError(f"{path} does not name the class folder {unnamed[0]!r}")
        return [name_of[name] for name in classes]
    ordered = in_order(classes)
    if len(listed) != len(classes):
        raise UserError(
            f"{path} names {len(listed)} classes, and there are {len(classes)} class "
            f"folders ({', '.join(ordered[:3])}, ...): write a name for each in this "
            f"order, or FOLDER<TAB>NAME per line"
        )
    if blank := [i for i, name in enumerate(listed, 1) if not name.strip()]:
        raise UserError(f"{path}, line {blank[0]}: the name is blank")
    name_at = dict(zip(ordered, listed, strict=True))
    return [name_at[name].strip() for name in classes]


def in_order(classes: Sequence[str]) -> list[str]:
    """The classes in the order of a plain list: by number if all are numbers, so that 2
    comes before 10, else as they are.
    """
    if all(name.isascii() and name.isdigit() for name in classes):
        return sorted(classes, key=int)
    return list(classes)


def separator(lines: Sequence[str], folders: Set[str], count: int) -> str:
    """What separates class folders and their names in lines; "" in a plain list.

    count: of the classes. A plain list's names may have spaces as well, so the first
    words must be folders of more than half of the classes.
    """
    if any("\t" in line for line in lines):
        return "\t"
    first = {line.partition(" ")[0] for line in lines if " " in line}
    return " " if 2 * len(first & folders) > count else ""


def _from_lines(
    path: pathlib.Path, classes: Set[str]
) -> tuple[list[str], dict[str, str]]:
    """Returns (a plain list, {}) or ([], folder -> name)."""
    lines = local.read_lines(path)
    between = separator(lines, classes, len(classes))
    if not between:
        return [] if lines == [""] else lines, {}
    tabs = between == "\t"
    name_of = {}
    for number, line in enumerate(lines, 1):
        folder, gap, name = line.partition(between)
        name = name.strip() if tabs else name.partition(",")[0].strip()
        if line.strip() and not (gap and name):
            raise UserError(f"{path}, line {number}: write FOLDER<TAB>NAME")
        name_of[folder.strip()] = name
    return [], name_of


def _from_json(
    path: pathlib.Path, classes: Set[str]
) -> tuple[list[str], dict[str, str]]:
    """Returns the same of a JSON file."""
    content: Any = json_files.read(path)
    pairs: Any = content.items() if isinstance(content, dict) else ()
    name_of = {}
    for folder, name in pairs:
        if isinstance(name, list) and len(name) > 1 and name[0] in classes:
            folder, name = name[:2]  # Keras: number, then [folder, name]
        name_of[folder] = name[0] if isinstance(name, list) and name else name
    listed = content if isinstance(content, list) else []
    if not isinstance(content, (dict, list)) or not all(
        isinstance(name, str) and name.strip() for name in (*listed, *name_of.values())
    ):
        raise UserError(
            f'{path}: write {{"folder": "name", ...}} or a list of names; it holds '
            f"{json_files.describe(content)}"
        )
    return listed, name_of


def labels(
    path: pathlib.Path, images: Sequence[str]
) -> tuple[dict[str, list[str]], list[str]]:
    """Returns (class -> its images, problems) from a table.

    A line is `IMAGE,CLASS`; a header may precede them. A table may name images without
    their suffix or without some or all of their folders. In ImageNet's
    LOC_val_solution.csv boxes follow the class and are ignored:
    `ILSVRC2012_val_00000001,n01751748 111 108 230 190`.

    Raises UserError for an image without a class, and for one with two.
    """
    classes: dict[str, str] = {}
    for number, line in enumerate(local.read_lines(path), 1):
        fields = re.split("[,\t]", line, maxsplit=1)
        image, *rest = (field.strip().strip('"') for field in fields)
        image = image_list.plain(image)
        if not line.strip():
            continue
        if not rest or not rest[0]:
            raise UserError(f"{path}, line {number}: write IMAGE,CLASS")
        boxes = BOXES.fullmatch(rest[0])
        label = boxes[1] if boxes else rest[0]
        if classes.setdefault(image, label) != label:
            raise UserError(f"{path}, line {number}: {image!r} has another class above")
    images_of: dict[str, list[str]] = {}
    used = {next(iter(classes), "")}  # may be the header
    for image_path in images:
        image = next((name for name in _names(image_path) if name in classes), None)
        if image is None:
            raise UserError(
                f"{path} gives the image {os.path.basename(image_path)!r} no class; it "
                f"names them as {next(iter(classes), '')!r}"
            )
        images_of.setdefault(classes[image], []).append(image_path)
        used.add(image)
    missing = [f"{len(classes.keys() - used)} images of {path.name} are missing"]
    return images_of, missing if classes.keys() - used else []


def _names(path: str) -> Iterator[str]:
    """Yields an image's names in a table: with fewer and fewer of its folders, and each
    with and without its suffix.
    """
    parts = path.split("/")
    for start in range(len(parts)):
        name = "/".join(parts[start:])
        yield name
        yield os.path.splitext(name)[0]
