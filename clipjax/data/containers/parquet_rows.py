"""Rows of parquet files with encoded images, captions and labels, read in any order.

A row is read with its row group; a bounded number of bytes of row groups stays in
memory, and a bounded number of files open. What the columns mean is found by
clipjax/data/containers/parquet_columns.py.
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

FAILED = b"failed"  # how img2dataset's status of a row without its image begins
MEMORY = 2**28  # bytes of row groups kept
FILES = 32  # kept open
CELLS, LISTS = "texts", "captions spell a list, whose members are taken"
NO_LABEL, BIG = -1, 2**31 - 1


@dataclasses.dataclass(frozen=True)
class Rows:
    """The rows of one file that have an image, in its order.

    name: the file's in messages. keys: by which examples are held out. splits: of each
    row, [] without such a column. group, row: int32 [n], row group and place in it.
    captions: int32 [n]; one that is not UTF-8 counts. labels: int32 [n] of each column
    of labels, NO_LABEL where it says none; words: of those with text, the texts that
    their numbers stand for. failed: rows whose image could not be had. largest: bytes
    of the images of one row group. counts: what is amiss with captions -> how often.
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
    words: dict[str, list[str]]
    failed: int
    largest: int
    counts: Counts


def scan(path: pathlib.Path, name: str, wanted: parquet_columns.Wanted) -> Rows:
    """Reads which rows have an image, and their keys, captions and labels, but no
    image.

    Raises UserError for a file that is no parquet, is cut off, or lacks such columns.
    """
    try:
        stamp = local.stamp_of(os.stat(path))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    file = _open(path)
    columns = parquet_columns.find(path, file.schema_arrow, wanted)
    largest = _largest(path, file, columns)
    keys, splits, where, counts, failed = [], [], [], [], 0
    labels: dict[str, list[int]] = {label: [] for label in columns.labels}
    words: dict[str, dict[str, int]] = {label: {} for label in columns.words}
    amiss = Counts()
    for group, found in _groups(path, file, columns.few()):
        for row in range(file.metadata.row_group(group).num_rows):
            said = found[columns.status][row] if columns.status else None
            if said and said.startswith(FAILED):
                failed += 1
                continue
            key = found[columns.key][row] if columns.key else None
            keys.append(_text(key) if key else f"{path.name}:{group}/{row}")
            if columns.split:
                said = _said(columns, columns.split, found[columns.split][row])
                splits.append(_text(said or b""))
            where.append((group, row))
            values = [found[one][row] for one in columns.captions]
            counts.append(len(texts(columns, values, amiss)))
            for label, numbers in labels.items():
                value = found[label][row]
                if label in words and value is not None:
                    known, word = words[label], _text(value).strip()
                    value = known.setdefault(word, len(known)) if word else None
                value = NO_LABEL if value is None else value
                numbers.append(min(max(value, NO_LABEL), BIG))
    places = np.array(where, np.int32).reshape(-1, 2)
    return Rows(
        path=path,
        name=name,
        stamp=stamp,
        columns=columns,
        keys=keys,
        splits=splits,
        group=places[:, 0].copy(),
        row=places[:, 1].copy(),
        captions=np.array(counts, np.int32),
        labels={label: np.array(labels[label], np.int32) for label in labels},
        words={label: list(words[label]) for label in words},
        failed=failed,
        largest=largest,
        counts=amiss,
    )


def words(path: pathlib.Path, label: str) -> set[str]:
    """All texts in a column of labels; none if a file has no such column."""
    file = _open(path)
    if label not in file.schema_arrow.names:
        return set()
    found: set[str] = set()
    for _, values in _groups(path, file, [label]):
        found.update(_text(v).strip() for v in values[label] if isinstance(v, bytes))
    return found - {""}


def texts(
    columns: parquet_columns.Columns, values: Iterable[Any], counts: Counts
) -> list[str | bytes]:
    """The captions in a row's values of columns.captions, without empty ones; what is
    not UTF-8 stays bytes.

    counts: what is amiss -> how often, to be added to; of CELLS and LISTS, how many
    texts there are and how many of them spell a list.
    """
    found: list[str | bytes] = []
    for name, cell in zip(columns.captions, values, strict=True):
        value = _said(columns, name, cell)
        for raw in value if isinstance(value, list) else [value]:
            if not raw and not isinstance(value, list):
                continue  # a cell without anything
            try:
                text = (raw or b"").decode("utf-8-sig")
            except UnicodeDecodeError:
                found.append(raw)
                continue
            spelt = caption_lists.spelt(text)
            counts[CELLS] += 1
            counts[LISTS] += spelt is not None
            counts[caption_lists.BROKEN] += caption_lists.is_broken(text, spelt)
            for caption in [text] if spelt is None else spelt or [None]:
                said = (caption or "").strip()
                counts[BLANK] += not said
                found += [said] if said else []
    return found


def problems(scanned: Sequence[Rows]) -> list[str]:
    """What is amiss with the columns and captions of files, in words."""
    counts = sum((found.counts for found in scanned), Counts())
    said = []
    if unused := list(dict.fromkeys(n for f in scanned for n in f.columns.unused)):
        said.append(f"{len(unused)} {table_columns.not_used(unused)}")
    if splits := list(dict.fromkeys(n for f in scanned for n in f.columns.splits)):
        said.append(
            f"the splits that the column {splits[0]} says are not used: the option "
            f"split_column={splits[0]} takes them"
        )
    if counts[BLANK]:
        said.append(f"{counts[BLANK]} {BLANK}")
    if 0 < counts[LISTS] < counts[CELLS]:
        said.append(f"{counts[LISTS]} of {counts[CELLS]} {LISTS}")
    if counts[caption_lists.BROKEN]:
        said.append(f"{counts[caption_lists.BROKEN]} {caption_lists.BROKEN}")
    return said


def _said(columns: parquet_columns.Columns, name: str, value: Any) -> Any:
    """A value as text, if its column has numbers of classes; else as it is."""
    if not isinstance(value, int):
        return value
    names = columns.called.get(name, ())
    return names[value].encode() if 0 <= value < len(names) else None


class RowGroups:
    """Reads values of rows; safe among threads. A pickled one arrives empty.

    kept: bytes of the row groups that are in memory.
    """

    def __init__(self, memory: int = MEMORY):
        self._memory = memory
        self._lock = threading.Lock()
        self._files: collections.OrderedDict[pathlib.Path, Any] = (
            collections.OrderedDict()
        )
        self._tables: collections.OrderedDict[tuple, Any] = collections.OrderedDict()
        self.kept = 0

    def __getstate__(self) -> int:
        return self._memory

    def __setstate__(self, memory: int) -> None:
        self.__init__(memory)

    def values(self, rows: Rows, i: int, columns: tuple[str, ...]) -> list[Any]:
        """The values of row i, text as its bytes (or a list of them), null as b"".

        Raises BadExample if the file is gone, changed or damaged.
        """
        place = (rows.path, int(rows.group[i]), columns)
        with self._lock:  # a reader of parquet is not for several threads at once
            found = self._tables.get(place)
            if found is None:
                try:
                    found = self._read(rows, place[1], columns)
                except _damage() as error:
                    words = _words(getattr(error, "strerror", None) or error)
                    raise BadExample(f"cannot read {rows.path}: {words}") from error
                self._keep(place, found)
            self._tables.move_to_end(place)
        if len(found) and len(found[0]) <= rows.row[i]:
            raise BadExample(f"{rows.path} is damaged: a row group is too short")
        values = [column[int(rows.row[i])].as_py() for column in found]
        return [b"" if value is None else value for value in values]

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
        read = file.read_row_group(group, columns=list(columns), use_threads=False)
        return [_values(read, name) for name in columns]

    def _keep(self, place: tuple, found: list[Any]) -> None:
        """Keeps these columns and lets the oldest go, but never these."""
        self._tables[place] = found
        self.kept += _cost(found)
        while self.kept > self._memory and len(self._tables) > 1:
            self.kept -= _cost(self._tables.popitem(last=False)[1])


def _cost(columns: list[Any]) -> int:
    """Bytes that columns take, with what goes with them."""
    return sum(column.nbytes for column in columns) + 2**12


def _open(path: pathlib.Path) -> Any:
    import pyarrow.parquet  # late: its import takes long, and few sources need it

    try:
        file = pyarrow.parquet.ParquetFile(path)
        file.schema_arrow.names  # noqa: B018 -- a damaged one shows here
        return file
    except _damage() as error:
        what = file_contents.other(downloads.opening(path, "a parquet file"))
        if what and not what.startswith("a parquet file"):
            raise UserError(f"{path} is no parquet file, but {what}") from error
        raise UserError(
            f"{path} is no parquet file, or truncated: get it anew or remove it "
            f"({_words(error)})"
        ) from error


def _damage() -> tuple[type[Exception], ...]:
    """What reading a damaged file raises."""
    import pyarrow

    return OSError, ValueError, KeyError, IndexError, pyarrow.ArrowException


def _largest(path: pathlib.Path, file: Any, columns: parquet_columns.Columns) -> int:
    """The bytes of the images of the largest row group; raises UserError if there
    are but paths of images.
    """
    sizes, nulls = [0], 0
    for group in range(file.num_row_groups):
        try:
            chunks = file.metadata.row_group(group)
            parts = [chunks.column(i) for i in range(chunks.num_columns)]
            for part in parts:
                if part.path_in_schema == columns.image:
                    known = part.statistics
                    sizes.append(part.total_uncompressed_size)
                    nulls += (known.null_count or 0) if known else 0
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
    """(number, column -> its values, text as bytes) of each row group."""
    for group in range(file.num_row_groups):
        try:
            read = file.read_row_group(group, columns=columns, use_threads=False)
            if columns and read.num_rows != file.metadata.row_group(group).num_rows:
                raise ValueError("it is too short")
            found = {name: _values(read, name).to_pylist() for name in columns}
        except _damage() as error:
            raise _damaged(path, group, error) from error
        yield group, found


def _damaged(path: pathlib.Path, group: int, error: Exception) -> UserError:
    return UserError(
        f"{path} is damaged in row group {group}: get it anew or remove it "
        f"({_words(error)})"
    )


def _values(table: Any, name: str) -> Any:
    """A column, or a field of a struct. Text is given as its bytes, so that what is not
    UTF-8 is one row's fault alone.
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


def _words(error: object) -> str:
    """An error on one line."""
    return " ".join(str(error).split())[:200]
