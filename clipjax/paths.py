"""Paths as users write them: `~`, addresses, words of a shell."""

from __future__ import annotations

import errno
import os
import pathlib
import re
import shlex
import sys

from clipjax.types import UserError

# With one slash too, as pathlib leaves an address.
ADDRESS = re.compile(
    r"([A-Za-z][A-Za-z0-9+.-]*)://|(gs|gcs|s3|az|abfs|hdfs|hf|https?|file):/"
)
_LONGEST = 255  # bytes in a name, on every usual disk


def given(path: str | os.PathLike[str]) -> pathlib.Path:
    """The path that a user wrote: `~` and `~user` are folders of users, as in a shell.

    Raises UserError for an address, for `~` if no home folder is known, for a path
    that no file can have, and for one that is not UTF-8, which libraries of C++ cannot
    be given.
    """
    _no_address(path, "a local path is needed, not an address")
    text = os.path.expanduser(os.fspath(path))
    if text == "~" or text.startswith("~/"):
        raise UserError(f"{path}: no home folder is known: write the path in full")
    found, long = pathlib.Path(text), False
    try:
        os.lstat(text)
    except ValueError as error:  # a NUL
        raise UserError(f"{text!r} cannot be a path: {error}") from error
    except OSError as error:
        long = error.errno == errno.ENAMETOOLONG
    encoding = sys.getfilesystemencoding()
    if not text.isascii() and encoding != "utf-8":  # C++ would take it for another name
        raise UserError(
            f"{text}: names cannot be used in this environment's {encoding}: "
            "set PYTHONUTF8=1"
        )
    if not _is_text(text):
        raise UserError(f"{text}: the name is no UTF-8 text: rename it")
    if long or any(len(os.fsencode(part)) > _LONGEST for part in found.parts):
        raise UserError(f"{text}: the name is too long for a disk")
    return found


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:  # bytes that were kept as halves of surrogates
        return False
    return True


def home(name: str) -> pathlib.Path:
    """A default below the home folder; without one, a path that cannot be made."""
    found = os.path.expanduser("~")
    return pathlib.Path(os.devnull if found == "~" else found) / name


def local(path: str | os.PathLike[str], what: str) -> pathlib.Path:
    """As `given`, absolute; what: what lives there, for the message ("a run").

    Raises UserError as `given`.
    """
    _no_address(path, f"{what} lives in a local folder, not at an address")
    try:
        return given(path).resolve()
    except FileNotFoundError as error:
        raise UserError(
            f"{path}: the working directory is gone: change to one that is there"
        ) from error


def _no_address(path: str | os.PathLike[str], told: str) -> None:
    found = ADDRESS.match(os.fspath(path))
    if not found:
        return
    scheme = (found[1] or found[2]).lower()
    fix = "copy it from or to there"
    if scheme == "file":
        fix = f"write it without {found[0].rstrip('/')}//"
    elif scheme == "hf":
        fix += ", or write a model of the hub as hf-hub:ORG/NAME"
    raise UserError(f"{path}: {told}; {fix}")


def shell(path: str | os.PathLike[str]) -> str:
    """A path as one word of a shell command to paste."""
    text = os.fspath(path)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
        if text.isprintable():
            return shlex.quote(text)
    except UnicodeEncodeError:
        pass
    # What cannot be shown as it is, in the form that bash, zsh and ksh read.
    kept = (
        chr(code) if 32 <= code < 127 and code not in b"\\'" else f"\\x{code:02x}"
        for code in os.fsencode(text)
    )
    return f"$'{''.join(kept)}'"
