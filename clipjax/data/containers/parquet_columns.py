"""Which columns of a parquet file hold images, captions, keys and labels.

Columns are found without regard to case, those of captions by
annotations/caption_columns.py.

A column is named as in the file, a field of a struct as COLUMN.FIELD. What the library
`datasets` writes beside its columns (which of them are images and classes, and what the
classes are called) is read from the file's metadata.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
from typing import Any

from clipjax import registry
from clipjax.data.annotations import caption_columns
from clipjax.data.storage import local
from clipjax.types import UserError

IMAGES = ("jpg", "jpeg", "png", "webp", "image", "img")
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
    """Names of columns, "" if there is none.

    path: where an image's bytes may be instead. labels: column -> the names of its
    classes, () if the file does not say them. words: those of them that hold text,
    the classes themselves. called: of other columns with numbers, what these say.
    unused: columns of text that nothing is taken from. splits: columns that seem to
    say the split, if none was chosen.
    """

    image: str
    path: str = ""
    captions: tuple[str, ...] = ()
    key: str = ""
    status: str = ""
    split: str = ""
    labels: dict[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    words: frozenset[str] = frozenset()
    called: dict[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    unused: tuple[str, ...] = ()
    splits: tuple[str, ...] = ()

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
    captions = _captions(path, schema.names, fields, features, wanted.caption_column)
    split = wanted.split_column
    if split:
        split = _known(path, fields, "split_column", split)
        if not _is_text(fields[split]) and not _classes(features, split):
            kind = fields[split]
            raise UserError(f"{path}: the column {split} holds {kind}, not text")
    plain = [name for name in schema.names if _is_text(fields[name])]
    place = ""
    if image not in schema.names:  # a struct's bytes, perhaps beside their path
        place = f"{image.rpartition('.')[0]}.path"
        place = place if place in fields and _is_text(fields[place]) else ""
    labels = _labels(path, fields, features, wanted.labels)
    key = caption_columns.find(plain, "", KEYS)
    texts = [n for n in schema.names if _is_text(fields[n]) or _is_texts(fields[n])]
    used = [i for i, name in enumerate(texts) if name in (*captions, *labels, split)]
    return Columns(
        image=image,
        path=place,
        captions=captions,
        key="" if key is None else plain[key],
        status="status" if "status" in plain else "",
        split=split,
        labels=labels,
        words=frozenset(name for name in labels if _is_text(fields[name])),
        called={
            name: _classes(features, name)
            for name in (*captions, split)
            if name and not _is_text(fields[name]) and not _is_texts(fields[name])
        },
        unused=tuple(caption_columns.unused(texts, used))
        if not wanted.caption_column
        else (),
        splits=() if split else tuple(caption_columns.splits(schema.names)),
    )


def _image(
    path: pathlib.Path, names: list[str], fields: Any, features: Any, wanted: str
) -> str:
    if wanted:
        wanted = _known(path, fields, "image_column", wanted)
    told = [n for n, f in features.items() if f.get("_type") == "Image" and n in names]
    at = caption_columns.find(names, "", IMAGES)
    usual = "" if at is None else names[at]
    found = wanted or usual or (told[0] if len(told) == 1 else "")
    if not found:
        if any(name.lower().endswith("url") for name in names):
            raise UserError(f"{path} {local.ADDRESSES}")
        raise UserError(
            f"{path} has no column of images, but {', '.join(names)}; set the option "
            f"image_column"
        )
    if _is_binary(fields.get(f"{found}.bytes")):
        return f"{found}.bytes"
    if not _is_binary(fields[found]):
        raise UserError(
            f"{path}: the column {found} holds {fields[found]}, not encoded images; a "
            "table of their file names is read as CSV or JSON lines by data=captions"
        )
    return found


def _captions(
    path: pathlib.Path, names: list[str], fields: Any, features: Any, wanted: str
) -> tuple[str, ...]:
    if wanted == NONE:
        return ()
    if wanted and "*" not in wanted and "." in wanted:
        groups = [[_known(path, fields, "caption_column", wanted)]]
    else:
        groups = [
            [names[i] for i in g] for g in caption_columns.captions(names, wanted)
        ]
    if wanted and not groups and "*" in wanted:
        raise UserError(
            f"{path} has no column caption_column={wanted}; it has {', '.join(names)}"
        )
    if wanted and not groups:
        _known(path, fields, "caption_column", wanted)
    if not wanted:  # a number is called a comment or text, too
        groups = [g for g in groups if not all(_is_number(fields[n]) for n in g)]
    found = groups[0] if groups else []
    raw = [f"{n}.raw" if _is_text(fields.get(f"{n}.raw")) else n for n in found]
    for name in raw:
        text = _is_text(fields[name]) or _is_texts(fields[name])
        if not text and not (wanted and _classes(features, name)):
            raise UserError(
                f"{path}: the column {name} holds {fields[name]}, not text; name "
                f"another by caption_column, or {NONE} for no captions"
            )
    return tuple(raw)


def _classes(features: Any, name: str) -> tuple[str, ...]:
    """What the numbers of a column say, () if the file does not tell."""
    listed = features.get(name, {}).get("names")
    good = isinstance(listed, list) and all(isinstance(n, str) for n in listed)
    return tuple(listed) if good else ()


def _labels(
    path: pathlib.Path, fields: Any, features: Any, wanted: tuple[str, ...]
) -> dict[str, tuple[str, ...]]:
    import pyarrow.types as kinds

    wanted = tuple(_known(path, fields, "labels", name) for name in wanted)
    for name in wanted:
        if not kinds.is_integer(fields[name]) and not _is_text(fields[name]):
            raise UserError(
                f"{path}: the column {name} holds {fields[name]}, not classes as "
                f"numbers or text"
            )
    told = [n for n, f in features.items() if f.get("_type") == "ClassLabel"]
    at = caption_columns.find(list(fields), "", LABELS)
    found = wanted or [
        name
        for name in told or ([] if at is None else [list(fields)[at]])
        if name in fields and (kinds.is_integer(fields[name]) or _is_text(fields[name]))
    ]
    return {name: _classes(features, name) for name in found}


def _known(path: pathlib.Path, fields: Any, option: str, name: str) -> str:
    """The column that an option names, if need be in another case; raises UserError."""
    at = caption_columns.find(list(fields), name, ())
    if at is not None:
        return list(fields)[at]
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
        found[field.name] = _plain(field.type)
        if kinds.is_struct(field.type):
            inner = {f"{field.name}.{f.name}": _plain(f.type) for f in field.type}
            found = {**inner, **found}  # a column that is really called so comes first
    return found


def _plain(kind: Any) -> Any:
    """The type of a column's values; categories are stored as numbers of these."""
    import pyarrow.types as kinds

    return kind.value_type if kinds.is_dictionary(kind) else kind


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


def _is_number(kind: Any) -> bool:
    import pyarrow.types as kinds

    return kinds.is_primitive(kind)


def _is_text(kind: Any) -> bool:
    import pyarrow.types as kinds

    if kind is None:
        return False
    text = kinds.is_string(kind) or kinds.is_large_string(kind)
    # A column in which a file has no value at all is of no type.
    return text or kinds.is_string_view(kind) or kinds.is_null(kind) or _is_binary(kind)


def _is_texts(kind: Any) -> bool:
    import pyarrow.types as kinds

    listed = kinds.is_list(kind) or kinds.is_large_list(kind)
    listed = listed or kinds.is_fixed_size_list(kind)
    return listed and _is_text(kind.value_type)
