"""Reads pairs of images with a caption each, in the form of Winoground (2204.03162).

`examples.jsonl` has a line per pair; each image has the caption of its number:

    {"id": 0, "caption_0": "...", "caption_1": "...", "image_0": "ex_0_img_0",
     "image_1": "ex_0_img_1", "tag": "...", "secondary_tag": "...",
     "num_main_preds": 1, "collapsed_tag": "Object"}
"""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from clipjax.data.storage import json_files, local
from clipjax.types import UserError

CAPTIONS, IMAGES = ("caption_0", "caption_1"), ("image_0", "image_1")
TAGS = ("tag", "secondary_tag", "num_main_preds", "collapsed_tag")


class ListedPair(NamedTuple):
    """id: the pair's. captions, images: two texts each. tags: field of TAGS -> its
    text, "" if it has none.
    """

    id: str
    captions: tuple[str, str]
    images: tuple[str, str]
    tags: dict[str, str]


class ImagePair(NamedTuple):
    """A pair of a source's examples, whose first captions fit their own image only.

    first, second: the examples' indices. id, tags: as of ListedPair.
    """

    id: str
    first: int
    second: int
    tags: Mapping[str, str]


def read(path: pathlib.Path) -> list[ListedPair]:
    """Returns the pairs of a file of JSON lines, or of a JSON list.

    Raises UserError for a file of another form, and for a pair without its captions or
    images.
    """
    lines = local.read_lines(path)
    if lines[0].lstrip().startswith("["):
        content = json_files.parse(path, "\n".join(lines))
        items = [(f"entry {n}", item) for n, item in enumerate(content)]
    else:
        items = [
            (f"line {n}", json_files.parse(pathlib.Path(f"{path}, line {n},"), line))
            for n, line in enumerate(lines, 1)
            if line.strip()
        ]
        content = [item for _, item in items]
    if not any(isinstance(item, dict) and CAPTIONS[0] in item for _, item in items):
        raise UserError(
            f"{path} does not have Winoground's form, a line per pair with "
            f"{', '.join(CAPTIONS + IMAGES)}, but is {json_files.describe(content)}"
        )
    pairs = [_pair(path, where, item) for where, item in items]
    seen: dict[str, str] = {}
    for (where, _), pair in zip(items, pairs, strict=True):
        for image in pair.images:
            if (first := seen.setdefault(image, where)) != where:
                raise UserError(
                    f"{path}: {first} and {where} have the same image, {image!r}"
                )
    return pairs


def id_of(item: Mapping[str, Any], other: str) -> str:
    """A pair's id; `other` if it has none."""
    return other if item.get("id") is None else str(item["id"])


def tags_of(item: Mapping[str, Any]) -> dict[str, str]:
    """The tags of a pair's fields, as texts."""
    return {name: str(item[name]) for name in TAGS if item.get(name) not in (None, "")}


def _pair(path: pathlib.Path, where: str, item: Any) -> ListedPair:
    values = item if isinstance(item, dict) else {}
    texts = [values.get(name) for name in CAPTIONS + IMAGES]
    if not all(isinstance(text, str) and text.strip() for text in texts):
        raise UserError(
            f"{path}: {where} needs texts as {', '.join(CAPTIONS + IMAGES)}: it is "
            f"{json_files.short_json(item, 80)}"
        )
    one, other, first, second = (str(text).strip() for text in texts)
    if first == second:
        raise UserError(f"{path}: {where} has {first!r} as both its images")
    return ListedPair(
        id_of(values, where),
        (one, other),
        (first, second),
        tags_of(values),
    )
