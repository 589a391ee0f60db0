"""Surveys a source: reads every example once, counts and measures."""

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
    """A source's counts. Lists have one entry per usable example, or per caption.

    wide, high, size: the upright images' pixels, and their bytes (0 for arrays).
    formats: images per format. labels: label set -> images per class. captions:
    captions per example. words, letters: numbers per caption. blank: number of captions
    with only spaces. repeated: number of captions that repeat an earlier one. others:
    name -> dtype and shape. problems: the source's own messages about left-out data.
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
    """One example's measurements, small enough to keep many."""

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

    decode: decode the images fully, which finds every broken one. False reads only
    their headers, which is about ten times faster.
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

    result = Survey(
        examples=len(source),
        problems=list(getattr(source, "problems", ())),
        class_names={name: list(names) for name, names in source.class_names.items()},
    )
    for name, names in result.class_names.items():
        result.labels[name] = np.zeros(len(names), np.int64)
    seen: set[int] = set()
    for index, facts in reading.each(source, range(len(source)), look, threads):
        if isinstance(facts, _Facts):
            facts = _count(result, facts, index, seen)
        if isinstance(facts, Broken):
            result.broken.append(facts)
        if progress is not None:
            progress(index + 1, len(source))
    return result


def _count(result: Survey, facts: _Facts, index: int, seen: set[int]) -> Broken | None:
    """Adds an example to the counts; `Broken` if its modalities differ from others'."""
    if result.wide and facts.others != result.others:
        return Broken(
            f"example {index}",
            f"its other modalities are {facts.others}, others' are {result.others}",
        )
    result.others = facts.others
    result.wide.append(facts.wide)
    result.high.append(facts.high)
    result.size.append(facts.size)
    result.formats[facts.format] += 1
    result.captions.append(len(facts.captions))
    for caption in facts.captions:
        result.words.append(len(re.findall(r"\w+", caption)))
        result.letters.append(len(caption))
        result.blank += not caption.strip()
        digest = hash(caption)
        result.repeated += digest in seen
        seen.add(digest)
    for name in result.labels:
        if name in facts.labels:
            result.labels[name][facts.labels[name]] += 1
        else:
            result.unlabelled[name] += 1
    return None


def usable(result: Survey) -> int:
    """The number of usable examples."""
    return len(result.wide)


def spread(values: list[int] | np.ndarray) -> tuple[float, ...]:
    """Smallest, 5 %, median, 95 % and largest value; () for no values."""
    if not len(values):
        return ()
    return tuple(float(v) for v in np.percentile(values, (0, 5, 50, 95, 100)))
