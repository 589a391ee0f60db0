"""MS-COCO's form of captions: `images` with ids and names, `annotations` of ids."""

from __future__ import annotations

import pathlib
from typing import Any

from clipjax.data.annotations import caption_lists
from clipjax.data.annotations.caption_entries import Counts, Entry, problems
from clipjax.data.storage import json_files
from clipjax.types import UserError


def is_coco(found: Any) -> bool:
    """Whether JSON has this form."""
    return isinstance(found, dict) and all(
        isinstance(found.get(name), list) for name in ("images", "annotations")
    )


def read(table: pathlib.Path, found: Any) -> tuple[dict[str, Entry], list[str]]:
    """Returns (file name -> its captions, in the file's order; problems in words).

    Ids are numbers or text; "7" and 7 are the same. Raises UserError for a file of
    another form, and for one without images or captions, saying what it holds.
    """
    if not is_coco(found):
        raise UserError(
            f"{table} is not of MS-COCO's form, an object with the lists 'images' and "
            f"'annotations', but {json_files.described(found)}; data=captions with the "
            f"option table reads lists of images with their captions"
        )
    counts = Counts()
    by_id: dict[Any, Entry] = {}
    entries: dict[str, Entry] = {}
    for image in found["images"]:
        name = image.get("file_name") if isinstance(image, dict) else None
        own = _id(image.get("id")) if isinstance(image, dict) else None
        if not isinstance(name, str) or not name or own is None:
            counts["images without id or file_name, left out"] += 1
        elif own in by_id or name in entries:
            counts["images whose id or file_name was there before, left out"] += 1
        else:
            by_id[own] = entries[name] = Entry()
    for note in found["annotations"]:
        own = _id(note.get("image_id")) if isinstance(note, dict) else None
        entry = None if own is None else by_id.get(own)
        if entry is None:
            counts["captions of no image in the list, left out"] += 1
        elif note.get("caption") is None:
            entry.mark("one of its captions is missing")
        else:
            for caption in caption_lists.of(note["caption"]):
                entry.add(caption, counts)
    held = {
        name: json_files.described(found[name]) for name in ("images", "annotations")
    }
    if not entries:
        raise UserError(
            f"{table} lists no images with 'id' and 'file_name': 'images' is "
            f"{held['images']}"
        )
    noted = _ids(found["annotations"], "image_id")
    if noted and not noted & set(by_id):
        raise UserError(
            f"{table}: no 'image_id' of its 'annotations', such as {min(noted)!r}, is "
            f"an 'id' of its 'images', such as {min(by_id)!r}: give both the same ids"
        )
    if not any(entry.rows for entry in entries.values()):
        raise UserError(
            f"{table} has no captions of its images: 'annotations' is "
            f"{held['annotations']}; it should be captions_....json, whose annotations "
            f"have 'image_id' and 'caption'"
        )
    return entries, problems(counts, entries)


def _id(value: Any) -> str | None:
    """One form of the ids that mean the same, None for what is none."""
    if isinstance(value, str):
        return value.strip() or None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value) if type(value) is int else None


def _ids(items: list[Any], name: str) -> set[str]:
    found = (_id(item.get(name)) for item in items if isinstance(item, dict))
    return {one for one in found if one is not None}
