"""One image of a list and its captions, and how often something in it is amiss."""

from __future__ import annotations

import collections
import dataclasses
import re
from typing import Any

from clipjax.data.storage import json_files

# How surrogateescape marks bytes that are not UTF-8; JSON can spell the others too.
NOT_UTF8 = re.compile("[\ud800-\udfff]")
UNREADABLE = "images with a caption that cannot be read"
BLANK = "empty captions, left out"

Counts = collections.Counter[str]


@dataclasses.dataclass(slots=True)
class Entry:
    """One image: its captions, and why it is broken ("" if it is not).

    rows: how many captions the list means it to have, broken ones included.
    """

    captions: list[str] = dataclasses.field(default_factory=list)
    rows: int = 0
    fault: str = ""

    def add(self, caption: Any, counts: Counts) -> None:
        """Adds a caption; one that is no text marks the entry, and an empty one is
        counted and left out.
        """
        if isinstance(caption, str):
            caption = caption.strip()
        if caption is None or caption == "":
            counts[BLANK] += 1
            return
        self.rows += 1
        if not isinstance(caption, str):
            self.fault = f"a caption is not text but {json_files.shown(caption)}"
        elif NOT_UTF8.search(caption):
            self.fault = "a caption is not UTF-8 text"
        else:
            self.captions.append(caption)

    def mark(self, fault: str) -> None:
        """Counts a caption that is missing."""
        self.fault = fault
        self.rows += 1

    def join(self, other: Entry) -> None:
        """Takes the captions of another entry of the same image."""
        self.captions += other.captions
        self.rows += other.rows
        self.fault = self.fault or other.fault


def problems(counts: Counts, entries: dict[str, Entry]) -> list[str]:
    """What is amiss in words; counts: what -> how often."""
    broken = sum(1 for entry in entries.values() if entry.fault)
    counts = counts + Counts({UNREADABLE: broken})  # drops those of no count
    return [f"{n} {what}" for what, n in sorted(counts.items())]
