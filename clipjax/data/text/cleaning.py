"""Cleaning of captions, and input checks that the tokenizers share."""

from __future__ import annotations

import html
import string
from collections.abc import Callable, Iterator, Sequence

import ftfy

from clipjax.types import BadExample, UserError

CANONICAL = str.maketrans("_", " ", string.punctuation.replace("_", ""))

Captions = Callable[[], Iterator[str]]


def clean(text: str, *, lower: bool = True, canonical: bool = False) -> str:
    """Repairs broken encodings, undoes HTML escapes and squeezes white space.

    The steps and their order are those of OpenAI's CLIP: ftfy, HTML unescaping twice
    ("&amp;amp;"), single spaces, lower case; canonical: see `canonicalize`.

    Raises BadExample if the text is not a str.
    """
    check(text)
    # ftfy and unescaping do not change printable ASCII without "&".
    if not text.isascii() or not text.isprintable() or "&" in text:
        text = html.unescape(html.unescape(ftfy.fix_text(text)))
    text = canonicalize(text) if canonical else " ".join(text.split())
    return text.lower() if lower else text


def canonicalize(text: str) -> str:
    """Drops ASCII punctuation ("_" becomes a space) and squeezes white space.

    As google-research/big_vision and open_clip do, but keeps the case.
    """
    return " ".join(text.translate(CANONICAL).split())


def check(text: str) -> None:
    """Raises BadExample if a caption is not a str."""
    if not isinstance(text, str):
        raise BadExample(f"the caption is not text but {type(text).__name__}: {text!r}")


def check_length(name: str, context_length: int, least: int) -> None:
    """Raises UserError if the context is too short for one token and its frame."""
    if context_length < least:
        raise UserError(
            f"tokenizer {name}: context_length={context_length} is too short; use "
            f"{least} or more"
        )


def check_list(texts: Sequence[str]) -> Sequence[str]:
    """Raises UserError for a bare str, which would pass as a list of characters."""
    if isinstance(texts, str):
        raise UserError(f"a tokenizer takes a list of texts: [{texts[:20]!r}]")
    return texts


def training_captions(name: str, captions: Captions | None) -> Iterator[str]:
    """Yields the captions that a tokenizer is trained on, not yet cleaned.

    Raises UserError if there are none.
    """
    if captions is None:
        raise UserError(
            f"tokenizer {name} is trained on captions, but none are available; start "
            f"from a run directory that holds its tokenizer.json"
        )
    empty = True
    for caption in captions():
        if isinstance(caption, str):
            empty = False
            yield caption
    if empty:
        raise UserError(
            f"tokenizer {name} is trained on captions, but the training data have "
            f"none; use data with captions"
        )
