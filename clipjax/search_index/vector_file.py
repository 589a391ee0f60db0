"""The vectors of an index: float32 [slots e] in one file, mapped into memory.

While others read it, it only grows. What no row points to is cut off or filled when
nobody reads it.
"""

from __future__ import annotations

import fcntl
import os
import pathlib

import numpy as np

from clipjax.types import UserError


def beside(place: pathlib.Path) -> pathlib.Path:
    """The place of an index's vectors."""
    return place.with_name(f"{place.name}.vectors")


class Vectors:
    """The open file; others may not shorten it before it is closed.

    write: to append, creating it.

    Raises UserError if there is no such file.
    """

    def __init__(self, path: pathlib.Path, width: int, *, write: bool = False):
        self.path, self._width, self._bytes = path, width, 4 * width
        flags = os.O_RDWR | os.O_CREAT if write else os.O_RDONLY
        try:
            self._file = os.open(path, flags, 0o644)
        except FileNotFoundError as error:
            raise UserError(
                f"{path} is missing, which has the photos' vectors: restore it, or "
                "delete the index and index the photos again"
            ) from error
        fcntl.flock(self._file, fcntl.LOCK_SH)

    def __len__(self) -> int:
        return os.fstat(self._file).st_size // self._bytes

    def mapped(self, count: int) -> np.ndarray:
        """float32 [count e], the first ones, read from the disk as they are used."""
        if not count:
            return np.zeros((0, self._width), np.float32)
        return np.memmap(self.path, np.float32, "r", shape=(count, self._width))

    def write(self, slot: int, rows: np.ndarray) -> None:
        """Writes rows from a slot on; `sync` makes them safe."""
        left = np.ascontiguousarray(rows, np.float32).data.cast("B")
        at = slot * self._bytes
        while left:
            done = os.pwrite(self._file, left, at)
            left, at = left[done:], at + done

    def read(self, slot: int) -> np.ndarray:
        """float32 [e]."""
        found = os.pread(self._file, self._bytes, slot * self._bytes)
        return np.frombuffer(found, np.float32)

    def sync(self) -> None:
        os.fsync(self._file)

    def alone(self) -> bool:
        """Whether nobody else reads the file, who now has to wait until `close`."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            # A failed change may have given up the lock.
            fcntl.flock(self._file, fcntl.LOCK_SH)
            return False
        return True

    def shared(self) -> None:
        """Lets others read again."""
        fcntl.flock(self._file, fcntl.LOCK_SH)

    def cut(self, count: int) -> None:
        """Drops the slots from `count` on."""
        os.ftruncate(self._file, count * self._bytes)

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def __enter__(self) -> Vectors:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
