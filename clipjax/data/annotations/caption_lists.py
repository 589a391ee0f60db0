"""Several captions in one value: a list, or text that spells one.

A list in a cell of a table comes as JSON (`["a", "b"]`), as Python prints it
(`['a', 'b']`, also of NumPy's texts, `[np.str_('a')]`) or as NumPy does (`['a' 'b']`),
which is what pandas writes.
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
# How a list begins that holds text, perhaps within lists, objects, bytes or calls.
LISTED = re.compile(r"\[[\s\[{(]*(?:b|u|r|(?:np|numpy)\.\w+\()?['\"]")
BROKEN = "captions look like lists but cannot be read as such, taken as they are"


def may_be(text: str) -> bool:
    """Whether a text may spell a list, by its beginning; quick, for many texts."""
    return text.lstrip().startswith(("[", "(", "array(", "np.", "numpy."))


def spelt(text: str) -> list[str | None] | None:
    """The list that a text spells, None if it spells none.

    A list is one of texts, and of None; brackets around anything else are a caption's
    own.
    """
    text = text.strip()
    opening = OPENING.match(text)
    if not opening:
        return None
    if text[0] == "[":
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            pass
        else:
            good = all(one is None or isinstance(one, str) for one in found)
            return found if good else None
    return _printed(text, opening)


def _printed(text: str, opening: re.Match[str]) -> list[str | None] | None:
    """A list or tuple as Python and NumPy print it."""
    found, at, commas = [], opening.end(), 0
    while item := ITEM.match(text, at):
        try:
            found.append(ast.literal_eval(item["text"]) if item["text"] else None)
        except (ValueError, SyntaxError):
            return None
        between = BETWEEN.match(text, item.end())
        assert between  # it matches nothing as well
        commas += len(between[1])
        at = between.end()
    closing = CLOSING.fullmatch(text, at)
    if not closing or "[(".index(opening[1]) != "])".index(closing[1]):
        return None
    if bool(closing[2]) != text[0].isalpha():
        return None
    # A tuple has a comma; without one it is a caption in brackets.
    return None if opening[1] == "(" and found and not commas else found


def is_broken(text: str, spelt: list[str | None] | None) -> bool:
    """Whether a text begins as a list of texts, but is none that can be read."""
    if spelt is not None or not may_be(text):
        return False
    opening = OPENING.match(text.lstrip())
    return bool(opening and LISTED.match(text.lstrip(), opening.start(1)))


def of(value: Any) -> list[Any]:
    """The captions in a value of a table or of JSON, blank and wrong ones among them.

    [] for null; a text, or what its list spells; the members of a list.
    """
    found = spelt(value) if isinstance(value, str) else None
    return members(value) if found is None else list(found)


def members(value: Any) -> list[Any]:
    """As `of`, but a text that spells a list is left as it is."""
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def blank(caption: Any) -> bool:
    """Whether a caption says nothing: null, or a text of white space."""
    return caption is None or (isinstance(caption, str) and not caption.strip())
