"""Expands braces in options' patterns, as a shell does."""

from __future__ import annotations

import itertools
import re

from clipjax import registry
from clipjax.types import UserError

RANGE = re.compile(r"(\d+)\.\.(\d+)(?:\.\.(\d+))?")
LETTERS = re.compile(r"([a-z])\.\.([a-z])|([A-Z])\.\.([A-Z])")
MAX_NAMES = 1_000_000  # that one pattern stands for
MAX_CHARACTERS = 2**28  # of all its names
MAX_DEPTH = 10  # of nested braces


def expand(pattern: str, option: str = "shards") -> list[str]:
    """`a{08..10}` -> a08, a09, a10; `{a,b{0..2..2}}` -> a, b0, b2; several multiply.
    `{a..c}` -> a, b, c.

    Braces that hold neither a range nor a comma are part of the name.

    Raises UserError for a range that runs backwards, for more than MAX_NAMES names, and
    for braces nested deeper than MAX_DEPTH.
    """
    depth = list(itertools.accumulate({"{": 1, "}": -1}.get(c, 0) for c in pattern))
    if depth and max(depth) - min(0, *depth) > MAX_DEPTH:
        raise UserError(
            f"{option}={registry.short_repr(pattern)}: its braces are more than "
            f"{MAX_DEPTH} deep"
        )
    return _expand(pattern, pattern, option)


def _expand(part: str, pattern: str, option: str) -> list[str]:
    names = [""]
    while (braces := _first_braces(part)) is not None:
        start, end, parts = braces
        if len(parts) == 1:
            choices = _range(parts[0], len(names), pattern, option)
        else:
            choices = []
            for inner in parts:
                choices += _expand(inner, pattern, option)
                _check(len(names) * len(choices), pattern, option)
        before, part = part[:start], part[end:]
        names = [f"{name}{before}{choice}" for name in names for choice in choices]
    return [name + part for name in names]


def _range(text: str, times: int, pattern: str, option: str) -> list[str]:
    """Expands a range, which is repeated `times` times in the result."""
    if match := LETTERS.fullmatch(text):
        first, last = (ord(letter) for letter in match.groups() if letter)
        if last >= first:
            _check((last - first + 1) * times, pattern, option)
            return [chr(code) for code in range(first, last + 1)]
    elif match := RANGE.fullmatch(text):
        if max(map(len, filter(None, match.groups()))) > 18:
            raise UserError(
                f"{option}={registry.short_repr(pattern)}: its numbers are long"
            )
        first, last, step = (int(group or 1) for group in match.groups())
        if last >= first:
            numbers = range(first, last + 1, max(1, step))
            _check(len(numbers) * times, pattern, option)
            return [str(n).zfill(len(match[1])) for n in numbers]
    raise UserError(
        f"{option}={registry.short_repr(pattern)}: the range {{{text}}} runs backwards"
    )


def _check(count: int, pattern: str, option: str) -> None:
    limit = min(MAX_NAMES, MAX_CHARACTERS // max(len(pattern), 1))
    if count > limit:
        raise UserError(
            f"{option}={registry.short_repr(pattern)}: it stands for {count:,} names, "
            f"more than {limit:,}"
        )


def _first_braces(pattern: str) -> tuple[int, int, list[str]] | None:
    """Returns (start, end, parts) of the first braces with a range or alternatives."""
    for start, letter in enumerate(pattern):
        if letter != "{":
            continue
        depth, begin, parts = 0, start + 1, []
        for i in range(start, len(pattern)):
            depth += {"{": 1, "}": -1}.get(pattern[i], 0)
            if depth == 0 or (depth == 1 and pattern[i] == ","):
                parts.append(pattern[begin:i])
                begin = i + 1
            if depth == 0:
                if len(parts) > 1 or _is_range(parts[0]):
                    return start, i + 1, parts
                break
    return None


def _is_range(text: str) -> bool:
    return bool(RANGE.fullmatch(text) or LETTERS.fullmatch(text))
