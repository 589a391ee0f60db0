"""The SQLite file of an index: which photos there are, and where their vectors lie.

A row's `slot` is the number of its vector in the file beside. A vector is on the disk
before the row that points to it. `holes` are the slots that no row has any more.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pathlib
import sqlite3
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from clipjax import paths
from clipjax.types import UserError

VERSION = 2
_WAIT = 60.0  # seconds for another process's transaction
_SCHEMA = """
CREATE TABLE about(key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE folders(path BLOB PRIMARY KEY, exclude TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE holes(slot INTEGER PRIMARY KEY);
CREATE TABLE photos(
  id INTEGER PRIMARY KEY,
  path BLOB NOT NULL UNIQUE,
  size INTEGER NOT NULL,
  mtime INTEGER NOT NULL,
  digest BLOB,
  slot INTEGER UNIQUE,
  hash INTEGER,
  width INTEGER,
  height INTEGER,
  reason TEXT NOT NULL DEFAULT '',
  retry INTEGER NOT NULL DEFAULT 0,
  hashed INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX by_size ON photos(size);
CREATE INDEX by_digest ON photos(digest);
"""
_COLUMNS = "path, size, mtime, digest, slot, hash, width, height, reason, retry, hashed"
_FOUND = "temp.found"


class Row(NamedTuple):
    """A file that was read.

    path: in full, as bytes. size: in bytes. mtime: in nanoseconds. digest: of the
    content, None if it could not be read. slot: of the vector, None if broken. hash:
    perceptual, None if the picture is too plain. width, height: of the upright picture.
    reason: why it is broken, "" if not. retry: whether a broken one may be whole
    next time, though the file is the same. hashed: whether `hash` is known.
    """

    path: bytes
    size: int
    mtime: int
    digest: bytes | None = None
    slot: int | None = None
    hash: int | None = None
    width: int | None = None
    height: int | None = None
    reason: str = ""
    retry: bool = False
    hashed: bool = False

    @property
    def name(self) -> str:
        return os.fsdecode(self.path)


class Photos:
    """An open index, for one thread at a time. `new` until `begin` has been called.

    write: as the only writer, creating the file if there is none.

    Raises UserError if there is no such file, it is no index, another version's, or
    another process is writing it.
    """

    def __init__(self, place: pathlib.Path, *, write: bool = False):
        self.place = place
        self._lock = -1
        if place.is_dir():
            raise UserError(
                f"{place} is a folder: name a file, such as {place}/x.clipjax"
            )
        if write:
            # Opened before SQLite does and closed after it, because closing a file
            # drops the locks by which SQLite protects it.
            self._lock = os.open(place, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                os.close(self._lock)
                raise UserError(
                    f"{place} is being written by another process: wait until it ends"
                ) from error
        elif not place.exists():
            raise UserError(
                f"{place}: there is no such index: make one by python -m "
                "clipjax.search index PHOTOS --model MODEL"
            )
        # A killed writer's last change is undone by whoever opens it to write.
        mode = "rw" if os.access(place, os.W_OK) else "ro"
        self._sql = sqlite3.connect(
            f"{place.absolute().as_uri()}?mode={mode}",
            uri=True,
            timeout=_WAIT,
            isolation_level=None,
            check_same_thread=False,
        )
        try:
            self._open(write)
        except BaseException:
            self.close()
            raise

    def _open(self, write: bool) -> None:
        try:
            tables = {x for (x,) in self._sql.execute("SELECT name FROM sqlite_master")}
        except sqlite3.DatabaseError as error:
            if getattr(error, "sqlite_errorname", "") != "SQLITE_NOTADB":
                raise
            raise UserError(
                f"{self.place} is no index of photos: name another --db"
            ) from error
        self.new = not tables
        if self.new:
            if not write:
                raise UserError(f"{self.place} is empty: index photos first")
            return
        version = self.about().get("version") if "about" in tables else None
        if version != VERSION:
            raise UserError(
                f"{self.place} is no index of photos that this version can read: name "
                "another --db, or delete it and index the photos again"
            )

    def begin(self, about: dict[str, Any]) -> None:
        """Makes a new index's tables, in one transaction."""
        with self.change():
            for statement in _SCHEMA.split(";"):
                self._sql.execute(statement)
            self._set(about | {"version": VERSION})
        self.new = False

    def about(self) -> dict[str, Any]:
        """What the index is of: the model and its identity, the vectors' width."""
        found = self._sql.execute("SELECT key, value FROM about")
        return {key: json.loads(value) for key, value in found}

    def set_place(self, place: str) -> None:
        """Stores where the model lies now."""
        self._set({"place": place})

    def _set(self, about: dict[str, Any]) -> None:
        rows = [(key, json.dumps(value)) for key, value in about.items()]
        self._sql.executemany("INSERT OR REPLACE INTO about VALUES (?, ?)", rows)

    @contextlib.contextmanager
    def change(self) -> Iterator[None]:
        """A transaction: all of the block's changes, or none."""
        self._sql.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._sql.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                self._sql.execute("ROLLBACK")
            raise

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[None]:
        """All reads of the block see the same state."""
        self._sql.execute("BEGIN")
        try:
            yield
        finally:
            self._sql.execute("COMMIT")

    # Folders: what was asked to be indexed.

    def folders(self) -> dict[bytes, str]:
        """Each indexed folder with its `exclude`."""
        return dict(self._sql.execute("SELECT path, exclude FROM folders"))

    def set_folder(self, path: bytes, exclude: str) -> None:
        self._sql.execute(
            "INSERT OR REPLACE INTO folders VALUES (?, ?)", (path, exclude)
        )

    def forget(self, folder: bytes) -> int:
        """Drops a folder with its files, but for those in other folders of the index;
        how many files.
        """
        dropped = 0
        with self.change():
            others = [_below(other) for other in self.folders() if other != folder]
            for row in [*self.rows_below(folder)]:
                if not any(low <= row.path < high for low, high in others):
                    self.delete(row.path)
                    dropped += 1
            self._sql.execute("DELETE FROM folders WHERE path = ?", (folder,))
        return dropped

    # Slots.

    def end(self) -> int:
        """The first slot that neither a row nor a hole has, nor any after it."""
        (end,) = self._sql.execute(
            "SELECT MAX(IFNULL((SELECT MAX(slot) FROM photos), -1),"
            " IFNULL((SELECT MAX(slot) FROM holes), -1)) + 1"
        ).fetchone()
        return end

    def holes(self) -> list[int]:
        found = self._sql.execute("SELECT slot FROM holes ORDER BY slot")
        return [slot for (slot,) in found]

    def last_slots(self, count: int) -> list[int]:
        """The largest slots that rows have, the largest first."""
        return [
            slot
            for (slot,) in self._sql.execute(
                "SELECT slot FROM photos WHERE slot IS NOT NULL "
                "ORDER BY slot DESC LIMIT ?",
                (count,),
            )
        ]

    def move_slots(self, moved: dict[int, int]) -> None:
        """Rows take other slots; no holes remain."""
        pairs = [(new, old) for old, new in moved.items()]
        self._sql.executemany("UPDATE photos SET slot = ? WHERE slot = ?", pairs)
        self._sql.execute("DELETE FROM holes")

    def drop_slots_from(self, first: int) -> int:
        """Deletes the rows whose slots are not below `first`; their number."""
        self._sql.execute("DELETE FROM holes WHERE slot >= ?", (first,))
        found = self._sql.execute("DELETE FROM photos WHERE slot >= ?", (first,))
        return found.rowcount

    # Rows.

    def put(self, row: Row) -> bool:
        """Adds a row, in place of that of the same path; whether there was one."""
        replaced = self.delete(row.path)
        marks = ", ".join("?" * len(row))
        self._sql.execute(f"INSERT INTO photos ({_COLUMNS}) VALUES ({marks})", row)
        return replaced

    def delete(self, path: bytes) -> bool:
        """Deletes a path's row, if there is one; its slot becomes a hole."""
        self._sql.execute(
            "INSERT INTO holes SELECT slot FROM photos "
            "WHERE path = ? AND slot IS NOT NULL",
            (path,),
        )
        done = self._sql.execute("DELETE FROM photos WHERE path = ?", (path,))
        return done.rowcount > 0

    def rename(self, old: bytes, new: Row) -> None:
        """A row takes another path, and the size and mtime of `new`."""
        if old != new.path:
            self.delete(new.path)
        self._sql.execute(
            "UPDATE photos SET path = ?, size = ?, mtime = ? WHERE path = ?",
            (new.path, new.size, new.mtime, old),
        )

    def rows(self, where: str = "", values: Iterable[Any] = ()) -> Iterator[Row]:
        found = self._sql.execute(f"SELECT {_COLUMNS} FROM photos {where}", (*values,))
        return (Row(*values) for values in found)

    def rows_below(self, folder: bytes) -> Iterator[Row]:
        return self.rows("WHERE path >= ? AND path < ?", _below(folder))

    def of_slots(self, slots: Iterable[int]) -> dict[int, Row]:
        """The rows of these slots, by their slots."""
        found = {}
        for slot in slots:
            for row in self.rows("WHERE slot = ?", (slot,)):
                found[slot] = row
        return found

    def of_digest(self, digest: bytes) -> list[Row]:
        return [*self.rows("WHERE digest = ? ORDER BY path", (digest,))]

    def set_hash(self, row: Row) -> None:
        """Stores a row's hash, unless the file has another content by now."""
        self._sql.execute(
            "UPDATE photos SET hash = ?, hashed = 1 WHERE path = ? AND digest = ?",
            (row.hash, row.path, row.digest),
        )

    def has_size(self, size: int) -> bool:
        """Whether any row's file has this size."""
        found = self._sql.execute(
            "SELECT 1 FROM photos WHERE size = ? LIMIT 1", (size,)
        )
        return found.fetchone() is not None

    def counts(self) -> tuple[int, int]:
        """The photos with a vector, and the broken ones."""
        return self._sql.execute(
            "SELECT COUNT(slot), COUNT(*) - COUNT(slot) FROM photos"
        ).fetchone()

    # What a walk has found, compared with the rows.

    def compare(self, found: Iterable[tuple[bytes, int, int]]) -> None:
        """Takes (path, size, mtime) of the files that are there now."""
        self._sql.execute(f"DROP TABLE IF EXISTS {_FOUND}")
        self._sql.execute(
            f"CREATE TABLE {_FOUND}(path BLOB PRIMARY KEY, size INTEGER, mtime INTEGER)"
        )
        with self.change():
            self._sql.executemany(
                f"INSERT OR IGNORE INTO {_FOUND} VALUES (?, ?, ?)", found
            )

    def to_do(self, everything: bool = False) -> list[Row]:
        """Files found that have no row, another size or mtime than it, or a retry; or
        all that were found.
        """
        found = self._sql.execute(
            f"SELECT f.path, f.size, f.mtime FROM {_FOUND} f "
            "LEFT JOIN photos p ON p.path = f.path "
            "WHERE ? OR p.id IS NULL OR p.retry OR p.size <> f.size "
            "OR p.mtime <> f.mtime ORDER BY f.path",
            (everything,),
        )
        return [Row(*values) for values in found]

    def gone(self, folder: bytes) -> list[bytes]:
        """The paths of rows below a folder whose files were not found."""
        found = self._sql.execute(
            "SELECT p.path FROM photos p "
            f"LEFT JOIN {_FOUND} f ON f.path = p.path "
            "WHERE f.path IS NULL AND p.path >= ? AND p.path < ?",
            _below(folder),
        )
        return [path for (path,) in found]

    def close(self) -> None:
        self._sql.close()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def __enter__(self) -> Photos:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _below(folder: bytes) -> tuple[bytes, bytes]:
    """The range of the paths below a folder: from the first, before the second."""
    stem = folder.rstrip(b"/")
    return stem + b"/", stem + b"0"  # "0" follows "/"


def readable(path: bytes) -> str:
    """A path for a line of text: bytes that are no text, and line ends, escaped."""
    text = paths.readable(os.fsdecode(path))
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode() for c in text
    )
