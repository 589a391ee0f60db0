"""What a report's page holds, before it is HTML or Markdown.

Every text is plain: the two renderers escape it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple


@dataclasses.dataclass(frozen=True)
class Text:
    """A paragraph. kind: "" or "gap", which names what is missing."""

    text: str
    kind: str = ""


@dataclasses.dataclass(frozen=True)
class Facts:
    """Names and values, one below the other."""

    pairs: Sequence[tuple[str, str]]


class Check(NamedTuple):
    """level: "good", "warning" or "bad"; what: a few words; why: a sentence; mend: what
    to do, a sentence, "" if nothing."""

    level: str
    what: str
    why: str
    mend: str = ""


@dataclasses.dataclass(frozen=True)
class Checks:
    checks: Sequence[Check]


@dataclasses.dataclass(frozen=True)
class Steps:
    """Sentences in an order. title: above them."""

    title: str
    items: Sequence[str]


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of texts.

    texts: how many columns from the left are texts; the others are numbers. strong: the
    numbers of the rows that matter most. note: a line below the title. shades: row -> a
    number from 0 to 1 for each column, or None, by which the cell is coloured.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    title: str = ""
    texts: int = 1
    strong: frozenset[int] = frozenset()
    note: str = ""
    shades: Sequence[Sequence[float | None]] = ()


class Chart(NamedTuple):
    """title: its words. svg: an element that follows light and dark. words: what it
    shows, for those who cannot see it."""

    title: str
    svg: str
    words: str


@dataclasses.dataclass(frozen=True)
class Charts:
    """Charts side by side. names: of the runs, in the order of their colours, if there
    are several."""

    charts: Sequence[Chart]
    names: Sequence[str] = ()


@dataclasses.dataclass(frozen=True)
class Drawing:
    """A drawing that shows pictures: see drawings.py. svg: an element whose `use` refer
    to the pictures by their names. wide: as wide as the page, at most."""

    svg: str
    words: str
    wide: bool = False


class Answer(NamedTuple):
    """mark: "right", "wrong" or "". text, picture: either may be empty."""

    mark: str
    text: str
    picture: str = ""


@dataclasses.dataclass(frozen=True)
class Card:
    """An example: what was asked, and the answers.

    picture: a name in Pictures, "" for none. said: the image's captions, or the text
    that was asked. verdict: a few words, such as "rank 3". mark: as of Answer.
    """

    picture: str = ""
    said: Sequence[str] = ()
    verdict: str = ""
    mark: str = ""
    answers: Sequence[Answer] = ()


@dataclasses.dataclass(frozen=True)
class Gallery:
    cards: Sequence[Card]
    title: str = ""


@dataclasses.dataclass(frozen=True)
class Code:
    """Lines for a shell or a file."""

    text: str


@dataclasses.dataclass(frozen=True)
class Fold:
    """Blocks that are closed at first, and open in print and Markdown."""

    title: str
    blocks: Sequence[object]


@dataclasses.dataclass(frozen=True)
class Columns:
    """Blocks side by side if there is room."""

    columns: Sequence[Sequence[object]]


@dataclasses.dataclass(frozen=True)
class Section:
    title: str
    blocks: Sequence[object]

    @property
    def anchor(self) -> str:
        return "".join(c if c.isalnum() else "-" for c in self.title.lower())


class Tile(NamedTuple):
    """A number of the page's head. small: what it is, and its interval and chance."""

    big: str
    what: str
    small: str = ""


@dataclasses.dataclass(frozen=True)
class Page:
    """title: of the page. lead: what was trained, in a sentence per run. tiles: the
    main numbers."""

    title: str
    lead: Sequence[str]
    tiles: Sequence[Tile]
    sections: Sequence[Section]
