"""Checks of downloaded files (vocabularies, weights), with one message per fault.

A download that failed often leaves an empty file, a web page or a Git LFS pointer under
the right name. All readers check for them here.
"""

from __future__ import annotations

import http.client
import os
import urllib.error
import urllib.request

from clipjax import paths
from clipjax.types import UserError

HEAD = 512
LFS = b"version https://git-lfs.github.com/spec/"
PAGES = (b"<!doctype html", b"<html", b"<?xml")


def opening(path: str | os.PathLike[str], what: str) -> bytes:
    """Returns the first bytes of a file unless it is obviously the wrong one.

    Args:
      what: the expected kind of file, for messages ("a vocab.txt").

    Raises UserError if the file is absent, a folder, unreadable, empty, a web page
    or a Git LFS pointer.
    """
    file_path = paths.expand(path)
    if file_path.is_dir():
        raise UserError(f"{file_path} is a folder: name {what} in it")
    try:
        with file_path.open("rb") as file:
            head = file.read(HEAD)
    except FileNotFoundError as error:
        raise UserError(f"{file_path} does not exist: it should be {what}") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise UserError(f"cannot read {file_path}: {one_line(error)}") from error
    if not head:
        raise UserError(f"{file_path} is empty: fetch it again, it should be {what}")
    if head.startswith(LFS):
        raise UserError(
            f"{file_path} is a Git LFS pointer, not {what} itself: run `git lfs pull` "
            "in its repository, or download the file"
        )
    if head.lstrip().lower().startswith(PAGES):
        raise UserError(
            f"{file_path} is a web page, not {what}: download the file itself (a hub's "
            "'raw' or 'resolve' address)"
        )
    return head


def read_text(path: str | os.PathLike[str], what: str) -> str:
    """Returns the content of a UTF-8 file; raises UserError as `opening`."""
    opening(path, what)
    file_path = paths.expand(path)
    try:
        return file_path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{file_path} is not {what}: not UTF-8 text ({error.reason})"
        ) from error
    except OSError as error:
        raise UserError(f"cannot read {file_path}: {one_line(error)}") from error


def fetch(url: str, most: int, timeout: float = 30.0) -> bytes:
    """The content at an address; raises OSError if it cannot be fetched.

    Args:
      most: the largest number of bytes.
      timeout: seconds that the server may be silent.
    """
    try:
        with urllib.request.urlopen(url, timeout=timeout) as response:
            content = response.read(most + 1)
    except urllib.error.HTTPError as error:
        error.close()
        raise OSError(f"{url} answers {error.code} {error.reason}") from None
    except http.client.HTTPException as error:
        raise OSError(f"{url}: {type(error).__name__}") from error
    if len(content) > most:
        raise OSError(f"{url} sends more than {most:,} bytes")
    return content


def one_line(error: BaseException) -> str:
    """An error's message in one line, or its type's name if it has none."""
    message = " ".join(str(error).split())
    return message[:300] if message else type(error).__name__
