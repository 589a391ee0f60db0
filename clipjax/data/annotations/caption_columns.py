"""Which columns of a table hold captions, by their names: one rule for tables, JSON and
parquet.

Names are compared without regard to case. The captions of an image may stand in several
columns: `caption` with `caption_2`, `caption` thrice, `caption_0` to `caption_4`, or
what a pattern such as `caption_*` names.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Collection, Iterable, Sequence

from clipjax.data.storage import brace_patterns

CAPTIONS = (
    *("captions", "caption", "comment", "txt", "text", "sentences_raw", "sentences"),
    *("sentence", "raw", "title", "description"),
)
# Whatever else is called so holds text that someone may miss: blip_caption, alt_text,
# caption_en.
LIKE_CAPTIONS = re.compile(
    r"(?:.*[_ .-])?(?:captions?|comments?|txt|texts?|sentences?(?:_raw)?|raw|titles?"
    r"|descriptions?|prompts?|alt)(?:[_ .-]?\d+)?"
    r"|(?:captions?|texts?|descriptions?)[_ .-](?:[a-z]{2}|[a-z]{2}[_-][a-z]{2}"
    r"|long|short|full|raw|clean|original|english|translated|generated)"
)
NOT_TEXT = re.compile(r".*[_ .-](?:id|no|nr)")
SPLITS = ("split", "splits", "subset", "partition")
NUMBERED = re.compile(r"(.+?)[_ .-]?\d+")  # caption_2, caption2, and pandas' caption.1


def find(names: Sequence[str], wanted: str, usual: Iterable[str]) -> int | None:
    """Where the wanted column is, or without a wish the first of the usual names."""
    if wanted and wanted in names:  # pandas writes its index below no name
        return names.index(wanted)
    lowered = [name.lower() for name in names]
    for name in (wanted.lower(),) if wanted else usual:
        if name in lowered:
            return lowered.index(name)
    return None


def captions(names: Sequence[str], wanted: str) -> list[list[int]]:
    """Groups of columns that hold captions, the best first; [] if there are none.

    wanted: a name, or a pattern with `*`; "" finds the usual ones. All columns of a
    group are captions of the same row.
    """
    lowered = [name.lower() for name in names]
    if wanted:
        exact = [i for i, name in enumerate(names) if _fits(name, wanted)]
        wanted = wanted.lower()
        found = exact or [i for i, name in enumerate(lowered) if _fits(name, wanted)]
        return [found] if found else []
    groups = []
    for stem in CAPTIONS:
        group = [
            i
            for i, name in enumerate(lowered)
            if name == stem
            or ((match := NUMBERED.fullmatch(name)) and match[1] == stem)
        ]
        if group:
            groups.append(group)
    return groups


def unused(names: Sequence[str], used: Collection[int]) -> list[str]:
    """Columns that are called as captions are but are none of the used ones.

    `caption` beside `captions` holds one of them, and is left aside.
    """
    stems = {_stem(names[i]) for i in used}
    return [
        name
        for i, name in enumerate(names)
        if i not in used
        and LIKE_CAPTIONS.fullmatch(name.lower())
        and not NOT_TEXT.fullmatch(name.lower())
        and _stem(name) not in stems
    ]


def splits(names: Sequence[str], used: Collection[int] = ()) -> list[str]:
    """Columns that are called as those that say the split are, but for the used ones.

    A division by anything else trains on what others test on.
    """
    found = [i for i, name in enumerate(names) if name.lower() in SPLITS]
    return [names[i] for i in found if i not in used]


def not_used(names: Iterable[str]) -> str:
    """What is said of such columns, after their number."""
    return f"columns with text that are not used ({', '.join(names)})"


def _fits(name: str, wanted: str) -> bool:
    return any(
        fnmatch.fnmatchcase(name, one) if "*" in one else name == one
        for one in brace_patterns.expand(wanted, "caption_column")
    )


def _stem(name: str) -> str:
    match = NUMBERED.fullmatch(name.lower())
    return (match[1] if match else name.lower()).rstrip("s")
