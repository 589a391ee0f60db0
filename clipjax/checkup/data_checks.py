"""The first examples of a run's data: can they be read, and are they as they should."""

from __future__ import annotations

import collections
from collections.abc import Iterator

import ftfy.badness

from clipjax.checkup.findings import Finding, error, ok, warning
from clipjax.data.images import decoding
from clipjax.data.prepare import reading
from clipjax.data.prepare.reading import Broken
from clipjax.types import Example, Source

FIRST = 200
_MANY = 0.1  # share of examples from which on something is an error


def first_examples(
    source: Source, flag: str, image_size: int, threads: int
) -> Iterator[Finding]:
    """flag: of the section, such as data.train. image_size: of the model, in pixels."""
    count = min(len(source), FIRST)

    def look(index: int, example: Example) -> tuple[tuple[int, int], tuple[str, ...]]:
        decoding.decode(example.image)
        return decoding.size(example.image), tuple(example.captions)

    broken, sizes, captions = [], [], []
    for _, found in reading.each(source, range(count), look, threads):
        if isinstance(found, Broken):
            broken.append(found)
        else:
            sizes.append(found[0])
            captions += found[1]
    yield from problems(source, flag)
    told = f"{flag}: {count - len(broken)} of the first {count} examples are whole"
    if broken:
        kind = error if len(broken) > _MANY * count else warning
        yield kind(
            f"{told}; {broken[0].line()}",
            "repair or leave them out; python -m clipjax.prepare verify lists all",
        )
    else:
        yield ok(f"{told}, of {len(source):,}")
    yield from _captions(captions, flag)
    small = sum(min(size) < image_size // 2 for size in sizes)
    if small > _MANY * len(sizes):
        yield warning(
            f"{flag}: {small} of {len(sizes)} images are smaller than half of "
            f"data.image_size={image_size}",
            "they are enlarged: a smaller --config.data.image_size is faster",
        )


def problems(source: Source, flag: str) -> Iterator[Finding]:
    """What a source says of data that it leaves out."""
    for line in getattr(source, "problems", ()):
        yield warning(
            f"{flag}: {line}", "text must be UTF-8; docs/data.md has the formats"
        )


def _captions(captions: list[str], flag: str) -> Iterator[Finding]:
    if not captions:
        return
    wrong = [one for one in captions if _is_bad(one)]
    if wrong:
        kind = error if len(wrong) > _MANY * len(captions) else warning
        yield kind(
            f"{flag}: {len(wrong)} of {len(captions)} captions look like text of "
            f"another encoding, as {wrong[0][:60]!r}",
            "write them anew as UTF-8 (iconv -f ENCODING -t UTF-8), or repair them by "
            "ftfy.fix_text",
        )
    blank = sum(not one.strip() for one in captions)
    if blank:
        yield warning(
            f"{flag}: {blank} of {len(captions)} captions are blank", "fill them"
        )
    text, times = collections.Counter(captions).most_common(1)[0]
    if len(captions) >= 20 and times > len(captions) / 2:
        yield warning(
            f"{flag}: {times} of {len(captions)} captions are {text[:60]!r}",
            "see that the right column is read",
        )


def _is_bad(text: str) -> bool:
    """Whether a text was read in another encoding than it was written in."""
    return "\N{REPLACEMENT CHARACTER}" in text or ftfy.badness.is_bad(text)
