"""A file of texts, one per line."""

from __future__ import annotations

import codecs
import hashlib
import pathlib

from clipjax import atomic_files
from clipjax.types import BadExample, UserError


class TextFile:
    """The lines of a UTF-8 file, without their ends; an empty line is an empty text.

    Raises UserError for a file that cannot be read, and for one without a line.
    """

    def __init__(self, path: pathlib.Path):
        try:
            content = path.read_bytes()
        except OSError as error:
            raise UserError(atomic_files.describe_os_error(error)) from error
        self.path = path
        self.digest = hashlib.sha256(content).hexdigest()[:16]
        self._lines = content.removeprefix(codecs.BOM_UTF8).split(b"\n")
        if not self._lines[-1]:  # after the last line's end
            del self._lines[-1]
        if not self._lines:
            raise UserError(f"{path} is empty: it needs one text per line")

    def __len__(self) -> int:
        return len(self._lines)

    def key_of(self, index: int) -> str:
        return f"{self.path.name}:{index + 1}"

    def text_of(self, index: int) -> str | BadExample:
        """A line, or why it is no text."""
        try:
            return self._lines[index].removesuffix(b"\r").decode()
        except UnicodeDecodeError as error:
            return BadExample(f"the line is not UTF-8 ({error})", self.key_of(index))
