"""Paths as users write them: expands `~`, refuses addresses, quotes for a shell."""

from __future__ import annotations

import errno
import os
import pathlib
import re
import shlex
import sys

from clipjax import atomic_files
from clipjax.types import UserError

# One slash counts too, because pathlib removes the second.
ADDRESS = re.compile(
    r"([A-Za-z][A-Za-z0-9+.-]*)://|(gs|gcs|s3|az|abfs|hdfs|hf|https?|file):/"
)
_LONGEST = 255  # bytes in a name on common file systems


def expand(path: str | os.PathLike[str]) -> pathlib.Path:
    """The path that a user wrote; `~` and `~user` are home folders, as in a shell.

    Raises UserError for an address, for `~` if no home folder is known, for an
    impossible path, and for one that is not UTF-8, which C++ libraries cannot take.
    """
    _no_address(path, "a local path is needed, not an address")
    text = os.path.expanduser(os.fspath(path))
    if text == "~" or text.startswith("~/"):
        raise UserError(f"{path}: no home folder is known: write the path in full")
    written, is_long = pathlib.Path(text), False
    try:
        os.lstat(text)
    except ValueError as error:  # a NUL
        raise UserError(f"{text!r} cannot be a path: {error}") from error
    except OSError as error:
        is_long = error.errno == errno.ENAMETOOLONG
    encoding = sys.getfilesystemencoding()
    if not text.isascii() and encoding != "utf-8":  # C++ would use another name
        raise UserError(
            f"{text}: names cannot be used in this environment's {encoding}: "
            "set PYTHONUTF8=1"
        )
    if not _is_text(text):
        raise UserError(f"{text}: the name is not UTF-8 text: rename it")
    if is_long or any(len(os.fsencode(part)) > _LONGEST for part in written.parts):
        raise UserError(f"{text}: the name is too long for a disk")
    return written


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:  # surrogates that stand for undecodable bytes
        return False
    return True


def readable(text: str) -> str:
    """The text with bytes that are not UTF-8, such as a file name's, escaped."""
    return text.encode("utf-8", "backslashreplace").decode()


def home(name: str) -> pathlib.Path:
    """A path below the home folder; if none is known, one that cannot be created."""
    folder = os.path.expanduser("~")
    return pathlib.Path(os.devnull if folder == "~" else folder) / name


def local(path: str | os.PathLike[str], what: str) -> pathlib.Path:
    """The absolute path that a user wrote; what: its use, for messages ("a run").

    Raises UserError as `expand`.
    """
    _no_address(path, f"{what} needs a local folder, not an address")
    try:
        return expand(path).resolve()
    except FileNotFoundError as error:
        raise UserError(
            f"{path}: the working directory no longer exists: change to another"
        ) from error


def _no_address(path: str | os.PathLike[str], why: str) -> None:
    address = ADDRESS.match(os.fspath(path))
    if not address:
        return
    scheme = (address[1] or address[2]).lower()
    fix = "copy it from or to there"
    if scheme == "file":
        fix = f"write it without {address[0].rstrip('/')}//"
    elif scheme == "hf":
        fix += ", or write a model on the hub as hf-hub:ORG/NAME"
    raise UserError(f"{path}: {why}; {fix}")


def file_to_write(flag: str, value: str, what: str, example: str) -> pathlib.Path:
    """The place of a file that a flag names.

    what: as of `local`. example: a name, for messages.

    Raises UserError if it is a folder or cannot be written, and as `local` does.
    """
    place = local(value, what)
    if place.is_dir():
        raise UserError(
            f"--{flag}={value} is a folder: name a file, such as {value}/{example}"
        )
    try:
        atomic_files.check_place(place.parent)
    except OSError as error:
        raise UserError(
            f"--{flag}={value} cannot be written ({error.strerror}): choose another "
            f"--{flag}"
        ) from error
    return place


def shell(path: str | os.PathLike[str]) -> str:
    """A path quoted as one word of a shell command."""
    text = os.fspath(path)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
        if text.isprintable():
            return shlex.quote(text)
    except UnicodeEncodeError:
        pass
    # Unprintable characters are escaped in the form that bash, zsh and ksh read.
    escaped = (
        chr(code) if 32 <= code < 127 and code not in b"\\'" else f"\\x{code:02x}"
        for code in os.fsencode(text)
    )
    return f"$'{''.join(escaped)}'"
