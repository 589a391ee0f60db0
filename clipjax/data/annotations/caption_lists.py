"""Parses several captions in one value: a list, or text that spells one.

A table's cell spells a list as JSON (`["a", "b"]`), as Python prints it (`['a', 'b']`,
or `[np.str_('a')]` for NumPy's texts), or as NumPy and so pandas does (`['a' 'b']`).
"""

from __future__ import annotations

import ast
import json
import re
from typing import Any

OPENING = re.compile(r"(?:(?:np\.|numpy\.)?array\(\s*)?([\[(])\s*")
ITEM = re.compile(
    r"(?P<call>(?:np|numpy)\.str_\()?"
    r"(?P<text>'(?:[^'\\\n]|\\.)*'|\"(?:[^\"\\\n]|\\.)*\")(?(call)\))|None|nan"
)
BETWEEN = re.compile(r"\s*(,?)\s*")
CLOSING = re.compile(r"([\])])(?:\s*,\s*dtype=[^()]*)?(\)?)")
# The first characters of a list of text, perhaps within lists, objects, bytes or calls.
LISTED = re.compile(r"\[[\s\[{(]*(?:b|u|r|(?:np|numpy)\.\w+\()?['\"]")
BROKEN = "captions look like lists but cannot be parsed, used unchanged"


def may_be(text: str) -> bool:
    """Whether a text may spell a list, by its first characters; a fast check."""
    return text.lstrip().startswith(("[", "(", "array(", "np.", "numpy."))


def spelt(text: str) -> list[str | None] | None:
    """Returns the list that a text spells; None if it spells none.

    The list may hold texts and None. Brackets around anything else belong to a caption.
    """
    text = text.strip()
    opening = OPENING.match(text)
    if not opening:
        return None
    if text[0] == "[":
        try:
            values = json.loads(text)
        except (ValueError, RecursionError):
            pass
        else:
            all_text = all(value is None or isinstance(value, str) for value in values)
            return values if all_text else None
    return _printed(text, opening)


def _printed(text: str, opening: re.Match[str]) -> list[str | None] | None:
    """Parses a list or tuple as Python and NumPy print it."""
    values, position, commas = [], opening.end(), 0
    while item := ITEM.match(text, position):
        try:
            values.append(ast.literal_eval(item["text"]) if item["text"] else None)
        except (ValueError, SyntaxError):
            return None
        between = BETWEEN.match(text, item.end())
        assert between  # it matches the empty text, too
        commas += len(between[1])
        position = between.end()
    closing = CLOSING.fullmatch(text, position)
    if not closing or "[(".index(opening[1]) != "])".index(closing[1]):
        return None
    if bool(closing[2]) != text[0].isalpha():
        return None
    # A tuple has a comma; brackets without one belong to a caption.
    return None if opening[1] == "(" and values and not commas else values


def is_broken(text: str, spelt: list[str | None] | None) -> bool:
    """Whether a text begins as a list of texts, but `spelt` cannot parse it."""
    if spelt is not None or not may_be(text):
        return False
    opening = OPENING.match(text.lstrip())
    return bool(opening and LISTED.match(text.lstrip(), opening.start(1)))


def of(value: Any) -> list[Any]:
    """Returns the captions in a table's or JSON's value, blank and wrong ones included.

    Null gives [], a text itself or the list that it spells, and a list its members.
    """
    values = spelt(value) if isinstance(value, str) else None
    return members(value) if values is None else list(values)


def members(value: Any) -> list[Any]:
    """Returns captions as `of` does, but does not parse a text that spells a list."""
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def blank(caption: Any) -> bool:
    """Whether a caption is null or only white space."""
    return caption is None or (isinstance(caption, str) and not caption.strip())
