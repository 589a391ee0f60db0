"""Captions in JSON: lines or a list of objects, or one object that maps images to them.

- `{"image": "a.jpg", "caption": "..."}` or `"captions": ["...", ...]`, one a line or in
  a list (BLIP's and LLaVA's captions), or in a list that is the only one of an object;
- `{"a.jpg": ["...", "..."]}`, `{"a.jpg": "..."}`, `{"a.jpg": {"caption": "..."}}`.
"""

from __future__ import annotations

import json
import pathlib
import re
from collections.abc import Iterable, Iterator
from typing import Any

from clipjax.data.annotations import caption_columns, caption_lists
from clipjax.data.annotations.caption_entries import Counts
from clipjax.data.storage import json_files, local
from clipjax.types import UserError

LINES = (".jsonl", ".ndjson")
SUFFIXES = (".json", *LINES)
LIST = re.compile(r"\[\s*(\{|\Z)")
LOOKED_AT = 100  # objects, for one that has both an image and a caption

SPLIT = "columns of splits that are not used ({}): the option split_file names a split"

Row = tuple[str, list[Any] | None]


def holds_json(path: pathlib.Path, text: str) -> bool:
    """Whether a table is JSON, by its name or beginning."""
    text = text.lstrip()
    listed = bool(LIST.match(text))
    return listed or path.suffix.lower() in SUFFIXES or text.startswith("{")


def parse(path: pathlib.Path, text: str) -> dict[str, Any] | Iterable[Any]:
    """The one object of a file, or its items: what each line of JSON lines holds, None
    for a broken one, or the members of a list.

    Raises UserError for a list or object that is cut off or nested too deep.
    """
    if text.lstrip().startswith("["):
        return json_files.parse(path, text)
    lines = _lines(text)
    first, second = next(lines, ""), next(lines, "")
    if path.suffix.lower() in LINES or not first.startswith("{"):
        return map(_line, _lines(text))
    if second and (isinstance(_line(first), dict) or isinstance(_line(second), dict)):
        return map(_line, _lines(text))
    return json_files.parse(path, text)


def rows(
    path: pathlib.Path,
    found: dict[str, Any] | Iterable[Any],
    image_column: str,
    caption_column: str,
    counts: Counts,
) -> Iterator[Row]:
    """(image name, its captions) of what `parse` found; ("", None) for an item that is
    no object or names no image, and None as captions for one without such a field.

    Raises UserError, saying what there is, if no item has both columns.
    """
    if isinstance(found, dict):
        found = _of_object(path, found, image_column, caption_column)
    waiting: list[Row] = []  # until one has both columns: a field may be missing
    known = False
    looked: list[Any] = []
    unused: dict[str, None] = {}
    splits: dict[str, None] = {}
    for item in found:
        if isinstance(item, dict):
            splits.update((n, None) for n in caption_columns.splits([*item]))
        has_both, row = _row(item, image_column, caption_column, unused)
        known = known or has_both
        waiting.append(row)
        if known:
            yield from waiting
            waiting = []
            continue
        looked.append(item)
        if len(looked) == LOOKED_AT:
            break
    if not known:
        raise _no_columns(path, looked, image_column, caption_column)
    if unused:
        counts[caption_columns.not_used(unused)] += len(unused)
    if splits:
        counts[SPLIT.format(", ".join(splits))] += len(splits)


def _row(
    item: Any, image_column: str, caption_column: str, unused: dict[str, None]
) -> tuple[bool, Row]:
    """Whether an item has both columns, and its row."""
    if not isinstance(item, dict):
        return False, ("", None)
    names = list(item)
    image_at = caption_columns.find(names, image_column, local.IMAGE_HEADERS)
    groups = caption_columns.captions(names, caption_column)
    name = None if image_at is None else item[names[image_at]]
    name = name.strip() if isinstance(name, str) else ""
    if not groups:
        return False, (name, None)
    captions: list[Any] = []
    for group in groups:  # a null or blank field hides no other
        values = [item[names[i]] for i in group]
        captions = [text for one in values for text in caption_lists.members(one)]
        if not all(map(caption_lists.blank, captions)):
            if image_at is not None and not caption_column:
                left = caption_columns.unused(names, [*group, image_at])
                unused.update((n, None) for n in left if _says_something(item[n]))
            break
    return image_at is not None, (name, captions or [None])


def _says_something(value: Any) -> bool:
    texts = caption_lists.of(value)
    return any(isinstance(text, str) and text.strip() for text in texts)


def _of_object(
    path: pathlib.Path, found: dict[str, Any], image_column: str, caption_column: str
) -> Iterable[Any]:
    """The items that an object holds, each as one of a list."""
    if _row(found, image_column, caption_column, {})[0]:
        return [found]
    images = found.get("images")
    if isinstance(images, list) and any(
        isinstance(one, dict) and "sentences" in one for one in images
    ):
        raise UserError(
            f"{path} is of the form of Karpathy's splits: read it with data=karpathy "
            f"and the option file"
        )
    if named := [n for n in found if n.lower().endswith(local.IMAGE_SUFFIXES)]:
        return _of_names(found, named, image_column, caption_column)
    lists = [one for one in found.values() if isinstance(one, list)]
    if len(lists) == 1 and any(isinstance(one, dict) for one in lists[0]):
        return lists[0]
    if lists and len(lists) == len(found) and all(map(_says_something, lists)):
        return _of_names(found, list(found), image_column, caption_column)
    raise _no_columns(path, [found], image_column, caption_column)


def _of_names(
    found: dict[str, Any], named: list[str], image_column: str, caption_column: str
) -> Iterator[Any]:
    """Items of an object whose fields are the images; one that is none is None."""
    images = set(named)
    image, captions = image_column or "image", caption_column or "captions"
    for name, value in found.items():
        if name not in images:
            yield None
        elif isinstance(value, dict):
            yield {image: name} | {n: v for n, v in value.items() if n != image}
        else:
            yield {image: name, captions: value}


def _no_columns(
    path: pathlib.Path, looked: list[Any], image_column: str, caption_column: str
) -> UserError:
    objects = [item for item in looked if isinstance(item, dict)]
    if not objects:
        kinds = f": it is {json_files.described(looked)}" if looked else ""
        return UserError(f"{path}: none of its lines or items is a JSON object{kinds}")
    seen = json_files.shown(objects[0], 80)
    if len(objects) == 1:
        seen = f"{seen}, {json_files.described(objects[0])}"
    return no_columns(path, seen, image_column, caption_column, "object")


def no_columns(
    path: pathlib.Path, seen: str, image_column: str, caption_column: str, kind: str
) -> UserError:
    """The complaint about columns that are not there; seen: the first of it."""
    if not image_column and local.ADDRESS.search(seen):
        return UserError(f"{path} {local.ADDRESSES}")
    if image_column or caption_column:
        return UserError(
            f"{path}: no columns {image_column or 'for images'!r} and "
            f"{caption_column or 'for captions'!r}; its first {kind} is {seen}"
        )
    return UserError(
        f"{path}: cannot tell the image and caption columns from its first {kind} "
        f"{seen}; set the options image_column and caption_column"
    )


def _line(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _lines(text: str) -> Iterator[str]:
    """Lines that hold something; only \\n ends a line, as captions hold others."""
    return (line.rstrip("\r") for line in text.split("\n") if line.strip())
