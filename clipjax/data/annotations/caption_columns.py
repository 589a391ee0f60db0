"""Finds the columns that hold captions by their names, for tables, JSON and parquet.

Case is ignored. An image's captions may be in several columns: `caption` with
`caption_2`, `caption` three times, `caption_0` to `caption_4`, or all that match a
pattern such as `caption_*`.
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
# Other columns with such names hold text that a user may miss: blip_caption, alt_text,
# caption_en. Messages name them.
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
    """Returns the index of the wanted column, or of the first usual one for ""."""
    if wanted and wanted in names:  # pandas names its index ""
        return names.index(wanted)
    lowered = [name.lower() for name in names]
    for name in (wanted.lower(),) if wanted else usual:
        if name in lowered:
            return lowered.index(name)
    return None


def captions(names: Sequence[str], wanted: str) -> list[list[int]]:
    """Returns groups of columns that hold captions, best first; [] if there are none.

    wanted: a name, or a pattern with `*`; "" finds the usual ones. All columns in a
    group hold captions of the same row.
    """
    lowered = [name.lower() for name in names]
    if wanted:
        exact = [i for i, name in enumerate(names) if _fits(name, wanted)]
        wanted = wanted.lower()
        columns = exact or [i for i, name in enumerate(lowered) if _fits(name, wanted)]
        return [columns] if columns else []
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


def unused_columns(names: Sequence[str], used: Collection[int]) -> list[str]:
    """Returns the columns with a caption's name that are not used.

    A `caption` next to `captions` repeats one of them, so it does not count.
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
    """Returns the columns with a split's name that are not used.

    A different split may train on the published test examples.
    """
    columns = [i for i, name in enumerate(names) if name.lower() in SPLITS]
    return [names[i] for i in columns if i not in used]


def describe_unused(names: Iterable[str]) -> str:
    """Describes unused columns, for a message that begins with their number."""
    return f"columns with text that are not used ({', '.join(names)})"


def _fits(name: str, wanted: str) -> bool:
    return any(
        fnmatch.fnmatchcase(name, alternative)
        if "*" in alternative
        else name == alternative
        for alternative in brace_patterns.expand(wanted, "caption_column")
    )


def _stem(name: str) -> str:
    match = NUMBERED.fullmatch(name.lower())
    return (match[1] if match else name.lower()).rstrip("s")
