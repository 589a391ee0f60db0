"""Files that say which class an image has, and what the classes are called."""

from __future__ import annotations

import os
import pathlib
import re
from collections.abc import Iterator, Sequence

from clipjax.data.annotations import image_list
from clipjax.data.storage import local
from clipjax.types import UserError

BOXES = re.compile(r"(\S+)(?: \d+){4}(?: .*)?")  # a class, its box, and further ones


def names(place: pathlib.Path, classes: Sequence[str]) -> list[str]:
    """The name of each class folder: `FOLDER<TAB>NAME` a line, or as ImageNet's
    LOC_synset_mapping.txt, `n01440764 tench, Tinca tinca`, of which the first is taken.

    Raises UserError for a line of another form and for a class without a name.
    """
    lines = local.read_lines(place)
    tabs = any("\t" in line for line in lines)
    found = {}
    for number, line in enumerate(lines, 1):
        folder, gap, name = line.partition("\t" if tabs else " ")
        name = name.strip() if tabs else name.partition(",")[0].strip()
        if line.strip() and not (gap and name):
            raise UserError(f"{place}, line {number}: write FOLDER<TAB>NAME")
        found[folder.strip()] = name
    if unnamed := [name for name in classes if name not in found]:
        raise UserError(f"{place} does not name the class folder {unnamed[0]!r}")
    return [found[name] for name in classes]


def labels(
    place: pathlib.Path, images: Sequence[str]
) -> tuple[dict[str, list[str]], list[str]]:
    """Returns (class -> its images, problems in words) by a table.

    It has `IMAGE,CLASS` a line, after a header or none; images with suffix or without,
    by their names alone or after some of their folders.

    In ImageNet's LOC_val_solution.csv boxes follow the class,
    `ILSVRC2012_val_00000001,n01751748 111 108 230 190`, and are left aside.

    Raises UserError for an image without a class, and for one with two.
    """
    classes: dict[str, str] = {}
    for number, line in enumerate(local.read_lines(place), 1):
        fields = re.split("[,\t]", line, maxsplit=1)
        image, *given = (field.strip().strip('"') for field in fields)
        image = image_list.plain(image)
        if not line.strip():
            continue
        if not given or not given[0]:
            raise UserError(f"{place}, line {number}: write IMAGE,CLASS")
        boxes = BOXES.fullmatch(given[0])
        label = boxes[1] if boxes else given[0]
        if classes.setdefault(image, label) != label:
            raise UserError(
                f"{place}, line {number}: {image!r} has another class above"
            )
    found: dict[str, list[str]] = {}
    used = {next(iter(classes), "")}  # may be the header
    for path in images:
        image = next((name for name in _names(path) if name in classes), None)
        if image is None:
            raise UserError(
                f"{place} gives the image {os.path.basename(path)!r} no class; it "
                f"names them as {next(iter(classes), '')!r}"
            )
        found.setdefault(classes[image], []).append(path)
        used.add(image)
    gone = [f"{len(classes.keys() - used)} images of {place.name} are not there"]
    return found, gone if classes.keys() - used else []


def _names(path: str) -> Iterator[str]:
    """What a table may call an image: with fewer and fewer of its folders, and each
    with and without its suffix.
    """
    parts = path.split("/")
    for start in range(len(parts)):
        name = "/".join(parts[start:])
        yield name
        yield os.path.splitext(name)[0]
