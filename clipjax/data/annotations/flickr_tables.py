"""Parses the tables of Flickr8k and Flickr30k as distributed, and their damaged row.

- A line of Flickr8k.token.txt and results_20130124.token: `NAME.jpg#0<TAB>CAPTION`.
- A line of Flickr30k's results.csv: `NAME.jpg| 0| CAPTION`. One line lacks its second
  bar: "2199200615.jpg| 4   A dog runs ...".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

TOKEN_NAME = re.compile(r"(\S.*?)#\d")
TOKEN_LINE = re.compile(r"(\S.*?)#\d+\t(.*)", re.DOTALL)
NUMBER_AND_CAPTION = re.compile(r"\s*\d+\s+(\S.*)", re.DOTALL)


def is_token(first: str) -> bool:
    """Whether a table has the `.token` form, by its first line."""
    return TOKEN_LINE.fullmatch(first) is not None


def token_rows(lines: Iterable[str]) -> Iterator[tuple[str, list[str] | None]]:
    """Yields (image name, its caption) per line; None if the line lacks a caption."""
    for line in lines:
        if match := TOKEN_LINE.fullmatch(line):
            yield match[1].strip(), [match[2].strip()]
        else:
            match = TOKEN_NAME.match(line)
            yield (match[1].strip() if match else ""), None


def without_second_bar(field: str) -> list[str] | None:
    """Returns the caption of a field with number and caption; None for others."""
    match = NUMBER_AND_CAPTION.fullmatch(field)
    return [match[1]] if match else None
