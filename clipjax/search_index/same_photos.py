"""Groups of photos that are copies: of the same bytes, or alike to look at."""

from __future__ import annotations

import collections
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

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
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
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


def groups(
    table: Photos, near: int, progress: Callable[[int, int], None] | None = None
) -> list[Group]:
    """The groups of an index, the largest first.

    Two photos of the same bytes are in one group, and two whose perceptual hashes
    differ in at most `near` bits, as `prepare verify --against` counts them.
    """
    rows = [*table.rows("WHERE slot IS NOT NULL ORDER BY path")]
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
    found = [_group(some) for some in members.values() if len(some) > 1]
    return sorted(found, key=lambda group: (-len(group.rows), group.rows[0].path))


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
