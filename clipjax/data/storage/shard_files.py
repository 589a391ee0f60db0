"""Which files of a folder, local or remote, a pattern of shards names.

A pattern is relative to the folder. `{split}` in it stands for the split's name,
`{00000..00331}` for numbered shards, `{a,b}` or `{a..c}` for alternatives, of which
none may be missing, `*` and `?` are as in a shell, and `::` joins several patterns.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import re
from collections.abc import Callable, Sequence
from typing import BinaryIO, Protocol

from clipjax.data.storage import brace_patterns, file_contents, local
from clipjax.types import UserError

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

    def held(self) -> str:
        """What it holds, in words for messages: "it holds 12 files train-*.tar"."""
        ...

    def shard(self, name: str) -> Shard:
        """Raises UserError if it cannot be read."""
        ...

    def read(self, name: str, start: int, size: int, stamp: tuple[int, str]) -> bytes:
        """Part of a file, shorter at its end. Raises OSError, also if the file is no
        longer the one of that stamp."""
        ...

    def read_lines(self, name: str, option: str) -> list[str]:
        """The lines of a text file that an option names; raises UserError."""
        ...


def find(folder: Folder, shards: str, split: str) -> list[str]:
    """The names of the shards, each once, sorted within each pattern.

    shards: the option's value.
    Raises UserError if a numbered shard is missing or a pattern names nothing, with
    what there is instead.
    """
    found: list[str] = []
    for pattern in shards.split("::"):
        wanted = pattern.replace("{split}", split)
        if not wanted or wanted.startswith("/") or "://" in wanted:
            raise UserError(
                f"shards={shards}: give patterns relative to path={folder.address}"
            )
        names = brace_patterns.expand(wanted)
        count = len(found)
        try:
            matches = folder.matching(names)
        except ValueError as error:
            raise UserError(f"shards={shards}: {error}") from error
        for name, here in zip(names, matches, strict=True):
            if not here and name != wanted:
                raise local.missing(
                    f"{folder.address}/{name}",
                    f"shards={shards} names it, and {folder.held()}",
                )
            found += here
        if len(found) == count:
            raise UserError(
                f"no shard of {folder.address} matches {wanted}: {folder.held()}; set "
                f"the option shards, or another split than {split!r}"
            )
    return list(dict.fromkeys(found))


class LocalFolder:
    """See `Folder`; keeps a bounded number of files open.

    subfolders: its shards are folders, not files.
    """

    def __init__(self, base: pathlib.Path, subfolders: bool = False):
        self.address = str(base)
        self._base = base
        self._there = pathlib.Path.is_dir if subfolders else pathlib.Path.is_file
        self._pool = local.FilePool()

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

    def held(self) -> str:
        return file_contents.held(self._base)

    def shard(self, name: str) -> Shard:
        place = (self._base / name).resolve()
        try:
            stamp = local.stamp_of(os.stat(place))
        except OSError as error:
            raise UserError(
                f"cannot read the shard {place}: {error.strerror}"
            ) from error
        return Shard(str(place), stamp, lambda: open(place, "rb"))

    def read(self, name: str, start: int, size: int, stamp: tuple[int, str]) -> bytes:
        return self._pool.read(str(self._base / name), start, size, stamp)

    def read_lines(self, name: str, option: str) -> list[str]:
        return local.read_lines(local.inside(self._base, name, option))
