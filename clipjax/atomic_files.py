"""Atomic writes: readers see the old file or the new one."""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import json
import os
import pathlib
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from typing import Any

# Deeper JSON is refused, because code that walks over a value recurses.
DEEPEST = 100
# Seconds after which what another machine's process was writing is left over.
LEFT_AFTER = 3600.0
_LONGEST = 150  # bytes of a name that a temporary one has in full


@contextlib.contextmanager
def open_to_write(
    path: pathlib.Path, mode: str = "w", *, sync: bool = True, **options: Any
) -> Iterator[Any]:
    """Opens a file to write, which replaces `path` once it is on the disk.

    mode, options: those of `open`; text is UTF-8. sync: False does not wait for the
    disk, so that a power cut may leave a damaged file. An error keeps the old file.

    A device or a pipe, such as /dev/null, is written directly, not replaced.

    Raises OSError, naming `path`, if the disk is full or fails.
    """
    if "b" not in mode:
        options.setdefault("encoding", "utf-8")
        options.setdefault("errors", "backslashreplace")  # for names that are not UTF-8
    if is_special(path):
        with name_errors(path), path.open(mode, **options) as file:
            yield file
        return
    # If several write the same file, the last one wins.
    scratch = _scratch(path)
    try:
        with name_errors(path, scratch), scratch.open(mode, **options) as file:
            yield file
            if sync:
                file.flush()
                os.fsync(file.fileno())
        with name_errors(path, scratch):
            scratch.replace(path)
    finally:
        with contextlib.suppress(OSError):  # the first error is the one to raise
            scratch.unlink(missing_ok=True)


@contextlib.contextmanager
def new_folder(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields a folder to fill, which becomes `path` once it is on the disk.

    An error in the block, or a killed process, leaves no `path`.

    Raises OSError if `path` is a file or a folder with content, or the disk is full.
    """
    scratch = _scratch(path, ".")
    with name_errors(path, scratch):
        scratch.mkdir()
    try:
        yield scratch
        for inner in (*scratch.rglob("*"), scratch):
            sync(inner)
        with name_errors(path, scratch):
            scratch.rename(path)
        sync(path.parent)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _scratch(path: pathlib.Path, before: str = "") -> pathlib.Path:
    """A temporary name, which says who writes: a thread of a process of a machine."""
    writer = f"{socket.gethostname()}-{os.getpid()}-{threading.get_ident()}"
    return path.with_name(f"{before}{_short(path.name)}.{writer}.tmp")


def _short(name: str) -> str:
    """A name that leaves room for the writer's, in the 255 bytes of file systems."""
    if len(os.fsencode(name)) <= _LONGEST:
        return name
    number = hashlib.sha256(os.fsencode(name)).hexdigest()[:8]
    return f"{name[: _LONGEST // 5]}~{number}"  # a character has 4 bytes at most


def remove_leftovers(path: pathlib.Path) -> None:
    """Removes what killed processes have left of a file or folder, under temporary
    names; the process must not be writing it itself.
    """
    name = glob.escape(_short(path.name))
    for pattern in (f"{name}.*.tmp", f".{name}.*.tmp"):
        for left in path.parent.glob(pattern):
            if _is_left(left):
                if left.is_dir():
                    shutil.rmtree(left, ignore_errors=True)
                else:
                    left.unlink(missing_ok=True)


def _is_left(path: pathlib.Path) -> bool:
    """Whether the process that was writing under a temporary name has ended."""
    host, *of = path.name.removesuffix(".tmp").rsplit("-", 2)
    if host.endswith(f".{socket.gethostname()}") and len(of) == 2 and of[0].isdecimal():
        # A restarted container's process may have the id of the one that was killed.
        return int(of[0]) == os.getpid() or not _runs(int(of[0]))
    with contextlib.suppress(FileNotFoundError):
        return time.time() - path.stat().st_mtime > LEFT_AFTER
    return False


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def is_special(path: pathlib.Path) -> bool:
    """Whether a path exists and is neither a file nor a folder."""
    return path.exists() and not path.is_file() and not path.is_dir()


@contextlib.contextmanager
def name_errors(
    path: pathlib.Path, scratch: pathlib.Path | None = None
) -> Iterator[None]:
    """Makes an OSError in the block name `path`; that of a write names no file.

    scratch: the temporary file, whose name `path` replaces in the error.
    """
    try:
        yield
    except OSError as error:
        if error.errno and error.filename in (None, str(scratch)):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def describe_os_error(error: OSError) -> str:
    """One line about an error of the system: the file, the reason and the fix."""
    reason = error.strerror or " ".join(str(error).split()) or type(error).__name__
    name = error.filename
    where = os.fsdecode(name) if isinstance(name, (str, bytes)) else "a file"
    return f"{where} cannot be used ({reason}): {_fix(error)}"


def _fix(error: OSError) -> str:
    """The fix for an error of the system."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return "free space and start again"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "change its permissions, or name another place"
    if error.errno == errno.EIO:
        return "the disk fails; repair or replace it and start again"
    return "fix the cause and start again"


def check_room(folder: pathlib.Path) -> None:
    """Raises OSError unless a file can be written in a folder."""
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(b"\1" * 4096)  # a full disk has no room for this


def check_place(path: pathlib.Path) -> None:
    """Raises OSError unless a folder, which may not exist yet, can be written."""
    existing = next(folder for folder in (path, *path.parents) if folder.exists())
    if not existing.is_dir():
        raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(existing))
    check_room(existing)


def write_json(path: pathlib.Path, value: Any) -> None:
    """Writes a value as indented JSON."""
    with open_to_write(path) as file:
        file.write(json_text(value))


def json_text(value: Any) -> str:
    """A value as indented JSON with a last newline."""
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"


def write_json_once(path: pathlib.Path, value: Any) -> None:
    """Writes a value as `write_json` does, unless there is a file.

    Of several processes that write at once, the first one wins.
    """
    if path.exists():
        return
    scratch = _scratch(path)
    try:
        write_json(scratch, value)
        try:
            with contextlib.suppress(FileExistsError):
                os.link(scratch, path)
        except OSError:  # a file system without links
            if not path.exists():
                scratch.replace(path)
        sync(path.parent)
    finally:
        with contextlib.suppress(OSError):
            scratch.unlink(missing_ok=True)


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text.

    Raises ValueError for invalid JSON and for values nested deeper than DEEPEST.
    """
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError("its JSON is nested too deep") from None
    level = [value]
    for _ in range(DEEPEST):
        level = [
            item
            for node in level
            if isinstance(node, (dict, list))
            for item in (node.values() if isinstance(node, dict) else node)
        ]
        if not level:
            return value
    raise ValueError("its JSON is nested too deep")


def sync(path: pathlib.Path) -> None:
    """Forces a file's content, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with name_errors(path):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def digest(path: pathlib.Path) -> str:
    """The SHA-256 of a file, which reveals damage."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
