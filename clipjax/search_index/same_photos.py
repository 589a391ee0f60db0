"""Groups of photos that are copies: of the same bytes, or alike to look at."""

from __future__ import annotations

import collections
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from clipjax import cores
from clipjax.data.images import perceptual_hash
from clipjax.search_index import photo_reading
from clipjax.search_index.photo_table import Photos, Row

_BLOCK = 2048  # photos compared with all later ones at once


UNHASHED = "WHERE slot IS NOT NULL AND NOT hashed"  # for Photos.rows
_AT_ONCE = 256  # photos that are read between two commits


def hash_missing(table: Photos, progress: Callable[[int, int], None]) -> None:
    """Reads the photos that have no hash yet and stores their hashes, in an index that
    is open to be written. What has been stored stays if it is interrupted.
    """
    rows = [*table.rows(UNHASHED)]
    with ThreadPoolExecutor(cores.usable()) as pool:
        for start in range(0, len(rows), _AT_ONCE):
            found = [*pool.map(photo_reading.hashed, rows[start : start + _AT_ONCE])]
            with table.change():
                for row in found:
                    if row.hashed:
                        table.set_hash(row)
            progress(min(start + _AT_ONCE, len(rows)), len(rows))


class Group(NamedTuple):
    """Copies, the largest picture first; bits: by how many of its hash's each differs
    from the first, None for one of the same bytes.
    """

    rows: list[Row]
    bits: list[int | None]


class Copies(NamedTuple):
    """groups: the largest first. changed: how many photos were left out, because they
    are gone or have changed since they were indexed.
    """

    groups: list[Group]
    changed: int


def copies(
    table: Photos, near: int, progress: Callable[[int, int], None] | None = None
) -> Copies:
    """The groups of an index.

    Two photos of the same bytes are in one group, and two whose perceptual hashes
    differ in at most `near` bits, as `prepare verify --against` counts them. Names of
    one file, such as links, are no copies: one of them counts, no link if possible.
    """
    rows = [*table.rows("WHERE slot IS NOT NULL ORDER BY path")]
    found, changed = [], 0
    for some in _alike(rows, near, progress):
        now = [row for row in some if _is_as_indexed(row)]
        changed += len(some) - len(now)
        # Two may have been alike by a third that is gone.
        parts = [some] if len(now) == len(some) else _alike(now, near)
        found += [_group(files) for files in map(_one_per_file, parts) if files[1:]]
    found.sort(key=lambda group: (-len(group.rows), group.rows[0].path))
    return Copies(found, changed)


def _is_as_indexed(row: Row) -> bool:
    try:
        stat = os.stat(row.path)
    except OSError:
        return False
    return (stat.st_size, stat.st_mtime_ns) == (row.size, row.mtime)


def _one_per_file(rows: Sequence[Row]) -> list[Row]:
    """Without further names of the same file."""
    files: dict[tuple[int, int], Row] = {}
    for row in sorted(rows, key=lambda row: os.path.islink(row.path)):
        stat = os.stat(row.path)
        files.setdefault((stat.st_dev, stat.st_ino), row)
    return [*files.values()]


def _alike(
    rows: Sequence[Row], near: int, progress: Callable[[int, int], None] | None = None
) -> list[list[Row]]:
    """The groups of two and more."""
    first = [*range(len(rows))]  # of the group, by the place of a row

    def root(at: int) -> int:
        while first[at] != at:
            first[at] = first[first[at]]
            at = first[at]
        return at

    def join(pairs: Iterable[tuple[int, int]]) -> None:
        for one, other in pairs:
            one, other = sorted((root(one), root(other)))
            first[other] = one

    of_digest: dict[bytes | None, int] = {}
    join((of_digest.setdefault(row.digest, at), at) for at, row in enumerate(rows))
    # One of each content is compared; plain pictures have no hash.
    hashed = [
        at
        for at, row in enumerate(rows)
        if row.hash is not None and of_digest[row.digest] == at
    ]
    hashes = np.array([rows[at].hash for at in hashed], np.int64).view(np.uint64)
    for start in range(0, len(hashes), _BLOCK):
        pairs = perceptual_hash.near(
            hashes[start : start + _BLOCK], hashes[start:], near
        )
        pairs = pairs[pairs[:, 0] < pairs[:, 1], :2] + start
        join((hashed[one], hashed[other]) for one, other in pairs.tolist())
        if progress is not None:
            progress(min(start + _BLOCK, len(hashes)), len(hashes))
    members = collections.defaultdict(list)
    for at in range(len(rows)):
        members[root(at)].append(rows[at])
    return [some for some in members.values() if len(some) > 1]


def _group(rows: list[Row]) -> Group:
    rows = sorted(rows, key=lambda r: (-_pixels(r), -r.size, r.path))
    best = rows[0]
    return Group(rows, [_differing(best, row) for row in rows])


def _differing(best: Row, row: Row) -> int | None:
    if best.digest == row.digest or best.hash is None or row.hash is None:
        return None
    return ((best.hash ^ row.hash) & (2**64 - 1)).bit_count()


def _pixels(row: Row) -> int:
    return (row.width or 0) * (row.height or 0)
