"""What the tokenizers share: rows of ids, texts as UTF-8, their libraries."""

from __future__ import annotations

import dataclasses
import importlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from clipjax.data.text import cleaning
from clipjax.types import UserError

# Their names if one of our own tokenizers is written for other libraries.
PAD, START, END, UNKNOWN = "<pad>", "<start>", "<end>", "<unknown>"
PLAIN = (("[\u02bc\u2018-\u201b]", "'"), ("[\u201c-\u201f]", '"'), (r"\s+", " "))


@dataclasses.dataclass(frozen=True)
class Frame:
    """The ids that stand before, after and beyond those of a text."""

    prefix: tuple[int, ...]
    suffix: tuple[int, ...]
    pad: int

    def least(self) -> int:
        """The shortest context: the frame and one token."""
        return len(self.prefix) + len(self.suffix) + 1

    def pack(
        self, rows: Sequence[Sequence[int]], context_length: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Frames rows of ids, cuts and pads them.

        Returns ids int32 [b context_length] and the mask bool, true on a text and its
        frame. A row that is too long loses its last ids, never the suffix; of a row
        without any id the first padding counts as one, since a row may not be empty.
        """
        room = context_length - len(self.prefix) - len(self.suffix)
        ids = np.full((len(rows), context_length), self.pad, np.int32)
        mask = np.zeros((len(rows), context_length), bool)
        for i, row in enumerate(rows):
            framed = [*self.prefix, *row[:room], *self.suffix]
            ids[i, : len(framed)] = framed
            mask[i, : max(1, len(framed))] = True
        return ids, mask


def encodable(caption: str) -> str:
    """A caption as UTF-8 can hold it: halves of surrogate pairs become "?".

    Raises BadExample for what is no str.
    """
    cleaning.check(caption)
    return caption.encode("utf-8", "replace").decode("utf-8")


def library(module: str, tokenizer: str) -> Any:
    """Imports a library of the `text` extra; raises UserError if it is missing."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(
            f"tokenizer {tokenizer} needs the {module} library: "
            f"pip install -e '.[text]'"
        ) from error


def as_library(
    name: str,
    vocabulary: Mapping[str, int],
    frame: Frame,
    model: Callable[[Any, dict[str, int]], Any],
    pieces: Callable[[Any], Any],
    *,
    lower: bool = True,
    only: str = "",
) -> str:
    """One of our own tokenizers as a tokenizer.json of the `tokenizers` library.

    The end token gets the largest id, in exchange with the piece that has it, since
    other libraries find the end of a CLIP text by that. Of `text.clean` they get
    composed characters, straight quotes, single blanks and lower case; its repairs of
    encodings and HTML are lost.

    Args:
      vocabulary: piece -> id, without START, END and PAD of the frame.
      model, pieces: of (library, vocabulary) and (library), its model and what cuts a
        text for it.
      lower: lower-case texts. only: characters to keep; empty: all.
    """
    made_by = library("tokenizers", name)
    ids = {PAD: frame.pad, START: frame.prefix[0], END: frame.suffix[0], **vocabulary}
    last = max(ids, key=ids.__getitem__)
    ids[END], ids[last] = ids[last], ids[END]
    made = made_by.Tokenizer(model(made_by, ids))
    normalizers = made_by.normalizers
    steps = [normalizers.NFC()]
    for pattern, plain in PLAIN:
        steps.append(normalizers.Replace(made_by.Regex(pattern), plain))
    steps.append(normalizers.Strip())
    if lower:
        steps.append(normalizers.Lowercase())
    if only:
        others = made_by.Regex(f"[^{re.escape(only)}]")
        steps.append(normalizers.Replace(others, ""))
    made.normalizer = normalizers.Sequence(steps)
    made.pre_tokenizer = pieces(made_by)
    made.add_special_tokens([PAD, START, END])
    made.post_processor = made_by.processors.TemplateProcessing(
        single=f"{START} $A {END}", special_tokens=[(x, ids[x]) for x in (START, END)]
    )
    made.enable_padding(pad_id=ids[PAD], pad_token=PAD)
    return made.to_str()


def given(path: str, tokenizer: str, what: str) -> str:
    """The option `path`; raises UserError if it is not set."""
    if not path:
        raise UserError(
            f"tokenizer {tokenizer}: no file is given: set {what} with "
            f"--config.data.tokenizer.path=FILE"
        )
    return path


def damaged(tokenizer: str) -> str:
    """The complaint about a saved state, which the cause follows in brackets."""
    return (
        f"the saved state of tokenizer {tokenizer} is damaged: restore the run's "
        f"tokenizer.json"
    )
