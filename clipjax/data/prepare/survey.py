"""What a source holds: every example read once, counted and measured."""

from __future__ import annotations

import collections
import dataclasses
import re
from collections.abc import Callable

import numpy as np

from clipjax.data.images import decoding
from clipjax.data.prepare import reading
from clipjax.data.prepare.reading import Broken
from clipjax.types import Example, Source

Progress = Callable[[int, int], None]


@dataclasses.dataclass
class Survey:
    """What was found. Lists have an entry for each usable example, or each caption.

    wide, high, size: of the images, upright, in pixels and bytes (0 for arrays).
    formats: how many images of each. labels: for each set, how many of each class.
    captions: how many of an example. words, letters: of a caption. blank: captions of
    nothing but spaces. repeated: captions that came before. others: name -> shape and
    type. problems: what the source itself left aside.
    """

    examples: int = 0
    broken: list[Broken] = dataclasses.field(default_factory=list)
    problems: list[str] = dataclasses.field(default_factory=list)
    wide: list[int] = dataclasses.field(default_factory=list)
    high: list[int] = dataclasses.field(default_factory=list)
    size: list[int] = dataclasses.field(default_factory=list)
    formats: collections.Counter = dataclasses.field(
        default_factory=collections.Counter
    )
    captions: list[int] = dataclasses.field(default_factory=list)
    words: list[int] = dataclasses.field(default_factory=list)
    letters: list[int] = dataclasses.field(default_factory=list)
    blank: int = 0
    repeated: int = 0
    class_names: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    labels: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    unlabelled: collections.Counter = dataclasses.field(
        default_factory=collections.Counter
    )
    others: dict[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class _Facts:
    """What one example tells, small enough to keep many."""

    wide: int
    high: int
    size: int
    format: str
    captions: tuple[str, ...]
    labels: dict[str, int]
    others: dict[str, str]


def survey(
    source: Source,
    *,
    decode: bool,
    threads: int,
    progress: Progress | None = None,
) -> Survey:
    """Reads every example of a source.

    decode: decode the images whole, which finds all that is broken; else their headers
    are read, which is some ten times faster.
    """

    def look(index: int, example: Example) -> _Facts:
        wide, high = decoding.size(example.image)
        if decode:
            decoding.decode(example.image)
        raw = isinstance(example.image, bytes)
        return _Facts(
            wide,
            high,
            len(example.image) if raw else 0,
            decoding.format_of(example.image) if raw else "array",
            tuple(example.captions),
            dict(example.labels),
            {n: f"{a.dtype} {list(a.shape)}" for n, a in example.others.items()},
        )

    found = Survey(
        examples=len(source),
        problems=list(getattr(source, "problems", ())),
        class_names={name: list(names) for name, names in source.class_names.items()},
    )
    for name, names in found.class_names.items():
        found.labels[name] = np.zeros(len(names), np.int64)
    seen: set[int] = set()
    for index, facts in reading.each(source, range(len(source)), look, threads):
        if isinstance(facts, _Facts):
            facts = _note(found, facts, index, seen)
        if isinstance(facts, Broken):
            found.broken.append(facts)
        if progress is not None:
            progress(index + 1, len(source))
    return found


def _note(found: Survey, facts: _Facts, index: int, seen: set[int]) -> Broken | None:
    """Counts an example in; returns what is wrong with it beside others."""
    if found.wide and facts.others != found.others:
        return Broken(
            f"example {index}",
            f"its other modalities are {facts.others}, others' are {found.others}",
        )
    found.others = facts.others
    found.wide.append(facts.wide)
    found.high.append(facts.high)
    found.size.append(facts.size)
    found.formats[facts.format] += 1
    found.captions.append(len(facts.captions))
    for caption in facts.captions:
        found.words.append(len(re.findall(r"\w+", caption)))
        found.letters.append(len(caption))
        found.blank += not caption.strip()
        digest = hash(caption)
        found.repeated += digest in seen
        seen.add(digest)
    for name in found.labels:
        if name in facts.labels:
            found.labels[name][facts.labels[name]] += 1
        else:
            found.unlabelled[name] += 1
    return None


def usable(found: Survey) -> int:
    """How many examples can be used."""
    return len(found.wide)


def spread(values: list[int] | np.ndarray) -> tuple[float, ...]:
    """Smallest, 5 %, median, 95 % and largest of some numbers; () of none."""
    if not len(values):
        return ()
    return tuple(float(v) for v in np.percentile(values, (0, 5, 50, 95, 100)))
