"""Which files of a folder, local or remote, a pattern of shards names.

A pattern is relative to the folder. `{split}` in it stands for the split's name,
`{00000..00331}` for numbered shards of which none may be missing, `*` and `?` are as
in a shell, and `::` joins several patterns.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import re
from collections.abc import Callable, Sequence
from typing import BinaryIO, Protocol

from clipjax.data import files
from clipjax.types import UserError

RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
GLOB = re.compile(r"[*?\[]")


@dataclasses.dataclass(frozen=True)
class Shard:
    """A file to be indexed.

    address: in full, unique. stamp: what changes when the file does, its size first.
    open: opens it for reading from its start.
    """

    address: str
    stamp: tuple[int, str]
    open: Callable[[], BinaryIO]


class Folder(Protocol):
    """A place of shards; picklable. Names are relative to it, with `/`."""

    address: str

    def matching(self, patterns: Sequence[str]) -> list[list[str]]:
        """The files, sorted, that each pattern names; `*` and `?` as in a shell."""
        ...

    def some(self, suffix: str) -> list[str]:
        """Some of the files with that suffix, for messages."""
        ...

    def shard(self, name: str) -> Shard:
        """Raises UserError where it cannot be read."""
        ...

    def read(self, name: str, start: int, size: int, stamp: tuple[int, str]) -> bytes:
        """Part of a file, shorter at its end. Raises OSError, also where the file is no
        longer the one of that stamp."""
        ...

    def read_lines(self, name: str, option: str) -> list[str]:
        """The lines of a text file that an option names; raises UserError."""
        ...


def find(folder: Folder, shards: str, split: str, suffix: str = ".tar") -> list[str]:
    """The names of the shards, each once, sorted within each pattern.

    shards: the option's value. suffix: of other files that a message may name.
    Raises UserError where a numbered shard is missing or a pattern names nothing.
    """
    found: list[str] = []
    for pattern in shards.split("::"):
        wanted = pattern.replace("{split}", split)
        if not wanted or wanted.startswith("/") or "://" in wanted:
            raise UserError(
                f"shards={shards}: give patterns relative to path={folder.address}"
            )
        names = expand(wanted)
        count = len(found)
        try:
            matches = folder.matching(names)
        except ValueError as error:
            raise UserError(f"shards={shards}: {error}") from error
        for name, here in zip(names, matches, strict=True):
            if not here and name != wanted:
                raise files.missing(
                    f"{folder.address}/{name}", f"shards={shards} names it"
                )
            found += here
        if len(found) == count:
            others = folder.some(suffix)
            seen = f"it holds {', '.join(others[:3])}" if others else ""
            seen = seen + (" ..." if len(others) > 3 else "") or f"it holds no {suffix}"
            raise UserError(
                f"no shard of {folder.address} matches {wanted}: {seen}; set the "
                f"option shards"
            )
    return list(dict.fromkeys(found))


def expand(pattern: str) -> list[str]:
    """`a{08..10}` -> a08, a09, a10; several ranges multiply.

    Raises UserError for a range that runs backwards.
    """
    match = RANGE.search(pattern)
    if match is None:
        return [pattern]
    first, last = match.groups()
    if int(last) < int(first):
        raise UserError(f"shards={pattern}: the range {match[0]} runs backwards")
    numbers = (str(n).zfill(len(first)) for n in range(int(first), int(last) + 1))
    head, tail = pattern[: match.start()], pattern[match.end() :]
    return [head + n + rest for n in numbers for rest in expand(tail)]


class LocalFolder:
    """See `Folder`; keeps a bounded number of files open.

    subfolders: its shards are folders, not files.
    """

    def __init__(self, base: pathlib.Path, subfolders: bool = False):
        self.address = str(base)
        self._base = base
        self._there = pathlib.Path.is_dir if subfolders else pathlib.Path.is_file
        self._pool = files.FilePool()

    def matching(self, patterns: Sequence[str]) -> list[list[str]]:
        return [self._matching(pattern) for pattern in patterns]

    def _matching(self, pattern: str) -> list[str]:
        if not GLOB.search(pattern):
            return [pattern] if self._there(self._base / pattern) else []
        return sorted(
            place.relative_to(self._base).as_posix()
            for place in self._base.glob(pattern)
            if self._there(place)
        )

    def some(self, suffix: str) -> list[str]:
        found = self._base.rglob(f"*{suffix}")
        return sorted(place.relative_to(self._base).as_posix() for place in found)

    def shard(self, name: str) -> Shard:
        place = (self._base / name).resolve()
        try:
            stamp = files.stamp_of(os.stat(place))
        except OSError as error:
            raise UserError(
                f"cannot read the shard {place}: {error.strerror}"
            ) from error
        return Shard(str(place), stamp, lambda: open(place, "rb"))

    def read(self, name: str, start: int, size: int, stamp: tuple[int, str]) -> bytes:
        return self._pool.read(str(self._base / name), start, size, stamp)

    def read_lines(self, name: str, option: str) -> list[str]:
        return files.read_lines(files.inside(self._base, name, option))
