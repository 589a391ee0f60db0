"""Reads rows of parquet files with encoded images, captions and labels in any order.

A row is read with its row group. The cache of row groups and the number of open files
are bounded. clipjax/data/containers/parquet_columns.py finds the columns.
"""

from __future__ import annotations

import collections
import dataclasses
import errno
import os
import pathlib
import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from clipjax import downloads
from clipjax.data.annotations import caption_columns as table_columns
from clipjax.data.annotations import caption_lists
from clipjax.data.annotations.caption_entries import BLANK, Counts
from clipjax.data.containers import parquet_columns
from clipjax.data.storage import file_contents, local
from clipjax.types import BadExample, UserError

FAILED = b"failed"  # the prefix of img2dataset's status of a row without its image
MEMORY = 2**28  # bytes of cached row groups
FILES = 32  # that may be open
CELLS, LISTS = "texts", "captions spell a list, whose members are taken"
NO_LABEL, BIG = -1, 2**31 - 1


@dataclasses.dataclass(frozen=True)
class Rows:
    """One file's rows that have an image, in the file's order.

    name: the file's name in messages. keys: by which examples are held out. splits:
    each row's split, [] without such a column. group, row: int32 [n], row group and row
    in it. captions: int32 [n], how many; one that is not UTF-8 counts. labels: column
    -> int32 [n], NO_LABEL for null. label_texts: column of text -> the texts that its
    numbers stand for. failed: number of rows whose image could not be downloaded.
    largest: bytes of the largest row group's images. counts: problem with captions ->
    how often.
    """

    path: pathlib.Path
    name: str
    stamp: tuple[int, str]
    columns: parquet_columns.Columns
    keys: list[str]
    splits: list[str]
    group: np.ndarray
    row: np.ndarray
    captions: np.ndarray
    labels: dict[str, np.ndarray]
    label_texts: dict[str, list[str]]
    failed: int
    largest: int
    counts: Counts


def scan(path: pathlib.Path, name: str, wanted: parquet_columns.Wanted) -> Rows:
    """Reads the keys, captions and labels of the rows that have an image, but no image.

    Raises UserError for a file that is not parquet, is truncated or lacks such columns.
    """
    try:
        stamp = local.stamp_of(os.stat(path))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    file = _open(path)
    columns = parquet_columns.find(path, file.schema_arrow, wanted)
    largest = _largest(path, file, columns)
    keys, splits, positions, caption_counts, failed = [], [], [], [], 0
    labels: dict[str, list[int]] = {label: [] for label in columns.labels}
    numbers_by_text: dict[str, dict[str, int]] = {
        label: {} for label in columns.text_labels
    }
    counts = Counts()
    for group, values in _groups(path, file, columns.small()):
        for row in range(file.metadata.row_group(group).num_rows):
            cell = values[columns.status][row] if columns.status else None
            if cell and cell.startswith(FAILED):
                failed += 1
                continue
            key = values[columns.key][row] if columns.key else None
            keys.append(_text(key) if key else f"{path.name}:{group}/{row}")
            if columns.split:
                cell = _as_text(columns, columns.split, values[columns.split][row])
                splits.append(_text(cell or b""))
            positions.append((group, row))
            cells = [values[column][row] for column in columns.captions]
            caption_counts.append(len(texts(columns, cells, counts)))
            for label, numbers in labels.items():
                label_value = values[label][row]
                if label in numbers_by_text and label_value is not None:
                    numbers_of, text = (
                        numbers_by_text[label],
                        _text(label_value).strip(),
                    )
                    label_value = (
                        numbers_of.setdefault(text, len(numbers_of)) if text else None
                    )
                label_value = NO_LABEL if label_value is None else label_value
                numbers.append(min(max(label_value, NO_LABEL), BIG))
    groups_and_rows = np.array(positions, np.int32).reshape(-1, 2)
    return Rows(
        path=path,
        name=name,
        stamp=stamp,
        columns=columns,
        keys=keys,
        splits=splits,
        group=groups_and_rows[:, 0].copy(),
        row=groups_and_rows[:, 1].copy(),
        captions=np.array(caption_counts, np.int32),
        labels={label: np.array(labels[label], np.int32) for label in labels},
        label_texts={label: list(numbers_by_text[label]) for label in numbers_by_text},
        failed=failed,
        largest=largest,
        counts=counts,
    )


def label_texts(path: pathlib.Path, label: str) -> set[str]:
    """Returns all texts in a column of labels; none if the file has no such column."""
    file = _open(path)
    if label not in file.schema_arrow.names:
        return set()
    texts: set[str] = set()
    for _, values in _groups(path, file, [label]):
        texts.update(_text(v).strip() for v in values[label] if isinstance(v, bytes))
    return texts - {""}


def texts(
    columns: parquet_columns.Columns, values: Iterable[Any], counts: Counts
) -> list[str | bytes]:
    """Returns the captions in a row's values of columns.captions, without empty ones;
    captions that are not UTF-8 stay bytes.

    counts: problem -> how often; this call adds to it, also how many texts there are
    (CELLS) and how many of them spell a list (LISTS).
    """
    captions: list[str | bytes] = []
    for name, cell in zip(columns.captions, values, strict=True):
        value = _as_text(columns, name, cell)
        for raw in value if isinstance(value, list) else [value]:
            if not raw and not isinstance(value, list):
                continue  # an empty cell
            try:
                text = (raw or b"").decode("utf-8-sig")
            except UnicodeDecodeError:
                captions.append(raw)
                continue
            spelt = caption_lists.spelt(text)
            counts[CELLS] += 1
            counts[LISTS] += spelt is not None
            counts[caption_lists.BROKEN] += caption_lists.is_broken(text, spelt)
            for caption in [text] if spelt is None else spelt or [None]:
                stripped = (caption or "").strip()
                counts[BLANK] += not stripped
                captions += [stripped] if stripped else []
    return captions


def problems(scanned: Sequence[Rows]) -> list[str]:
    """Returns the messages about the files' columns and captions."""
    counts = sum((rows.counts for rows in scanned), Counts())
    messages = []
    if unused := list(dict.fromkeys(n for f in scanned for n in f.columns.unused)):
        messages.append(f"{len(unused)} {table_columns.describe_unused(unused)}")
    if splits := list(dict.fromkeys(n for f in scanned for n in f.columns.splits)):
        messages.append(
            f"the splits in the column {splits[0]} are not used: the option "
            f"split_column={splits[0]} uses them"
        )
    if counts[BLANK]:
        messages.append(f"{counts[BLANK]} {BLANK}")
    if 0 < counts[LISTS] < counts[CELLS]:
        messages.append(f"{counts[LISTS]} of {counts[CELLS]} {LISTS}")
    if counts[caption_lists.BROKEN]:
        messages.append(f"{counts[caption_lists.BROKEN]} {caption_lists.BROKEN}")
    return messages


def _as_text(columns: parquet_columns.Columns, name: str, value: Any) -> Any:
    """Returns the name that a number stands for; other values unchanged."""
    if not isinstance(value, int):
        return value
    names = columns.value_names.get(name, ())
    return names[value].encode() if 0 <= value < len(names) else None


class RowGroups:
    """Reads values of rows through a cache. Thread-safe; pickling leaves out the cache.

    cached_bytes: bytes of the row groups in the cache.
    """

    def __init__(self, memory: int = MEMORY):
        self._memory = memory
        self._lock = threading.Lock()
        self._files: collections.OrderedDict[pathlib.Path, Any] = (
            collections.OrderedDict()
        )
        self._tables: collections.OrderedDict[tuple, Any] = collections.OrderedDict()
        self.cached_bytes = 0

    def __getstate__(self) -> int:
        return self._memory

    def __setstate__(self, memory: int) -> None:
        self.__init__(memory)

    def values(self, rows: Rows, i: int, columns: tuple[str, ...]) -> list[Any]:
        """Returns row i's values: text as bytes or a list of them, null as b"".

        Raises BadExample if the file is missing, changed or damaged.
        """
        table_key = (rows.path, int(rows.group[i]), columns)
        with self._lock:  # a ParquetFile is not thread-safe
            table = self._tables.get(table_key)
            if table is None:
                try:
                    table = self._read(rows, table_key[1], columns)
                except _damage() as error:
                    reason = _one_line(getattr(error, "strerror", None) or error)
                    raise BadExample(f"cannot read {rows.path}: {reason}") from error
                self._add(table_key, table)
            self._tables.move_to_end(table_key)
        if len(table) and len(table[0]) <= rows.row[i]:
            raise BadExample(f"{rows.path} is damaged: a row group is too short")
        cells = [column[int(rows.row[i])].as_py() for column in table]
        return [b"" if value is None else value for value in cells]

    def _read(self, rows: Rows, group: int, columns: tuple[str, ...]) -> list[Any]:
        import pyarrow.parquet

        if local.stamp_of(os.stat(rows.path)) != rows.stamp:
            self._files.pop(rows.path, None)
            raise OSError(errno.ESTALE, local.CHANGED)
        file = self._files.get(rows.path)
        if file is None:
            file = self._files[rows.path] = pyarrow.parquet.ParquetFile(rows.path)
            if len(self._files) > FILES:
                self._files.popitem(last=False)[1].close()
        self._files.move_to_end(rows.path)
        table = file.read_row_group(group, columns=list(columns), use_threads=False)
        return [_values(table, name) for name in columns]

    def _add(self, table_key: tuple, columns: list[Any]) -> None:
        """Caches these columns and evicts the oldest others, as far as needed."""
        self._tables[table_key] = columns
        self.cached_bytes += _cost(columns)
        while self.cached_bytes > self._memory and len(self._tables) > 1:
            self.cached_bytes -= _cost(self._tables.popitem(last=False)[1])


def _cost(columns: list[Any]) -> int:
    """Returns the columns' bytes, with the overhead of their objects."""
    return sum(column.nbytes for column in columns) + 2**12


def _open(path: pathlib.Path) -> Any:
    import pyarrow.parquet  # here: its import takes long, and few sources need it

    try:
        file = pyarrow.parquet.ParquetFile(path)
        file.schema_arrow.names  # noqa: B018 -- raises if the schema is damaged
        return file
    except _damage() as error:
        other_form = file_contents.other(downloads.opening(path, "a parquet file"))
        if other_form and not other_form.startswith("a parquet file"):
            raise UserError(
                f"{path} is not a parquet file, but {other_form}"
            ) from error
        raise UserError(
            f"{path} is not a parquet file, or truncated: download it again or remove "
            f"it ({_one_line(error)})"
        ) from error


def _damage() -> tuple[type[Exception], ...]:
    """Returns the exceptions that reading a damaged file raises."""
    import pyarrow

    return OSError, ValueError, KeyError, IndexError, pyarrow.ArrowException


def _largest(path: pathlib.Path, file: Any, columns: parquet_columns.Columns) -> int:
    """Returns the bytes of the largest row group's images; raises UserError if the file
    has only paths of images.
    """
    sizes, nulls = [0], 0
    for group in range(file.num_row_groups):
        try:
            chunks = file.metadata.row_group(group)
            column_chunks = [chunks.column(i) for i in range(chunks.num_columns)]
            for chunk in column_chunks:
                if chunk.path_in_schema == columns.image:
                    statistics = chunk.statistics
                    sizes.append(chunk.total_uncompressed_size)
                    nulls += (statistics.null_count or 0) if statistics else 0
        except _damage() as error:
            raise _damaged(path, group, error) from error
    if columns.path and nulls == file.metadata.num_rows > 0:
        raise UserError(
            f"{path} holds paths of images, not images: write it with the images in "
            f"{columns.image}, as Dataset.push_to_hub does"
        )
    return max(sizes)


def _groups(
    path: pathlib.Path, file: Any, columns: list[str]
) -> Iterator[tuple[int, dict[str, list]]]:
    """Yields (number, column -> its values, text as bytes) per row group."""
    for group in range(file.num_row_groups):
        try:
            table = file.read_row_group(group, columns=columns, use_threads=False)
            if columns and table.num_rows != file.metadata.row_group(group).num_rows:
                raise ValueError("it is too short")
            values = {name: _values(table, name).to_pylist() for name in columns}
        except _damage() as error:
            raise _damaged(path, group, error) from error
        yield group, values


def _damaged(path: pathlib.Path, group: int, error: Exception) -> UserError:
    return UserError(
        f"{path} is damaged in row group {group}: download it again or remove it "
        f"({_one_line(error)})"
    )


def _values(table: Any, name: str) -> Any:
    """Returns a column, or a struct's field. Text is bytes, so that text that is not
    UTF-8 breaks its own row alone.
    """
    import pyarrow
    import pyarrow.compute
    import pyarrow.types as kinds

    if name in table.column_names:
        column = table.column(name)
    else:
        outer, _, inner = name.rpartition(".")
        column = pyarrow.compute.call_function(
            "struct_field",
            [table.column(outer)],
            pyarrow.compute.StructFieldOptions([inner]),
        )
    if kinds.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if kinds.is_string(column.type):
        return column.cast(pyarrow.binary())
    if kinds.is_large_string(column.type) or kinds.is_string_view(column.type):
        return column.cast(pyarrow.large_binary())
    if kinds.is_list(column.type) or kinds.is_fixed_size_list(column.type):
        return column.cast(pyarrow.list_(pyarrow.binary()))
    if kinds.is_large_list(column.type):
        return column.cast(pyarrow.large_list(pyarrow.large_binary()))
    return column


def _text(raw: bytes) -> str:
    return raw.decode("utf-8-sig", "backslashreplace")


def _one_line(error: object) -> str:
    """Formats an error on one line."""
    return " ".join(str(error).split())[:200]
