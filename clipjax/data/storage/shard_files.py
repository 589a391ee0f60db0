"""Patterns of shards, and the files of a local or remote folder that match them.

A pattern is relative to the folder. `{split}` in it stands for the split's name,
`{00000..00331}` for numbered shards, `{a,b}` or `{a..c}` for alternatives; none of
these may be missing. `*` and `?` are as in a shell. `::` joins several patterns.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import os
import pathlib
import re
from collections.abc import Callable, Sequence
from typing import BinaryIO, Protocol, TypeVar

from clipjax.data.storage import brace_patterns, file_contents, local
from clipjax.types import UserError

GLOB = re.compile(r"[*?\[]")
THREADS = 16  # that look up and scan shards concurrently
Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclasses.dataclass(frozen=True)
class Shard:
    """A file to index.

    address: the full address, unique. stamp: (size, time or tag), which changes with
    the file. open: opens the file for reading from its start.
    """

    address: str
    stamp: tuple[int, str]
    open: Callable[[], BinaryIO]


class Folder(Protocol):
    """A folder of shards; picklable. Names are relative to it and use `/`."""

    address: str

    def matching(self, patterns: Sequence[str]) -> list[list[str]]:
        """Returns each pattern's files, sorted; `*` and `?` are as in a shell."""
        ...

    def summary(self) -> str:
        """Lists the folder's files for messages: "it holds 12 files train-*.tar"."""
        ...

    def shard(self, name: str) -> Shard:
        """Returns the shard; raises UserError if it cannot be read."""
        ...

    def read(self, name: str, start: int, size: int, stamp: tuple[int, str]) -> bytes:
        """Returns `size` bytes of a file, fewer at its end. Raises OSError if it cannot
        be read or no longer has that stamp."""
        ...

    def read_lines(self, name: str, option: str) -> list[str]:
        """Returns the lines of the text file that `option` names; raises UserError."""
        ...


def find(folder: Folder, shards: str, split: str) -> list[str]:
    """Returns the shards' names, each once, sorted within each pattern.

    shards: the option's value.
    Raises UserError, which lists the folder's content, if a numbered shard is missing
    or a pattern matches nothing.
    """
    matches: list[str] = []
    for unfilled in shards.split("::"):
        pattern = unfilled.replace("{split}", split)
        if not pattern or pattern.startswith("/") or "://" in pattern:
            raise UserError(
                f"shards={shards}: give patterns relative to path={folder.address}"
            )
        names = brace_patterns.expand(pattern)
        count = len(matches)
        try:
            files_by_name = folder.matching(names)
        except ValueError as error:
            raise UserError(f"shards={shards}: {error}") from error
        for name, files in zip(names, files_by_name, strict=True):
            if not files and name != pattern:
                raise local.missing(
                    f"{folder.address}/{name}",
                    f"shards={shards} names it, and {folder.summary()}",
                )
            matches += files
        if len(matches) == count:
            raise UserError(
                f"no shard of {folder.address} matches {pattern}: {folder.summary()}; "
                f"set the option shards, or another split than {split!r}"
            )
    return list(dict.fromkeys(matches))


def usual(folder: Folder, split: str) -> list[str]:
    """Returns the shards of a split in a usual place: SPLIT/0.tar and so on, as many as
    SPLIT/nshards.txt says (CLIP_benchmark); else `*SPLIT*.tar`, else `SPLIT/*.tar`.

    Raises UserError, which names the splits or the folder's content, if there are none,
    and if a shard is missing.
    """
    count_file = f"{split}/nshards.txt"
    if split and folder.matching([count_file])[0]:
        count = "".join(folder.read_lines(count_file, "shards")).strip()
        if not count.isdecimal() or not int(count):
            raise UserError(
                f"{folder.address}/{count_file} should hold the number of shards, and "
                f"holds {count[:40]!r}"
            )
        return find(folder, f"{split}/{{0..{int(count) - 1}}}.tar", split)
    beside, inside, all_inside = folder.matching(
        [f"*{split}*.tar", f"{split or '*'}/*.tar", "*/*.tar"]
    )
    if beside or inside:
        return beside or inside
    if all_inside:
        splits = sorted({name.partition("/")[0] for name in all_inside})
        raise UserError(
            f"{folder.address} has no shards of the split {split!r}; there are shards "
            f"in {', '.join(splits[:8])}: set another split, or the option shards"
        )
    return find(folder, f"*{split}*.tar", split)


class LocalFolder:
    """A local `Folder`; keeps a bounded number of files open.

    subfolders: whether its shards are folders, not files.
    """

    def __init__(self, base: pathlib.Path, subfolders: bool = False):
        self.address = str(base)
        self._base = base
        self._is_shard = pathlib.Path.is_dir if subfolders else pathlib.Path.is_file
        self._pool = local.FilePool()

    def matching(self, patterns: Sequence[str]) -> list[list[str]]:
        return [self._matching(pattern) for pattern in patterns]

    def _matching(self, pattern: str) -> list[str]:
        if not GLOB.search(pattern):
            return [pattern] if self._is_shard(self._base / pattern) else []
        return sorted(
            path.relative_to(self._base).as_posix()
            for path in self._base.glob(pattern)
            if self._is_shard(path)
        )

    def summary(self) -> str:
        return file_contents.summary(self._base)

    def shard(self, name: str) -> Shard:
        path = (self._base / name).resolve()
        try:
            stamp = local.stamp_of(os.stat(path))
        except OSError as error:
            raise UserError(
                f"cannot read the shard {path}: {error.strerror}"
            ) from error
        return Shard(str(path), stamp, lambda: open(path, "rb"))

    def read(self, name: str, start: int, size: int, stamp: tuple[int, str]) -> bytes:
        return self._pool.read(str(self._base / name), start, size, stamp)

    def read_lines(self, name: str, option: str) -> list[str]:
        return local.read_lines(local.inside(self._base, name, option))


def each(call: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """Returns the results of calls in threads, in the items' order.

    Raises what the first failing call raises.
    """
    pool = concurrent.futures.ThreadPoolExecutor(THREADS)
    try:
        return list(pool.map(call, items))
    finally:
        pool.shutdown(cancel_futures=True)  # after an error the rest is not needed
