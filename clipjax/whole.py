"""Files that are there whole or not at all, whatever ends the process."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pathlib
import tempfile
import threading
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def opened(
    path: pathlib.Path, mode: str = "w", *, sync: bool = True, **options: Any
) -> Iterator[Any]:
    """A file to write, which takes the place of `path` once it is on the disk.

    mode, options: as of `open`; text is UTF-8. sync: False does not wait for the disk,
    so that a power cut may leave anything. An error leaves what was there before.
    """
    if "b" not in mode:
        options.setdefault("encoding", "utf-8")
        options.setdefault("errors", "backslashreplace")  # of names that are no text
    # Of several that write the same file the last one wins.
    own = f"{os.getpid()}-{threading.get_ident()}"
    scratch = path.with_name(f"{path.name}.{own}.tmp")
    try:
        with scratch.open(mode, **options) as file:
            yield file
            if sync:
                file.flush()
                os.fsync(file.fileno())
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)


def check_room(folder: pathlib.Path) -> None:
    """Raises OSError unless a file can be written in a folder."""
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(b"\1" * 4096)  # more than a full disk takes


def write_json(path: pathlib.Path, value: Any) -> None:
    """Writes a value as indented JSON."""
    with opened(path) as file:
        json.dump(value, file, indent=1, ensure_ascii=False)
        file.write("\n")


def sync(path: pathlib.Path) -> None:
    """Forces a file's content, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def digest(path: pathlib.Path) -> str:
    """The SHA-256 of a file, by which damage is known."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
