"""Finds the columns of a parquet file that hold images, captions, keys and labels.

Case is ignored; annotations/caption_columns.py finds the columns of captions. A column
has its name in the file, and a struct's field the name COLUMN.FIELD. The library
`datasets` records in the file's metadata which columns are images and classes, and the
classes' names; these are used.
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
    """The options of these names; "" and () find the usual columns."""

    image_column: str = ""
    caption_column: str = ""
    labels: tuple[str, ...] = ()
    split_column: str = ""


@dataclasses.dataclass(frozen=True)
class Columns:
    """Names of columns, "" if there is none.

    path: the column of images' paths, which a file may have in place of the bytes.
    labels: column -> its classes' names, () if the file does not have them.
    text_labels: the columns of labels that hold the classes' names as text.
    value_names: other column with numbers -> what they stand for. unused: columns of
    text that are not used. splits: columns that seem to hold the split, if none was
    chosen.
    """

    image: str
    path: str = ""
    captions: tuple[str, ...] = ()
    key: str = ""
    status: str = ""
    split: str = ""
    labels: dict[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    text_labels: frozenset[str] = frozenset()
    value_names: dict[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    unused: tuple[str, ...] = ()
    splits: tuple[str, ...] = ()

    def small(self) -> list[str]:
        """Returns the columns other than images, which are read of all rows at once."""
        names = (*self.captions, self.key, self.status, self.split, *self.labels)
        return [name for name in dict.fromkeys(names) if name]


def find(path: pathlib.Path, schema: Any, wanted: Wanted) -> Columns:
    """Finds a file's columns by its Arrow schema.

    Raises UserError, which lists the file's columns, for one that is missing or has
    another type.
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
    path_column = ""
    if image not in schema.names:  # a struct of bytes and perhaps their path
        path_column = f"{image.rpartition('.')[0]}.path"
        if not _is_text(fields.get(path_column)):
            path_column = ""
    labels = _labels(path, fields, features, wanted.labels)
    key_index = caption_columns.find(plain, "", KEYS)
    texts = [n for n in schema.names if _is_text(fields[n]) or _is_texts(fields[n])]
    used = [i for i, name in enumerate(texts) if name in (*captions, *labels, split)]
    return Columns(
        image=image,
        path=path_column,
        captions=captions,
        key="" if key_index is None else plain[key_index],
        status="status" if "status" in plain else "",
        split=split,
        labels=labels,
        text_labels=frozenset(name for name in labels if _is_text(fields[name])),
        value_names={
            name: _classes(features, name)
            for name in (*captions, split)
            if name and not _is_text(fields[name]) and not _is_texts(fields[name])
        },
        unused=tuple(caption_columns.unused_columns(texts, used))
        if not wanted.caption_column
        else (),
        splits=() if split else tuple(caption_columns.splits(schema.names)),
    )


def _image(
    path: pathlib.Path, names: list[str], fields: Any, features: Any, wanted: str
) -> str:
    if wanted:
        wanted = _known(path, fields, "image_column", wanted)
    declared = [
        n for n, f in features.items() if f.get("_type") == "Image" and n in names
    ]
    index = caption_columns.find(names, "", IMAGES)
    usual = "" if index is None else names[index]
    column = wanted or usual or (declared[0] if len(declared) == 1 else "")
    if not column:
        if any(name.lower().endswith("url") for name in names):
            raise UserError(f"{path} {local.ADDRESSES}")
        raise UserError(
            f"{path} has no column of images, but {', '.join(names)}; set the option "
            f"image_column"
        )
    if _is_binary(fields.get(f"{column}.bytes")):
        return f"{column}.bytes"
    if not _is_binary(fields[column]):
        raise UserError(
            f"{path}: the column {column} holds {fields[column]}, not encoded images; "
            "data=captions reads a table of their file names as CSV or JSON lines"
        )
    return column


def _captions(
    path: pathlib.Path, names: list[str], fields: Any, features: Any, wanted: str
) -> tuple[str, ...]:
    if wanted == NONE:
        return ()
    if wanted and "*" not in wanted and "." in wanted:
        groups = [[_known(path, fields, "caption_column", wanted)]]
    else:
        groups = [
            [names[i] for i in group]
            for group in caption_columns.captions(names, wanted)
        ]
    if wanted and not groups and "*" in wanted:
        raise UserError(
            f"{path} has no column caption_column={wanted}; it has {', '.join(names)}"
        )
    if wanted and not groups:
        _known(path, fields, "caption_column", wanted)
    if not wanted:  # columns called comment or text may hold numbers
        groups = [
            group for group in groups if not all(_is_number(fields[n]) for n in group)
        ]
    first = groups[0] if groups else []
    columns = [f"{n}.raw" if _is_text(fields.get(f"{n}.raw")) else n for n in first]
    for name in columns:
        text = _is_text(fields[name]) or _is_texts(fields[name])
        if not text and not (wanted and _classes(features, name)):
            raise UserError(
                f"{path}: the column {name} holds {fields[name]}, not text; name "
                f"another by caption_column, or {NONE} for no captions"
            )
    return tuple(columns)


def _classes(features: Any, name: str) -> tuple[str, ...]:
    """Returns the names of a column's classes; () if the file does not have them."""
    names = features.get(name, {}).get("names")
    valid = isinstance(names, list) and all(isinstance(n, str) for n in names)
    return tuple(names) if valid else ()


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
    declared = [n for n, f in features.items() if f.get("_type") == "ClassLabel"]
    index = caption_columns.find(list(fields), "", LABELS)
    columns = wanted or [
        name
        for name in declared or ([] if index is None else [list(fields)[index]])
        if name in fields and (kinds.is_integer(fields[name]) or _is_text(fields[name]))
    ]
    return {name: _classes(features, name) for name in columns}


def _known(path: pathlib.Path, fields: Any, option: str, name: str) -> str:
    """Returns the column that an option names in any case; raises UserError."""
    index = caption_columns.find(list(fields), name, ())
    if index is not None:
        return list(fields)[index]
    top_level = [field for field in fields if "." not in field] or list(fields)
    raise UserError(
        f"{path} has no column {option}={name}.{registry.suggest(name, top_level)} It "
        f"has {', '.join(top_level)}"
    )


def _fields(schema: Any) -> dict[str, Any]:
    """Returns name -> type of all columns and of their structs' fields."""
    import pyarrow.types as kinds

    types = {}
    for field in schema:
        types[field.name] = _plain(field.type)
        if kinds.is_struct(field.type):
            inner = {f"{field.name}.{f.name}": _plain(f.type) for f in field.type}
            types = {**inner, **types}  # a column of the same name has priority
    return types


def _plain(kind: Any) -> Any:
    """Returns the type of a column's values, also if it stores them as categories."""
    import pyarrow.types as kinds

    return kind.value_type if kinds.is_dictionary(kind) else kind


def _features(schema: Any) -> dict[str, dict[str, Any]]:
    """Returns `datasets`' metadata of the columns; {} if missing or broken."""
    raw = (schema.metadata or {}).get(b"huggingface")
    try:
        items = json.loads(raw)["info"]["features"].items() if raw else ()
        return {name: feature for name, feature in items if isinstance(feature, dict)}
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
    # A column without any value has the type null.
    return text or kinds.is_string_view(kind) or kinds.is_null(kind) or _is_binary(kind)


def _is_texts(kind: Any) -> bool:
    import pyarrow.types as kinds

    is_list = kinds.is_list(kind) or kinds.is_large_list(kind)
    is_list = is_list or kinds.is_fixed_size_list(kind)
    return is_list and _is_text(kind.value_type)
