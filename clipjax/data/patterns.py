"""Braces in the patterns of options, as in a shell."""

from __future__ import annotations

import re

from clipjax.types import UserError

RANGE = re.compile(r"(\d+)\.\.(\d+)(?:\.\.(\d+))?")
MOST = 1_000_000  # names that one pattern stands for


def expand(pattern: str, option: str = "shards") -> list[str]:
    """`a{08..10}` -> a08, a09, a10; `{a,b{0..2..2}}` -> a, b0, b2; several multiply.

    Braces that hold neither a range nor a comma are part of the name.

    Raises UserError for a range that runs backwards, and for more names than MOST.
    """
    found = _braces(pattern)
    if found is None:
        return [pattern]
    start, end, parts = found
    if len(parts) == 1 and (match := RANGE.fullmatch(parts[0])):
        first, last, step = match.groups()
        if int(last) < int(first):
            raise UserError(
                f"{option}={pattern}: the range {{{match[0]}}} runs backwards"
            )
        numbers = range(int(first), int(last) + 1, max(1, int(step or 1)))
        _check(len(numbers), pattern, option)
        middle = [str(n).zfill(len(first)) for n in numbers]
    else:
        middle = [one for part in parts for one in expand(part, option)]
    tails = expand(pattern[end:], option)
    _check(len(middle) * len(tails), pattern, option)
    return [pattern[:start] + one + tail for one in middle for tail in tails]


def _check(count: int, pattern: str, option: str) -> None:
    if count > MOST:
        raise UserError(
            f"{option}={pattern}: it stands for {count:,} names, more than {MOST:,}"
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
                if len(parts) > 1 or RANGE.fullmatch(parts[0]):
                    return start, place + 1, parts
                break
    return None
