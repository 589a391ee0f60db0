"""Packing of ids into rows, and other helpers that the tokenizers share."""

from __future__ import annotations

import dataclasses
import importlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from clipjax.data.text import cleaning
from clipjax.types import UserError

# The special tokens' names in a tokenizer.json that we write for other libraries.
PAD, START, END, UNKNOWN = "<pad>", "<start>", "<end>", "<unknown>"
PLAIN = (("[\u02bc\u2018-\u201b]", "'"), ("[\u201c-\u201f]", '"'), (r"\s+", " "))


@dataclasses.dataclass(frozen=True)
class Frame:
    """The ids before and after a text's ids, and the padding."""

    prefix: tuple[int, ...]
    suffix: tuple[int, ...]
    pad: int

    def least(self) -> int:
        """The shortest context_length: the frame and one token."""
        return len(self.prefix) + len(self.suffix) + 1

    def pack(
        self, rows: Sequence[Sequence[int]], context_length: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Frames, truncates and pads rows of ids.

        Returns ids int32 [b context_length] and the mask (bool, same shape), true on a
        text and its frame. A row that is too long loses its last ids, never the suffix.
        If a row has no ids, the mask is true on its first padding, because a row may
        not be empty.
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
    """The caption with lone surrogates replaced by "?", so that UTF-8 can encode it.

    Raises BadExample if it is not a str.
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

    The end token swaps its id with the piece that has the largest, because other
    libraries find the end of a CLIP text by the largest id. From `cleaning.clean` the
    file keeps composed characters, straight quotes, single spaces and lower case, but
    not the repairs of encodings and HTML.

    Args:
      vocabulary: piece -> id, without the frame's START, END and PAD.
      model: (library, vocabulary) -> the library's model.
      pieces: library -> the pre-tokenizer, which splits a text for the model.
      lower: lower-case texts. only: characters to keep; empty: all.
    """
    tokenizers = library("tokenizers", name)
    ids = {PAD: frame.pad, START: frame.prefix[0], END: frame.suffix[0], **vocabulary}
    last = max(ids, key=ids.__getitem__)
    ids[END], ids[last] = ids[last], ids[END]
    tokenizer = tokenizers.Tokenizer(model(tokenizers, ids))
    normalizers = tokenizers.normalizers
    steps = [normalizers.NFC()]
    for pattern, plain in PLAIN:
        steps.append(normalizers.Replace(tokenizers.Regex(pattern), plain))
    steps.append(normalizers.Strip())
    if lower:
        steps.append(normalizers.Lowercase())
    if only:
        others = tokenizers.Regex(f"[^{re.escape(only)}]")
        steps.append(normalizers.Replace(others, ""))
    tokenizer.normalizer = normalizers.Sequence(steps)
    tokenizer.pre_tokenizer = pieces(tokenizers)
    tokenizer.add_special_tokens([PAD, START, END])
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single=f"{START} $A {END}", special_tokens=[(x, ids[x]) for x in (START, END)]
    )
    tokenizer.enable_padding(pad_id=ids[PAD], pad_token=PAD)
    return tokenizer.to_str()


def require_path(path: str, tokenizer: str, what: str) -> str:
    """Returns the option `path`; raises UserError if it is not set."""
    if not path:
        raise UserError(
            f"tokenizer {tokenizer}: no file is given: set {what} with "
            f"--config.data.tokenizer.path=FILE"
        )
    return path


def damage_message(tokenizer: str) -> str:
    """The message for a damaged saved state; callers add the cause in brackets."""
    return (
        f"the saved state of tokenizer {tokenizer} is damaged: restore the run's "
        f"tokenizer.json"
    )
