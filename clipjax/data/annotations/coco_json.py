"""Reads captions in MS-COCO's form: `images` with ids, `annotations` with image ids."""

from __future__ import annotations

import pathlib
from typing import Any

from clipjax.data.annotations import caption_lists
from clipjax.data.annotations.caption_entries import Counts, Entry, problems
from clipjax.data.storage import json_files
from clipjax.types import UserError


def is_coco(content: Any) -> bool:
    """Whether JSON has this form."""
    return isinstance(content, dict) and all(
        isinstance(content.get(name), list) for name in ("images", "annotations")
    )


def read(table: pathlib.Path, content: Any) -> tuple[dict[str, Entry], list[str]]:
    """Returns (file name -> its captions, in the file's order; problems).

    Ids are numbers or text; "7" and 7 are the same. Raises UserError, which describes
    the content, for a file of another form and for one without images or captions.
    """
    if not is_coco(content):
        raise UserError(
            f"{table} does not have MS-COCO's form, an object with the lists 'images' "
            f"and 'annotations', but is {json_files.describe(content)}; data=captions "
            f"with the option table reads lists of images with their captions"
        )
    counts = Counts()
    by_id: dict[Any, Entry] = {}
    entries: dict[str, Entry] = {}
    for image in content["images"]:
        name = image.get("file_name") if isinstance(image, dict) else None
        image_id = _id(image.get("id")) if isinstance(image, dict) else None
        if not isinstance(name, str) or not name or image_id is None:
            counts["images without id or file_name, left out"] += 1
        elif image_id in by_id or name in entries:
            counts["images whose id or file_name was there before, left out"] += 1
        else:
            by_id[image_id] = entries[name] = Entry()
    for annotation in content["annotations"]:
        image_id = (
            _id(annotation.get("image_id")) if isinstance(annotation, dict) else None
        )
        entry = None if image_id is None else by_id.get(image_id)
        if entry is None:
            counts["captions of no image in the list, left out"] += 1
        elif annotation.get("caption") is None:
            entry.mark("one of its captions is missing")
        else:
            for caption in caption_lists.of(annotation["caption"]):
                entry.add(caption, counts)
    forms = {
        name: json_files.describe(content[name]) for name in ("images", "annotations")
    }
    if not entries:
        raise UserError(
            f"{table} lists no images with 'id' and 'file_name': 'images' is "
            f"{forms['images']}"
        )
    annotated_ids = _ids(content["annotations"], "image_id")
    if annotated_ids and not annotated_ids & set(by_id):
        raise UserError(
            f"{table}: no 'image_id' of its 'annotations', such as "
            f"{min(annotated_ids)!r}, is an 'id' of its 'images', such as "
            f"{min(by_id)!r}: give both the same ids"
        )
    if not any(entry.rows for entry in entries.values()):
        raise UserError(
            f"{table} has no captions of its images: 'annotations' is "
            f"{forms['annotations']}; it should be captions_....json, whose "
            f"annotations have 'image_id' and 'caption'"
        )
    return entries, problems(counts, entries)


def _id(value: Any) -> str | None:
    """Returns an id as text, so that 7 and "7" are equal; None for other values."""
    if isinstance(value, str):
        return value.strip() or None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value) if type(value) is int else None


def _ids(items: list[Any], name: str) -> set[str]:
    ids = (_id(item.get(name)) for item in items if isinstance(item, dict))
    return {identifier for identifier in ids if identifier is not None}
