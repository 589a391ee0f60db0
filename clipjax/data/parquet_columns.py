"""Which columns of a parquet file hold images, captions, keys and labels.

A column is named as in the file, a field of a struct as COLUMN.FIELD. What the library
`datasets` writes beside its columns (which of them are images and classes, and what the
classes are called) is read from the file's metadata.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import json
import pathlib
import re
from typing import Any

from clipjax import registry
from clipjax.data import files
from clipjax.types import UserError

IMAGES = ("jpg", "jpeg", "png", "webp", "image", "img")
CAPTIONS = (
    *("caption", "txt", "text", "captions", "sentences_raw", "sentences"),
    *("sentence", "raw"),
)
NUMBERED = re.compile(r"(caption|sentence|text)_?\d+")
LABELS = ("label", "labels", "fine_label", "coarse_label")
KEYS = ("key", "__key__")
NONE = "none"


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What the options of these names say; "" and () find the usual columns."""

    image_column: str = ""
    caption_column: str = ""
    labels: tuple[str, ...] = ()
    split_column: str = ""


@dataclasses.dataclass(frozen=True)
class Columns:
    """Names of columns, "" where there is none.

    path: where an image's bytes may be instead. labels: column -> the names of its
    classes, () where the file does not say them.
    """

    image: str
    path: str = ""
    captions: tuple[str, ...] = ()
    key: str = ""
    status: str = ""
    split: str = ""
    labels: dict[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)

    def few(self) -> list[str]:
        """All that are small: what is read of every row at once."""
        names = (*self.captions, self.key, self.status, self.split, *self.labels)
        return [name for name in dict.fromkeys(names) if name]


def find(path: pathlib.Path, schema: Any, wanted: Wanted) -> Columns:
    """The columns of a file by its Arrow schema; raises UserError, naming those there
    are, for one that is missing or holds something else.
    """
    fields = _fields(schema)
    features = _features(schema)
    image = _image(path, schema.names, fields, features, wanted.image_column)
    captions = _captions(path, schema.names, fields, wanted.caption_column)
    split = wanted.split_column
    if split:
        _check(path, fields, "split_column", split)
        if not _is_text(fields[split]):
            kind = fields[split]
            raise UserError(f"{path}: the column {split} holds {kind}, not text")
    plain = [name for name in schema.names if _is_text(fields[name])]
    place = ""
    if image not in schema.names:  # a struct's bytes, perhaps beside their path
        place = f"{image.rpartition('.')[0]}.path"
        place = place if place in fields and _is_text(fields[place]) else ""
    return Columns(
        image=image,
        path=place,
        captions=captions,
        key=next((name for name in KEYS if name in plain), ""),
        status="status" if "status" in plain else "",
        split=split,
        labels=_labels(path, fields, features, wanted.labels),
    )


def _image(
    path: pathlib.Path, names: list[str], fields: Any, features: Any, wanted: str
) -> str:
    if wanted:
        _check(path, fields, "image_column", wanted)
    told = [n for n, f in features.items() if f.get("_type") == "Image" and n in names]
    usual = next((name for name in IMAGES if name in names), "")
    found = wanted or usual or (told[0] if len(told) == 1 else "")
    if not found:
        if any(name.lower().endswith("url") for name in names):
            raise UserError(f"{path} {files.ADDRESSES}")
        raise UserError(
            f"{path} has no column of images, but {', '.join(names)}; set the option "
            f"image_column"
        )
    if _is_binary(fields.get(f"{found}.bytes")):
        return f"{found}.bytes"
    if not _is_binary(fields[found]):
        raise UserError(
            f"{path}: the column {found} holds {fields[found]}, not encoded images"
        )
    return found


def _captions(
    path: pathlib.Path, names: list[str], fields: Any, wanted: str
) -> tuple[str, ...]:
    if wanted == NONE:
        return ()
    if "*" in wanted:
        found = fnmatch.filter(names, wanted)
        if not found:
            raise UserError(
                f"{path} has no column caption_column={wanted}; it has "
                f"{', '.join(names)}"
            )
    elif wanted:
        _check(path, fields, "caption_column", wanted)
        found = [wanted]
    else:
        found = [name for name in CAPTIONS if name in names][:1]
        found = found or [name for name in names if NUMBERED.fullmatch(name)]
    raw = [f"{n}.raw" if _is_text(fields.get(f"{n}.raw")) else n for n in found]
    for name in raw:
        if not (_is_text(fields[name]) or _is_texts(fields[name])):
            raise UserError(
                f"{path}: the column {name} holds {fields[name]}, not text; name "
                f"another by caption_column, or {NONE} for no captions"
            )
    return tuple(raw)


def _labels(
    path: pathlib.Path, fields: Any, features: Any, wanted: tuple[str, ...]
) -> dict[str, tuple[str, ...]]:
    import pyarrow.types as kinds

    for name in wanted:
        _check(path, fields, "labels", name)
        if not kinds.is_integer(fields[name]):
            raise UserError(
                f"{path}: the column {name} holds {fields[name]}, not numbers of "
                f"classes"
            )
    told = [n for n, f in features.items() if f.get("_type") == "ClassLabel"]
    usual = [name for name in LABELS if name in fields][:1]
    found = wanted or [
        n for n in told or usual if n in fields and kinds.is_integer(fields[n])
    ]
    names: dict[str, tuple[str, ...]] = {}
    for name in found:
        listed = features.get(name, {}).get("names")
        good = isinstance(listed, list) and all(isinstance(n, str) for n in listed)
        names[name] = tuple(listed) if good else ()
    return names


def _check(path: pathlib.Path, fields: Any, option: str, name: str) -> None:
    if name not in fields:
        there = [field for field in fields if "." not in field] or list(fields)
        raise UserError(
            f"{path} has no column {option}={name}.{registry.suggest(name, there)} It "
            f"has {', '.join(there)}"
        )


def _fields(schema: Any) -> dict[str, Any]:
    """Name -> type of all columns and of what is in their structs."""
    import pyarrow.types as kinds

    found = {}
    for field in schema:
        found[field.name] = field.type
        if kinds.is_struct(field.type):
            inner = {f"{field.name}.{f.name}": f.type for f in field.type}
            found = {**inner, **found}  # a column that is really called so comes first
    return found


def _features(schema: Any) -> dict[str, dict[str, Any]]:
    """What `datasets` says of the columns; {} where it says nothing or is broken."""
    raw = (schema.metadata or {}).get(b"huggingface")
    try:
        found = json.loads(raw)["info"]["features"].items() if raw else ()
        return {name: one for name, one in found if isinstance(one, dict)}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


def _is_binary(kind: Any) -> bool:
    import pyarrow.types as kinds

    return kind is not None and (kinds.is_binary(kind) or kinds.is_large_binary(kind))


def _is_text(kind: Any) -> bool:
    import pyarrow.types as kinds

    if kind is None:
        return False
    return kinds.is_string(kind) or kinds.is_large_string(kind) or _is_binary(kind)


def _is_texts(kind: Any) -> bool:
    import pyarrow.types as kinds

    listed = kinds.is_list(kind) or kinds.is_large_list(kind)
    return listed and _is_text(kind.value_type)
