"""Reads captions from JSON: objects in lines or a list, or an object keyed by images.

- `{"image": "a.jpg", "caption": "..."}` or `"captions": ["...", ...]`, one per line or
  in a list (BLIP's and LLaVA's captions), or in an object's only list;
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
MAX_INSPECTED = 100  # objects to search for one with both an image and a caption

SPLIT = "columns of splits that are not used ({}): the option split_file names a split"

Row = tuple[str, list[Any] | None]


def holds_json(path: pathlib.Path, text: str) -> bool:
    """Whether a table is JSON, by its suffix or first characters."""
    text = text.lstrip()
    is_list = bool(LIST.match(text))
    return is_list or path.suffix.lower() in SUFFIXES or text.startswith("{")


def parse(path: pathlib.Path, text: str) -> dict[str, Any] | Iterable[Any]:
    """Returns a file's one object, or its items: the members of a list, or each line's
    value (None for a broken line).

    Raises UserError for a list or object that is truncated or nested too deep.
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
    items: dict[str, Any] | Iterable[Any],
    image_column: str,
    caption_column: str,
    counts: Counts,
) -> Iterator[Row]:
    """Yields (image name, its captions) per item of what `parse` returns.

    The name is "" if the item is not an object or names no image; the captions are None
    if it has no such field. Raises UserError, which shows the first item, if none has
    both columns.
    """
    if isinstance(items, dict):
        items = _of_object(path, items, image_column, caption_column)
    waiting: list[Row] = []  # until an item has both columns, as fields may be missing
    known = False
    inspected: list[Any] = []
    unused: dict[str, None] = {}
    splits: dict[str, None] = {}
    for item in items:
        if isinstance(item, dict):
            splits.update((n, None) for n in caption_columns.splits([*item]))
        has_both, row = _row(item, image_column, caption_column, unused)
        known = known or has_both
        waiting.append(row)
        if known:
            yield from waiting
            waiting = []
            continue
        inspected.append(item)
        if len(inspected) == MAX_INSPECTED:
            break
    if not known:
        raise _no_columns(path, inspected, image_column, caption_column)
    if unused:
        counts[caption_columns.describe_unused(unused)] += len(unused)
    if splits:
        counts[SPLIT.format(", ".join(splits))] += len(splits)


def _row(
    item: Any, image_column: str, caption_column: str, unused: dict[str, None]
) -> tuple[bool, Row]:
    """Returns (whether the item has both columns, its row)."""
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
    for group in groups:  # the first group with text, since fields may be null or blank
        values = [item[names[i]] for i in group]
        captions = [text for value in values for text in caption_lists.members(value)]
        if not all(map(caption_lists.blank, captions)):
            if image_at is not None and not caption_column:
                others = caption_columns.unused_columns(names, [*group, image_at])
                unused.update((n, None) for n in others if _has_text(item[n]))
            break
    return image_at is not None, (name, captions or [None])


def _has_text(value: Any) -> bool:
    texts = caption_lists.of(value)
    return any(isinstance(text, str) and text.strip() for text in texts)


def _of_object(
    path: pathlib.Path, content: dict[str, Any], image_column: str, caption_column: str
) -> Iterable[Any]:
    """Returns an object's items, in the form of a list's."""
    if _row(content, image_column, caption_column, {})[0]:
        return [content]
    images = content.get("images")
    if isinstance(images, list) and any(
        isinstance(item, dict) and "sentences" in item for item in images
    ):
        raise UserError(
            f"{path} has the form of Karpathy's splits: read it with data=karpathy and "
            f"the option file"
        )
    if named := [n for n in content if n.lower().endswith(local.IMAGE_SUFFIXES)]:
        return _of_names(content, named, image_column, caption_column)
    lists = [item for item in content.values() if isinstance(item, list)]
    if len(lists) == 1 and any(isinstance(item, dict) for item in lists[0]):
        return lists[0]
    if lists and len(lists) == len(content) and all(map(_has_text, lists)):
        return _of_names(content, list(content), image_column, caption_column)
    raise _no_columns(path, [content], image_column, caption_column)


def _of_names(
    content: dict[str, Any], images: list[str], image_column: str, caption_column: str
) -> Iterator[Any]:
    """Yields an item per field of an object keyed by images; None for other fields."""
    names = set(images)
    image, captions = image_column or "image", caption_column or "captions"
    for name, value in content.items():
        if name not in names:
            yield None
        elif isinstance(value, dict):
            yield {image: name} | {n: v for n, v in value.items() if n != image}
        else:
            yield {image: name, captions: value}


def _no_columns(
    path: pathlib.Path, inspected: list[Any], image_column: str, caption_column: str
) -> UserError:
    objects = [item for item in inspected if isinstance(item, dict)]
    if not objects:
        form = f": it is {json_files.describe(inspected)}" if inspected else ""
        return UserError(f"{path}: none of its lines or items is a JSON object{form}")
    first = json_files.short_json(objects[0], 80)
    if len(objects) == 1:
        first = f"{first}, {json_files.describe(objects[0])}"
    return no_columns(path, first, image_column, caption_column, "object")


def no_columns(
    path: pathlib.Path, first: str, image_column: str, caption_column: str, kind: str
) -> UserError:
    """Returns the error for missing columns; first: the first object or line."""
    if not image_column and local.ADDRESS.search(first):
        return UserError(f"{path} {local.ADDRESSES}")
    if image_column or caption_column:
        return UserError(
            f"{path}: no columns {image_column or 'for images'!r} and "
            f"{caption_column or 'for captions'!r}; its first {kind} is {first}"
        )
    return UserError(
        f"{path}: cannot tell the image and caption columns from its first {kind} "
        f"{first}; set the options image_column and caption_column"
    )


def _line(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _lines(text: str) -> Iterator[str]:
    """Yields lines that are not blank. Only \\n ends one, as captions hold others."""
    return (line.rstrip("\r") for line in text.split("\n") if line.strip())
