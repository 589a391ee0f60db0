"""Files that others released (vocabularies, weights): what is wrong with a bad one.

A download that failed often leaves something else under the right name: nothing at all,
a web page, or a Git LFS pointer. It is told here, so that all readers say it alike.
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
    """Returns the first bytes of a file that could be what it should be.

    Args:
      what: what it should be, for messages ("a vocab.txt").

    Raises UserError if the file is absent, a folder, unreadable, empty, a web page
    or a Git LFS pointer.
    """
    place = paths.given(path)
    if place.is_dir():
        raise UserError(f"{place} is a folder: name {what} in it")
    try:
        with place.open("rb") as file:
            head = file.read(HEAD)
    except FileNotFoundError as error:
        raise UserError(f"{place} does not exist: it should be {what}") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise UserError(f"cannot read {place}: {one_line(error)}") from error
    if not head:
        raise UserError(f"{place} is empty: fetch it again, it should be {what}")
    if head.startswith(LFS):
        raise UserError(
            f"{place} is a Git LFS pointer, not {what} itself: run `git lfs pull` in "
            f"its repository, or download the file"
        )
    if head.lstrip().lower().startswith(PAGES):
        raise UserError(
            f"{place} is a web page, not {what}: download the file itself (a hub's "
            f"'raw' or 'resolve' address)"
        )
    return head


def read_text(path: str | os.PathLike[str], what: str) -> str:
    """Returns the content of a UTF-8 file; raises UserError as `opening`."""
    opening(path, what)
    place = paths.given(path)
    try:
        return place.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{place} is not {what}: no UTF-8 text ({error.reason})"
        ) from error
    except OSError as error:
        raise UserError(f"cannot read {place}: {one_line(error)}") from error


def fetch(url: str, most: int, timeout: float = 30.0) -> bytes:
    """The content behind an address; raises OSError if it cannot be had.

    Args:
      most: bytes at most.
      timeout: seconds that the server may be silent.
    """
    try:
        with urllib.request.urlopen(url, timeout=timeout) as answer:
            content = answer.read(most + 1)
    except urllib.error.HTTPError as error:
        error.close()
        raise OSError(f"{url} answers {error.code} {error.reason}") from None
    except http.client.HTTPException as error:
        raise OSError(f"{url}: {type(error).__name__}") from error
    if len(content) > most:
        raise OSError(f"{url} sends more than {most:,} bytes")
    return content


def one_line(error: BaseException) -> str:
    """The words of an error in one line, its kind if it has none."""
    words = " ".join(str(error).split())
    return words[:300] if words else type(error).__name__
