"""The caption files beside an image: `KEY.txt` and `KEY.json`, and which one is used.

A `.txt` of one line is a caption, and one of several lines holds a caption each, as
CLIP_benchmark writes them, unless the JSON beside it says that they are one. JSON has
`captions` or `caption`, a list or a text.
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

NO_TEXT, TXT, JSON, LINES = 0, 1, 2, 3  # LINES: a .txt of which each line is a caption
SEVERAL = (
    "text files of several lines, each taken as a caption (text_lines=False keeps them "
    "whole)"
)
FIELDS = ("captions", "caption")
LINE_END = re.compile(r"\r\n|\r|\n")


@dataclasses.dataclass(frozen=True)
class Text:
    """What a caption file holds; of several beside an image see `choose`.

    place: where it is, whatever that means to the caller. captions: how many, -1 if it
    cannot be read. blank: those without a character. rank: the lowest is taken. words:
    the text, if it may be one caption of several lines.
    """

    kind: int = NO_TEXT
    place: tuple[int, int] = (0, 0)
    captions: int = 0
    blank: int = 0
    rank: int = 1
    words: str = ""


NOTHING = Text()


def parse(kind: int, data: bytes) -> list[str]:
    """The captions of a file, without blank ones; kind: TXT, LINES or JSON.

    Raises BadExample for text that is not UTF-8, or JSON that is broken, no object, or
    has captions that are no text.
    """
    found = _captions(kind, data)
    return [caption.strip() for caption in found if not caption_lists.blank(caption)]


def look(kind: int, data: bytes, place: tuple[int, int] = (0, 0)) -> Text:
    """What a file holds, TXT or JSON; a `.txt` of several lines becomes LINES.

    A JSON list comes first, as it holds the most; then the text file; then a single
    JSON field.
    """
    rank = 1 if kind == TXT else 0 if b'"captions"' in data else 2
    try:
        found = _captions(kind, data)
        single = (found[0] or "").strip() if len(found) == 1 else ""
        lines = (
            _captions(LINES, data) if kind == TXT and LINE_END.search(single) else []
        )
        if len(lines) > 1:  # and so no list of one that spells a line's end
            kind, found = LINES, lines
    except BadExample:
        return Text(kind, place, -1, rank=rank)
    words = " ".join(single.split())
    blank = sum(map(caption_lists.blank, found))
    if kind == JSON:
        rank = 0 if len(found) > 1 or b'"captions"' in data else 2
    return Text(kind, place, len(found) - blank, blank, rank, words)


def choose(texts: Sequence[Text]) -> Text:
    """The file whose captions are an image's: none that says nothing hides another."""
    good = [text for text in texts if text.captions]
    if not good:
        return max(texts, key=lambda text: text.blank, default=NOTHING)
    best = min(good, key=lambda text: text.rank)
    if best.kind == LINES and any(
        other.words == best.words for other in texts if other.kind == JSON
    ):
        return dataclasses.replace(best, kind=TXT, captions=1)
    return best


def choose_each(groups: Iterable[Sequence[Text]], counts: Counts) -> list[Text]:
    """The file of each image, of those beside it; counts what is amiss in them."""
    chosen = []
    for texts in groups:
        text = choose(texts)
        counts["caption files that cannot be read"] += sum(
            1 for one in texts if one.captions < 0
        )
        counts[BLANK] += text.blank
        counts[SEVERAL] += text.kind == LINES
        chosen.append(text)
    return chosen


def whole(
    kinds: np.ndarray, captions: np.ndarray, problems: Iterable[str]
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """As if no text of several lines held more than one caption.

    kinds: uint8 [n]; captions: int32 [n], how many; problems: in words, without what
    was said of such texts.
    """
    lines = kinds == LINES
    return (
        np.where(lines, np.uint8(TXT), kinds),
        np.where(lines, np.int32(1), captions),
        [problem for problem in problems if not problem.endswith(SEVERAL)],
    )


def _captions(kind: int, data: bytes) -> list[Any]:
    """The captions of a file, blank ones among them; none in one without a byte, which
    img2dataset writes for an image without a caption.
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
    lists = [caption_lists.of(None if one == "" else one) for one in values]
    for found in lists:
        if not all(caption is None or isinstance(caption, str) for caption in found):
            raise BadExample("the captions must be strings")
    good = [found for found in lists if not all(map(caption_lists.blank, found))]
    return (good or [found for found in lists if found] or [[]])[0]
