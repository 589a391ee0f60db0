"""A file of texts, one per line."""

from __future__ import annotations

import codecs
import hashlib
import pathlib

import numpy as np

from clipjax import atomic_files
from clipjax.types import BadExample, UserError


class TextFile:
    """The lines of a UTF-8 file, without their ends; an empty line is an empty text.

    It holds the file's bytes and eight more per line.

    Raises UserError for a file that cannot be read, is UTF-16, or is without a line.
    """

    def __init__(self, path: pathlib.Path):
        try:
            content = path.read_bytes()
        except OSError as error:
            raise UserError(atomic_files.describe_os_error(error)) from error
        if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            raise UserError(
                f"{path} is UTF-16: convert it by iconv -f UTF-16 -t UTF-8 FILE > OTHER"
            )
        self.path = path
        self.digest = hashlib.sha256(content).hexdigest()[:16]
        self._content = content
        self._begin = len(codecs.BOM_UTF8) * content.startswith(codecs.BOM_UTF8)
        self._ends = np.flatnonzero(np.frombuffer(content, np.uint8) == ord("\n"))
        last = int(self._ends[-1]) + 1 if len(self._ends) else self._begin
        if last < len(content):  # a line without an end
            self._ends = np.append(self._ends, len(content))
        if not len(self._ends):
            raise UserError(f"{path} is empty: it needs one text per line")

    def __len__(self) -> int:
        return len(self._ends)

    def key_of(self, index: int) -> str:
        return f"{self.path.name}:{index + 1}"

    def text_of(self, index: int) -> str | BadExample:
        """A line, or why it is no text."""
        begin = int(self._ends[index - 1]) + 1 if index else self._begin
        line = self._content[begin : int(self._ends[index])]
        try:
            return line.removesuffix(b"\r").decode()
        except UnicodeDecodeError as error:
            return BadExample(f"the line is not UTF-8 ({error})", self.key_of(index))
