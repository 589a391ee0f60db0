"""Rows of parquet files with encoded images and captions, read in any order.

A row is read with its row group; a bounded number of bytes of row groups stays in
memory, and a bounded number of files open.
"""

from __future__ import annotations

import collections
import dataclasses
import errno
import os
import pathlib
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np

from clipjax.data import files
from clipjax.types import BadExample, UserError

IMAGE_COLUMNS = ("jpg", "jpeg", "png", "webp", "image")
CAPTION_COLUMNS = ("caption", "txt", "text")
SUCCESS = "success"  # img2dataset's status of a row whose image could be had
MEMORY = 2**28  # bytes of row groups kept
FILES = 32  # kept open


@dataclasses.dataclass(frozen=True)
class Rows:
    """The rows of one file that have an image, in its order.

    columns: of image, caption and key; "" where there is none. group, row: int32 [n],
    row group and place in it. captions: int32 [n], 0 or 1; 1 where it is not UTF-8.
    failed: rows without an image.
    """

    path: pathlib.Path
    stamp: tuple[int, str]
    columns: tuple[str, str, str]
    keys: list[str]
    group: np.ndarray
    row: np.ndarray
    captions: np.ndarray
    failed: int


def scan(path: pathlib.Path, image_column: str, caption_column: str) -> Rows:
    """Reads which rows have an image, and their keys and captions, but no image.

    image_column, caption_column: "" finds the usual names. Raises UserError for a file
    that is no parquet, is cut off, or lacks such columns.
    """
    stamp = files.stamp_of(os.stat(path))
    file = _open(path)
    names = file.schema_arrow.names
    image = _column(path, names, "image_column", image_column, IMAGE_COLUMNS)
    if not image:
        if any(name.lower() == "url" for name in names):
            raise UserError(f"{path} {files.ADDRESSES}")
        raise UserError(
            f"{path} has no column of images, but {', '.join(names)}; set the option "
            f"image_column"
        )
    caption = _column(path, names, "caption_column", caption_column, CAPTION_COLUMNS)
    key = "key" if "key" in names else ""
    status = "status" if "status" in names else ""
    _check_types(path, file, image, caption, key)
    keys, where, counts, failed = [], [], [], 0
    for group, columns in _groups(path, file, [key, caption, status]):
        rows = file.metadata.row_group(group).num_rows
        for row in range(rows):
            said = columns[status][row] if status else None
            if said is not None and said != SUCCESS.encode():
                failed += 1
                continue
            name = columns[key][row] if key else None
            keys.append(_text(name) if name else f"{group}/{row}")
            where.append((group, row))
            text = columns[caption][row] if caption else None
            counts.append(1 if text and _text(text).strip() else 0)
    places = np.array(where, np.int32).reshape(-1, 2)
    return Rows(
        path=path,
        stamp=stamp,
        columns=(image, caption, key),
        keys=keys,
        group=places[:, 0].copy(),
        row=places[:, 1].copy(),
        captions=np.array(counts, np.int32),
        failed=failed,
    )


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

    def values(self, rows: Rows, i: int, columns: tuple[str, ...]) -> list[bytes]:
        """The values of row i, text as its bytes, null as b"".

        Raises BadExample where the file is gone, changed or damaged.
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
        return [column[int(rows.row[i])].as_py() or b"" for column in found]

    def _read(self, rows: Rows, group: int, columns: tuple[str, ...]) -> list[Any]:
        import pyarrow.parquet

        if files.stamp_of(os.stat(rows.path)) != rows.stamp:
            self._files.pop(rows.path, None)
            raise OSError(errno.ESTALE, files.CHANGED)
        file = self._files.get(rows.path)
        if file is None:
            file = self._files[rows.path] = pyarrow.parquet.ParquetFile(rows.path)
            if len(self._files) > FILES:
                self._files.popitem(last=False)[1].close()
        self._files.move_to_end(rows.path)
        read = file.read_row_group(group, columns=list(columns), use_threads=False)
        return [_binary(read.column(name)) for name in columns]

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
        raise UserError(
            f"{path} is no parquet file, or cut off: get it anew or remove it "
            f"({_words(error)})"
        ) from error


def _damage() -> tuple[type[Exception], ...]:
    """What reading a damaged file raises."""
    import pyarrow

    return OSError, ValueError, KeyError, IndexError, pyarrow.ArrowException


def _groups(
    path: pathlib.Path, file: Any, columns: list[str]
) -> Iterator[tuple[int, dict[str, list]]]:
    """(number, column -> its values as bytes) of each row group."""
    wanted = [column for column in columns if column]
    for group in range(file.num_row_groups):
        try:
            read = file.read_row_group(group, columns=wanted, use_threads=False)
            if wanted and read.num_rows != file.metadata.row_group(group).num_rows:
                raise ValueError("it is too short")
        except _damage() as error:
            raise UserError(
                f"{path} is damaged in row group {group}: get it anew or remove it "
                f"({_words(error)})"
            ) from error
        yield group, {name: _binary(read.column(name)).to_pylist() for name in wanted}


def _check_types(
    path: pathlib.Path, file: Any, image: str, caption: str, key: str
) -> None:
    import pyarrow.types as kinds

    schema = file.schema_arrow
    for name, what in ((image, "encoded images"), (caption, "text"), (key, "text")):
        if not name:
            continue
        kind = schema.field(name).type
        text = kinds.is_string(kind) or kinds.is_large_string(kind)
        if not (kinds.is_binary(kind) or kinds.is_large_binary(kind)):
            if not text or name == image:
                raise UserError(f"{path}: the column {name} holds {kind}, not {what}")


def _binary(column: Any) -> Any:
    """Text as its bytes, so that what is not UTF-8 is one row's fault alone."""
    import pyarrow
    import pyarrow.types as kinds

    if kinds.is_string(column.type):
        return column.cast(pyarrow.binary())
    if kinds.is_large_string(column.type):
        return column.cast(pyarrow.large_binary())
    return column


def _column(
    path: pathlib.Path, names: list[str], option: str, wanted: str, usual: tuple
) -> str:
    if wanted and wanted not in names:
        raise UserError(
            f"{path} has no column {option}={wanted}; it has {', '.join(names)}"
        )
    return wanted or _first(usual, names)


def _first(usual: tuple[str, ...], names: list[str]) -> str:
    return next((name for name in usual if name in names), "")


def _text(raw: bytes) -> str:
    return raw.decode("utf-8-sig", "backslashreplace")


def _words(error: object) -> str:
    """An error on one line."""
    return " ".join(str(error).split())[:200]
