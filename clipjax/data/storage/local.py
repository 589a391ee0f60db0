"""Reads local files for the file-based sources, and words their messages.

storage/remote.py reads remote files. All messages about missing data are worded here,
so that all sources give the same.
"""

from __future__ import annotations

import bisect
import collections
import contextlib
import contextvars
import errno
import logging
import operator
import os
import pathlib
import re
import threading
from collections.abc import Iterator, Sequence

from clipjax import paths
from clipjax.data.storage import file_contents
from clipjax.types import BadExample, MissingData, UserError

ADDRESSES = (
    "lists addresses of images, not images: download them with img2dataset "
    "(docs/data.md has the command)"
)
ADDRESS = re.compile(r"https?://|\burl\b", re.IGNORECASE)
# Suffixes of the formats that decoding.py decodes; the sources find images by them.
IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".mpo", ".png", ".apng", ".webp"),
    *(".gif", ".bmp", ".dib", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".pfm"),
    *(".avif", ".avifs", ".jp2", ".j2k", ".jpc", ".jpf", ".jpx", ".j2c"),
)
# Usual headers of the column of image names in tables.
IMAGE_HEADERS = (
    *("image", "image_name", "file_name", "filename", "filepath", "file", "img"),
    *("image_path", "path", "name", "key"),
)

# The prefix of a source's options on this command line.
_FLAG = contextvars.ContextVar("flag", default="--config.data.train.")

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def set_by_flags(flag: str) -> Iterator[None]:
    """Makes messages name options by this prefix (`--data.`) while a source is made."""
    token = _FLAG.set(flag)
    try:
        yield
    finally:
        _FLAG.reset(token)


def set_by(option: str, value: str) -> str:
    """Returns the flag that sets an option of the source that is being made."""
    return f"{_FLAG.get()}{option}={value}"


def check_split(source: str, split: str, only: str) -> None:
    """Raises UserError unless a split is the only one that a source has."""
    if split != only:
        raise UserError(
            f"data={source} has the split {only} only, not {split!r}: set "
            f"{set_by('split', only)}"
        )


def set_path() -> str:
    """Says how to set the data folder, for a message."""
    return f"set it with {set_by('path', 'FOLDER')}; docs/data.md says how to get some"


def missing(path: str | os.PathLike[str], fix: str) -> MissingData:
    """Returns the error for missing data; `fix` says how to get or name them."""
    return MissingData(f"{path} does not exist. {fix}")


def folder(path: str, kind: str) -> pathlib.Path:
    """Returns the data folder; raises UserError if it is unset or does not exist.

    kind: the content it should have, for the message ("webdataset shards").
    """
    if not path:
        raise MissingData(f"no folder of {kind} is given: {set_path()}")
    if "://" in path:
        raise UserError(
            f"{path}: {kind} are read from a local folder; of the sources only "
            f"webdataset reads from elsewhere"
        )
    directory = paths.expand(path)
    if not directory.exists():
        raise missing(directory, f"Put the {kind} there, or {set_path()}")
    if not directory.is_dir():
        raise UserError(f"{directory} is not a folder of {kind}: {set_path()}")
    return directory


def inside(base: pathlib.Path, name: str, option: str) -> pathlib.Path:
    """Returns the file that an option names, relative to the data folder or absolute.

    Raises MissingData if there is no such file.
    """
    path = base / paths.expand(name)
    if not path.is_file():
        raise missing(path, f"It is named by the option {option}={name}")
    return path


def content(path: pathlib.Path) -> bytes:
    """Reads a file that the source requires; raises UserError if it cannot."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error


def read_lines(path: pathlib.Path) -> list[str]:
    """Returns a UTF-8 text file's lines without line ends or trailing blank lines.

    Raises UserError for another encoding.
    """
    return lines_of(content(path), str(path))


def lines_of(raw: bytes, address: str) -> list[str]:
    """Splits a file's content as `read_lines` does; messages name `address`."""
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        form = file_contents.other(raw)
        fault = (
            f"is not text, but {form}"
            if form
            else f"is not UTF-8 text ({error.reason})"
        )
        raise UserError(f"{address} {fault}") from error
    return [line.rstrip("\r") for line in text.rstrip("\r\n").split("\n")]


def read_bytes(path: pathlib.Path, key: str) -> bytes:
    """Reads an example's file; raises BadExample if it cannot be read."""
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise BadExample(f"the file {path} is missing", key) from error
    except OSError as error:
        raise BadExample(f"cannot read {path}: {error.strerror}", key) from error
    except ValueError as error:  # an invalid file name
        raise BadExample(f"cannot read the file: {error}", key) from error


def position(index: int, length: int) -> int:
    """Returns the index as int; raises IndexError unless 0 <= index < length."""
    index = operator.index(index)
    if not 0 <= index < length:
        raise IndexError(f"example {index} of {length}")
    return index


def part_and_offset(ends: Sequence[int], position: int) -> tuple[int, int]:
    """Returns the part that holds a position, and the position's offset in it.

    ends: each part's end.
    """
    part = bisect.bisect_right(ends, position)
    return part, position - (ends[part - 1] if part else 0)


CHANGED = "it has changed since it was indexed; restart to index it again"
SHOWN = 4  # problems in a line of warning


def stamp_of(stat: os.stat_result) -> tuple[int, str]:
    """Returns a file's size and time, which change when the file does."""
    return stat.st_size, str(stat.st_mtime_ns)


def report(source: str, problems: list[str]) -> None:
    """Logs a source's problems as one warning line; nothing if there are none.

    The line names the first SHOWN and counts the others, since a thousand shards may
    have as many.
    """
    if problems:
        hidden = len(problems) - SHOWN
        more = f" (and {hidden} more)" if hidden > 0 else ""
        logger.warning("%s: %s%s", source, "; ".join(problems[:SHOWN]), more)


class FilePool:
    """Reads parts of many files through a bounded number of open handles.

    Thread-safe, because reads are positioned and a handle closes when its last reader
    is done. A pool is pickled empty, so that each process opens its own handles.
    """

    def __init__(self, limit: int = 64):
        self._limit = limit
        self._lock = threading.Lock()
        self._open: collections.OrderedDict[str, _Handle] = collections.OrderedDict()

    def read(
        self, path: str, start: int, size: int, stamp: tuple[int, str] | None = None
    ) -> bytes:
        """Returns `size` bytes from `start`, fewer at the end.

        Raises OSError, also if `stamp` is given and the file no longer has it.
        """
        handle = self._handle(path)
        if stamp is not None and stamp_of(os.fstat(handle.descriptor)) != tuple(stamp):
            raise OSError(errno.ESTALE, CHANGED)
        parts = []
        while size > 0:  # a network file system may return fewer bytes
            part = os.pread(handle.descriptor, size, start)
            if not part:
                break
            parts.append(part)
            start += len(part)
            size -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def __len__(self) -> int:
        return len(self._open)

    def __getstate__(self) -> int:
        return self._limit

    def __setstate__(self, limit: int) -> None:
        self.__init__(limit)

    def _handle(self, path: str) -> _Handle:
        with self._lock:
            handle = self._open.get(path)
            if handle is None:
                handle = self._open[path] = _Handle(path)
                if len(self._open) > self._limit:
                    self._open.popitem(last=False)
            self._open.move_to_end(path)
            return handle


class _Handle:
    """A file descriptor; it closes with its last reference."""

    def __init__(self, path: str):
        self.descriptor = -1
        self.descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))

    def __del__(self, close=os.close):  # a default, as modules are emptied at exit
        if self.descriptor >= 0:
            close(self.descriptor)
