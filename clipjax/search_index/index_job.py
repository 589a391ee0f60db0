"""Brings an index up to date with folders: what changed is read, and no more.

Each batch's vectors are on the disk before the rows that point to them are committed.
So whenever a job is killed, what is committed is whole, and the next job goes on.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import errno
import fnmatch
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from clipjax import paths
from clipjax.data.images import camera_formats, image_files
from clipjax.data_wait import DataWait
from clipjax.encoder import Encoder
from clipjax.engine.activity import Task, duration
from clipjax.preempt import StopRequest
from clipjax.search_index import photo_reading
from clipjax.search_index.photo_reading import PhotoSource
from clipjax.search_index.photo_table import Photos, Row, readable
from clipjax.search_index.vector_file import Vectors
from clipjax.types import UserError, Variables

COMMIT_AFTER = 1.0  # seconds of encoding that a killed job loses at most
_AT_ONCE = 1000  # files that are compared between two commits
LISTED = 5  # broken files that are printed
# Folders of thumbnails, of archives' leftovers and of deleted files.
ALWAYS_EXCLUDED = ("@eaDir", "__MACOSX", "$RECYCLE.BIN", "lost+found", "#recycle")


class _Made(NamedTuple):
    """What became of a file; vector: float32 [e], None if it is broken."""

    row: Row
    vector: np.ndarray | None


@dataclasses.dataclass
class Done:
    """What a job has done: numbers of photos.

    seconds: of encoding. waited: the share of them in which the device waited for
    photos. restored: rows whose vectors were missing. unread: folders, files and links
    that could not be looked at. stopped_by: the signal that ended it, 0 if none.
    """

    new: int = 0
    changed: int = 0
    moved: int = 0
    copied: int = 0
    deleted: int = 0
    unchanged: int = 0
    encoded: int = 0
    restored: int = 0
    seconds: float = 0.0
    waited: float = 0.0
    others: image_files.Suffixes = dataclasses.field(
        default_factory=collections.Counter
    )
    excluded: int = 0
    unread: list[OSError] = dataclasses.field(default_factory=list)
    stopped_by: int = 0

    def lines(self, table: Photos, devices: str) -> list[str]:
        """What was done, what is broken, and what is in the index now."""
        found = []
        if self.encoded:
            found.append(
                f"encoded {self.encoded:,} photos in {duration(self.seconds)}: "
                f"{self.encoded / self.seconds:,.1f} photos/s on {devices}, which "
                f"waited for data {self.waited:.0%} of the time"
            )
        names = ("new", "changed", "moved", "copied", "deleted", "unchanged")
        found.append(", ".join(f"{getattr(self, n):,} {n}" for n in names))
        if self.restored:
            found.append(f"{self.restored:,} had lost their vectors: encoded again")
        found += image_files.describe_left_out(self.others)
        if self.excluded:
            found.append(f"folders left out: {self.excluded:,}")
        for error in self.unread[:LISTED]:
            name = readable(os.fsencode(error.filename))
            found.append(f"not read, kept as it was: {name} ({_why(error)})")
        if len(self.unread) > LISTED:
            found.append(f"and {len(self.unread) - LISTED:,} more")
        whole, broken = table.counts()
        if broken:
            found.append(
                f"broken, skipped: {_files(broken)} (all: python -m clipjax.search "
                "status)"
            )
            for row in table.rows(f"WHERE slot IS NULL ORDER BY path LIMIT {LISTED}"):
                found.append(f"  {readable(row.path)}: {row.reason}")
            if broken > LISTED:
                found.append(f"  and {broken - LISTED:,} more")
        if self.stopped_by:
            found.append("stopped: what is encoded is kept; the same command goes on")
        found.append(f"{table.place}: {whole:,} photos")
        return found


class Job:
    """One update of an open index; stop: ends it between two batches."""

    def __init__(self, table: Photos, vectors: Vectors, stop: StopRequest):
        self._table, self._vectors, self._stop = table, vectors, stop
        self.done = Done()

    def look(
        self, folders: dict[bytes, str], task: Task, *, reread: bool = False
    ) -> list[Row]:
        """Walks folders, and handles what needs no encoding; the rest is returned.

        folders: with the `exclude` of each. reread: compares the content of all files,
        not only of those of another size or mtime.

        Raises UserError if all photos of a folder seem to be gone.
        """
        table, done = self._table, self.done
        self._tidy()
        found: list[tuple[bytes, int, int]] = []
        for folder, exclude in folders.items():
            here = self._walk(os.fsdecode(folder), exclude)
            if not here and next(table.rows_below(folder), None) is not None:
                name, db = os.fsdecode(folder), paths.shell(table.place)
                raise UserError(
                    f"{name} holds no photos, and the index has some from there: is a "
                    "drive not mounted? If they are gone for good: python -m "
                    f"clipjax.search forget {paths.shell(name)} --db={db}"
                )
            found += here
        table.compare(found)
        to_do = table.to_do(reread)
        gone = {path for folder in folders for path in table.gone(folder)}
        if self.done.unread:
            is_unread = self._unread()
            gone = {path for path in gone if not is_unread(path)}
        left: list[Row] = []
        for start in range(0, len(to_do), _AT_ONCE):
            if self._stopped():
                return []
            copies: list[_Made] = []
            with table.change():
                for row in to_do[start : start + _AT_ONCE]:
                    if not self._is_known(row, gone, copies):
                        left.append(row)
            self._put(copies)
            task(min(start + _AT_ONCE, len(to_do)), len(to_do))
        with table.change():
            for path in gone:
                table.delete(path)
            for folder, exclude in folders.items():
                table.set_folder(folder, exclude)
        done.deleted = len(gone)
        done.unchanged += len({path for path, *_ in found}) - len(to_do)
        return left

    def _walk(self, folder: str, exclude: str) -> list[tuple[bytes, int, int]]:
        patterns = [*ALWAYS_EXCLUDED, *filter(None, exclude.split(","))]

        def excluded(path: str) -> bool:
            inside = os.path.relpath(path, folder)
            names = inside, os.path.basename(path)
            out = any(
                fnmatch.fnmatchcase(n, p.strip("/")) for n in names for p in patterns
            )
            self.done.excluded += out
            return out

        names = image_files.find(
            folder,
            self.done.others,
            also=camera_formats.SUFFIXES,
            excluded=excluded,
            unreadable=self.done.unread.append,
        )
        found = []
        for name in names:
            try:
                stat = os.stat(name)
            except FileNotFoundError:  # gone since it was listed
                continue
            except OSError as error:
                self.done.unread.append(error)
                continue
            found.append((os.fsencode(name), stat.st_size, stat.st_mtime_ns))
        return found

    def _unread(self) -> Callable[[bytes], bool]:
        """Whether a path is, or lies below, what could not be looked at."""
        places = {os.fsencode(error.filename) for error in self.done.unread}

        def is_unread(path: bytes) -> bool:
            while path not in places:
                above = os.path.dirname(path)
                if above == path:
                    return False
                path = above
            return True

        return is_unread

    def _is_known(self, found: Row, gone: set[bytes], copies: list[_Made]) -> bool:
        """Whether a file's content is in the index; it gets that row, or a copy of it,
        which is added to `copies`.
        """
        table = self._table
        if not found.size or not table.has_size(found.size):
            return False
        try:
            row, _ = photo_reading.read(found.path)
        except OSError:
            return False
        if row.digest is None:
            return False
        known = {one.path: one for one in table.of_digest(row.digest) if not one.retry}
        if not known:
            return False
        if row.path in known:  # only touched
            table.rename(row.path, row)
            self.done.unchanged += 1
            return True
        for path in known:
            if path in gone or not os.path.lexists(path):
                table.rename(path, row)
                gone.discard(path)
                self.done.moved += 1
                return True
        one = next(iter(known.values()))
        vector = None if one.slot is None else self._vectors.read(one.slot)
        one = one._replace(path=row.path, size=row.size, mtime=row.mtime)
        copies.append(_Made(one, vector))
        self.done.copied += 1
        return True

    def encode(
        self, rows: Sequence[Row], encoder: Encoder, variables: Variables, task: Task
    ) -> None:
        """Encodes files by the index's model, and adds them."""
        if not rows:
            return
        source, wait = PhotoSource([row.path for row in rows]), DataWait()
        began = told = time.monotonic()
        waiting: list[_Made] = []
        last: Future[None] | None = None
        place = 0
        stream = encoder.image_stream(variables, source, progress=task, wait=wait)
        # Another thread writes, because the device would wait for the disk.
        with ThreadPoolExecutor(1) as pool, contextlib.closing(stream):
            for embed, notes in stream:
                for vector, note in zip(embed, notes, strict=True):
                    row, place = source.outcome(place), place + 1
                    if row is not None:
                        waiting.append(_made(row, vector, note.reason or ""))
                if (now := time.monotonic()) - told >= COMMIT_AFTER:
                    if last is not None:
                        last.result()  # raises what went wrong; one waits at most
                    last = pool.submit(self._add, waiting)
                    waiting, told = [], now
                if self._stopped():
                    break
            if last is not None:
                last.result()
            self._add(waiting)
        self.done.seconds = time.monotonic() - began
        self.done.waited = min(1.0, wait.seconds / self.done.seconds)

    def _stopped(self) -> bool:
        self.done.stopped_by = self._stop.signal_number(0)
        return bool(self.done.stopped_by)

    def _add(self, made: list[_Made]) -> None:
        changed = self._put(made)
        self.done.encoded += sum(one.vector is not None for one in made)
        self.done.changed += changed
        self.done.new += len(made) - changed

    def _put(self, made: list[_Made]) -> int:
        """Adds rows with their vectors: all of them, or none.

        Returns how many rows of the same paths they replace.
        """
        slot, rows = self._table.end(), []
        vectors = [one.vector for one in made if one.vector is not None]
        if vectors:
            self._vectors.write(slot, np.stack(vectors))
            self._vectors.sync()
        for row, vector in made:
            rows.append(row._replace(slot=None if vector is None else slot))
            slot += vector is not None
        with self._table.change():
            return sum(self._table.put(row) for row in rows)

    def _tidy(self) -> None:
        """Fills the holes by the last vectors and cuts off the rest, unless somebody
        reads the vectors; drops rows whose vectors are missing.
        """
        table, vectors = self._table, self._vectors
        if (there := len(vectors)) < table.end():
            with table.change():
                self.done.restored = table.drop_slots_from(there)
        if not vectors.alone():
            return
        try:
            holes, moved = table.holes(), {}
            for hole, last in zip(holes, table.last_slots(len(holes)), strict=False):
                if last < hole:
                    break
                vectors.write(hole, vectors.read(last)[None])
                moved[last] = hole
            if holes:
                vectors.sync()
                with table.change():
                    table.move_slots(moved)
            vectors.cut(table.end())
        finally:
            vectors.shared()


def _why(error: OSError) -> str:
    if error.errno in (errno.ENOENT, errno.ELOOP):
        return "a link that leads nowhere"
    return str(error.strerror)


def _files(count: int) -> str:
    return "1 file" if count == 1 else f"{count:,} files"


def _made(row: Row, vector: np.ndarray, reason: str) -> _Made:
    """reason: why the photo has no vector, "" if it has one."""
    if not reason and not np.isfinite(vector).all():
        reason = "its embedding is not finite"
    if reason:
        return _Made(row._replace(reason=reason), None)
    return _Made(row, vector)


def folder_of(name: str) -> bytes:
    """The folder that a user named, in full, as rows have it.

    Raises UserError if there is no such folder, or for an address.
    """
    place = paths.local(name, "photos")
    if not place.is_dir():
        what = "is no folder" if place.exists() else "does not exist"
        raise UserError(f"{name} {what}: name a folder of photos")
    return os.fsencode(place)
