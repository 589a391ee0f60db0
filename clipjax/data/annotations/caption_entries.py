"""One listed image with its captions, and counts of the list's problems."""

from __future__ import annotations

import collections
import dataclasses
import re
from typing import Any

from clipjax.data.storage import json_files

# surrogateescape marks bytes that are not UTF-8 by these; JSON can spell others, too.
NOT_UTF8 = re.compile("[\ud800-\udfff]")
UNREADABLE = "images with a caption that cannot be read"
BLANK = "empty captions, left out"

Counts = collections.Counter[str]


@dataclasses.dataclass(slots=True)
class Entry:
    """One image: its captions, and its fault ("" if it has none).

    rows: how many captions the list gives it, broken ones included.
    """

    captions: list[str] = dataclasses.field(default_factory=list)
    rows: int = 0
    fault: str = ""

    def add(self, caption: Any, counts: Counts) -> None:
        """Adds a caption. One that is not text sets `fault`; an empty one is counted
        and left out.
        """
        if isinstance(caption, str):
            caption = caption.strip()
        if caption is None or caption == "":
            counts[BLANK] += 1
            return
        self.rows += 1
        if not isinstance(caption, str):
            self.fault = f"a caption is not text but {json_files.short_json(caption)}"
        elif NOT_UTF8.search(caption):
            self.fault = "a caption is not UTF-8 text"
        else:
            self.captions.append(caption)

    def mark(self, fault: str) -> None:
        """Counts a missing caption and sets `fault`."""
        self.fault = fault
        self.rows += 1

    def join(self, other: Entry) -> None:
        """Adds the captions of another entry of the same image."""
        self.captions += other.captions
        self.rows += other.rows
        self.fault = self.fault or other.fault


def problems(counts: Counts, entries: dict[str, Entry]) -> list[str]:
    """Returns one line per problem; counts: problem -> how often."""
    broken = sum(1 for entry in entries.values() if entry.fault)
    counts = counts + Counts({UNREADABLE: broken})  # drops zero counts
    return [f"{n} {problem}" for problem, n in sorted(counts.items())]
