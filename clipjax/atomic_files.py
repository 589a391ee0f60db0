"""Files that are there whole or not at all, whatever ends the process."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import pathlib
import tempfile
import threading
from collections.abc import Iterator
from typing import Any

# Nothing that is kept is nested as deep, and what walks over a value recurses.
DEEPEST = 100


@contextlib.contextmanager
def opened(
    path: pathlib.Path, mode: str = "w", *, sync: bool = True, **options: Any
) -> Iterator[Any]:
    """A file to write, which takes the place of `path` once it is on the disk.

    mode, options: as of `open`; text is UTF-8. sync: False does not wait for the disk,
    so that a power cut may leave anything. An error leaves what was there before.

    A device or a pipe, /dev/null for one, has no place to be taken: it is written to.

    Raises OSError that names `path`: the disk is full or fails.
    """
    if "b" not in mode:
        options.setdefault("encoding", "utf-8")
        options.setdefault("errors", "backslashreplace")  # of names that are no text
    if is_special(path):
        with named(path), path.open(mode, **options) as file:
            yield file
        return
    # Of several that write the same file the last one wins.
    own = f"{os.getpid()}-{threading.get_ident()}"
    scratch = path.with_name(f"{path.name}.{own}.tmp")
    try:
        with named(path, scratch), scratch.open(mode, **options) as file:
            yield file
            if sync:
                file.flush()
                os.fsync(file.fileno())
        with named(path, scratch):
            scratch.replace(path)
    finally:
        with contextlib.suppress(OSError):  # what failed before is told
            scratch.unlink(missing_ok=True)


def is_special(path: pathlib.Path) -> bool:
    """Whether there is something at a path that is neither a file nor a folder."""
    return path.exists() and not path.is_file() and not path.is_dir()


@contextlib.contextmanager
def named(path: pathlib.Path, scratch: pathlib.Path | None = None) -> Iterator[None]:
    """An OSError of the block names `path`, as that of a write does not by itself.

    scratch: what the block writes for it, which nobody knows by its name.
    """
    try:
        yield
    except OSError as error:
        if error.errno and error.filename in (None, str(scratch)):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def told(error: OSError) -> str:
    """What the system refused, in a line: the file, why, and what to do."""
    reason = error.strerror or " ".join(str(error).split()) or type(error).__name__
    name = error.filename
    where = os.fsdecode(name) if isinstance(name, (str, bytes)) else "a file"
    return f"{where} cannot be used ({reason}): {_fix(error)}"


def _fix(error: OSError) -> str:
    """What to do about an error of the system."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return "make room and start again"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "see to its permissions, or give another place"
    if error.errno == errno.EIO:
        return "the disk fails; mend or replace it and start again"
    return "mend the cause and start again"


def check_room(folder: pathlib.Path) -> None:
    """Raises OSError unless a file can be written in a folder."""
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(b"\1" * 4096)  # more than a full disk takes


def check_place(path: pathlib.Path) -> None:
    """Raises OSError unless a folder that may not be there yet can be written."""
    there = next(place for place in (path, *path.parents) if place.exists())
    if not there.is_dir():
        raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(there))
    check_room(there)


def write_json(path: pathlib.Path, value: Any) -> None:
    """Writes a value as indented JSON."""
    with opened(path) as file:
        json.dump(value, file, indent=1, ensure_ascii=False)
        file.write("\n")


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text.

    Raises ValueError for what is no JSON, and for values nested deeper than DEEPEST.
    """
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError("its JSON is nested too deep") from None
    level = [value]
    for _ in range(DEEPEST):
        level = [
            item
            for each in level
            if isinstance(each, (dict, list))
            for item in (each.values() if isinstance(each, dict) else each)
        ]
        if not level:
            return value
    raise ValueError("its JSON is nested too deep")


def sync(path: pathlib.Path) -> None:
    """Forces a file's content, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with named(path):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def digest(path: pathlib.Path) -> str:
    """The SHA-256 of a file, by which damage is known."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
