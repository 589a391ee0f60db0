"""Parses an image's caption files, `KEY.txt` and `KEY.json`, and chooses one.

A `.txt` of one line is a caption. In one of several lines each is a caption, as
CLIP_benchmark writes them, unless the image's JSON has the same text as one caption.
JSON has `captions` or `caption`, a list or a text.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from clipjax.data.annotations import caption_lists
from clipjax.data.annotations.caption_entries import BLANK, Counts
from clipjax.types import BadExample

NO_TEXT, TXT, JSON, LINES = 0, 1, 2, 3  # LINES: each line of a .txt is a caption
SEVERAL = (
    "text files of several lines, each taken as a caption (text_lines=False keeps them "
    "whole)"
)
FIELDS = ("captions", "caption")
LINE_END = re.compile(r"\r\n|\r|\n")


@dataclasses.dataclass(frozen=True)
class Text:
    """One caption file's content; `choose` selects among an image's files.

    span: (start, size) of the file in its shard, if the caller has one. captions: how
    many, -1 if it cannot be read. blank: how many are blank. rank: `choose` takes the
    lowest. single: the text, if it may be one caption of several lines.
    """

    kind: int = NO_TEXT
    span: tuple[int, int] = (0, 0)
    captions: int = 0
    blank: int = 0
    rank: int = 1
    single: str = ""


NOTHING = Text()


def parse(kind: int, data: bytes) -> list[str]:
    """Returns a file's captions without blank ones; kind: TXT, LINES or JSON.

    Raises BadExample for text that is not UTF-8, and for JSON that is broken, is not an
    object, or has captions that are not text.
    """
    captions = _captions(kind, data)
    return [caption.strip() for caption in captions if not caption_lists.blank(caption)]


def inspect(kind: int, data: bytes, span: tuple[int, int] = (0, 0)) -> Text:
    """Describes a file, TXT or JSON; a `.txt` of several lines becomes LINES.

    A JSON list ranks first, because it holds the most captions; then the text file;
    then a single JSON field.
    """
    rank = 1 if kind == TXT else 0 if b'"captions"' in data else 2
    try:
        captions = _captions(kind, data)
        single = (captions[0] or "").strip() if len(captions) == 1 else ""
        lines = (
            _captions(LINES, data) if kind == TXT and LINE_END.search(single) else []
        )
        if len(lines) > 1:  # not a spelt list of one text with a line end in it
            kind, captions = LINES, lines
    except BadExample:
        return Text(kind, span, -1, rank=rank)
    blank = sum(map(caption_lists.blank, captions))
    if kind == JSON:
        rank = 0 if len(captions) > 1 or b'"captions"' in data else 2
    single = " ".join(single.split())
    return Text(kind, span, len(captions) - blank, blank, rank, single)


def choose(texts: Sequence[Text]) -> Text:
    """Chooses the file whose captions are the image's; a file without any loses."""
    filled = [text for text in texts if text.captions]
    if not filled:
        return max(texts, key=lambda text: text.blank, default=NOTHING)
    best = min(filled, key=lambda text: text.rank)
    if best.kind == LINES and any(
        other.single == best.single for other in texts if other.kind == JSON
    ):
        return dataclasses.replace(best, kind=TXT, captions=1)
    return best


def choose_each(groups: Iterable[Sequence[Text]], counts: Counts) -> list[Text]:
    """Chooses a file per image, from each group; adds the problems to `counts`."""
    chosen = []
    for texts in groups:
        chosen_text = choose(texts)
        counts["caption files that cannot be read"] += sum(
            1 for text in texts if text.captions < 0
        )
        counts[BLANK] += chosen_text.blank
        counts[SEVERAL] += chosen_text.kind == LINES
        chosen.append(chosen_text)
    return chosen


def without_lines(
    kinds: np.ndarray, captions: np.ndarray, problems: Iterable[str]
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Makes each text of several lines one caption.

    kinds: uint8 [n]; captions: int32 [n], how many; problems: messages, of which those
    about such texts are dropped.
    """
    lines = kinds == LINES
    return (
        np.where(lines, np.uint8(TXT), kinds),
        np.where(lines, np.int32(1), captions),
        [problem for problem in problems if not problem.endswith(SEVERAL)],
    )


def _captions(kind: int, data: bytes) -> list[Any]:
    """Returns a file's captions, blank ones included.

    An empty file has none: img2dataset writes it for an image without a caption.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadExample("the caption is not UTF-8 text") from error
    if kind == LINES:
        return [line for line in LINE_END.split(text) if line.strip()]
    if kind == TXT:
        return caption_lists.of(text or None)
    try:
        fields = json.loads(text)
    except RecursionError as error:
        raise BadExample("the caption file is broken JSON: nested too deep") from error
    except ValueError as error:
        raise BadExample(f"the caption file is broken JSON: {error}") from error
    if not isinstance(fields, dict):
        raise BadExample("the caption file is JSON, but not an object")
    values = [fields.get(name) for name in FIELDS]
    lists = [caption_lists.of(None if value == "" else value) for value in values]
    for captions in lists:
        if not all(caption is None or isinstance(caption, str) for caption in captions):
            raise BadExample("the captions must be strings")
    filled = [
        captions for captions in lists if not all(map(caption_lists.blank, captions))
    ]
    return (filled or [captions for captions in lists if captions] or [[]])[0]
