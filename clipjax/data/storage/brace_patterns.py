"""Braces in the patterns of options, as in a shell."""

from __future__ import annotations

import itertools
import re

from clipjax import registry
from clipjax.types import UserError

RANGE = re.compile(r"(\d+)\.\.(\d+)(?:\.\.(\d+))?")
LETTERS = re.compile(r"([a-z])\.\.([a-z])|([A-Z])\.\.([A-Z])")
MOST = 1_000_000  # names that one pattern stands for
LONGEST = 2**28  # characters of all of them
DEEPEST = 10  # braces in braces


def expand(pattern: str, option: str = "shards") -> list[str]:
    """`a{08..10}` -> a08, a09, a10; `{a,b{0..2..2}}` -> a, b0, b2; several multiply.
    `{a..c}` -> a, b, c.

    Braces that hold neither a range nor a comma are part of the name.

    Raises UserError for a range that runs backwards, for more names than MOST, and for
    braces more than DEEPEST deep.
    """
    depth = list(itertools.accumulate({"{": 1, "}": -1}.get(c, 0) for c in pattern))
    if depth and max(depth) - min(0, *depth) > DEEPEST:
        raise UserError(
            f"{option}={registry.shown(pattern)}: its braces are more than {DEEPEST} "
            "deep"
        )
    return _expand(pattern, pattern, option)


def _expand(part: str, pattern: str, option: str) -> list[str]:
    names = [""]
    while (found := _braces(part)) is not None:
        start, end, parts = found
        if len(parts) == 1:
            middle = _range(parts[0], len(names), pattern, option)
        else:
            middle = []
            for inner in parts:
                middle += _expand(inner, pattern, option)
                _check(len(names) * len(middle), pattern, option)
        before, part = part[:start], part[end:]
        names = [f"{name}{before}{one}" for name in names for one in middle]
    return [name + part for name in names]


def _range(text: str, times: int, pattern: str, option: str) -> list[str]:
    """What a range stands for, which is written so often (`times`)."""
    if match := LETTERS.fullmatch(text):
        first, last = (ord(letter) for letter in match.groups() if letter)
        if last >= first:
            _check((last - first + 1) * times, pattern, option)
            return [chr(code) for code in range(first, last + 1)]
    elif match := RANGE.fullmatch(text):
        if max(map(len, filter(None, match.groups()))) > 18:
            raise UserError(f"{option}={registry.shown(pattern)}: its numbers are long")
        first, last, step = (int(group or 1) for group in match.groups())
        if last >= first:
            numbers = range(first, last + 1, max(1, step))
            _check(len(numbers) * times, pattern, option)
            return [str(n).zfill(len(match[1])) for n in numbers]
    raise UserError(
        f"{option}={registry.shown(pattern)}: the range {{{text}}} runs backwards"
    )


def _check(count: int, pattern: str, option: str) -> None:
    most = min(MOST, LONGEST // max(len(pattern), 1))
    if count > most:
        raise UserError(
            f"{option}={registry.shown(pattern)}: it stands for {count:,} names, more "
            f"than {most:,}"
        )


def _braces(pattern: str) -> tuple[int, int, list[str]] | None:
    """(start, end, parts) of the first braces that hold a range or alternatives."""
    for start, letter in enumerate(pattern):
        if letter != "{":
            continue
        depth, begin, parts = 0, start + 1, []
        for place in range(start, len(pattern)):
            depth += {"{": 1, "}": -1}.get(pattern[place], 0)
            if depth == 0 or (depth == 1 and pattern[place] == ","):
                parts.append(pattern[begin:place])
                begin = place + 1
            if depth == 0:
                if len(parts) > 1 or _is_range(parts[0]):
                    return start, place + 1, parts
                break
    return None


def _is_range(text: str) -> bool:
    return bool(RANGE.fullmatch(text) or LETTERS.fullmatch(text))
