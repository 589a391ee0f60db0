"""Texts of which a tokenizer loses something, counted before they are used.

Words that it does not know, ends that it cuts off, and different texts that become the
same ids, which no model can tell apart.
"""

from __future__ import annotations

import dataclasses
import math
import os
import time
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import regex

from clipjax.data.text import cleaning
from clipjax.types import BadExample, Source, Tokenizer

LIMIT = 20_000  # items counted at most
SECONDS = 3.0  # and no longer than this, since reading captions may be slow
AT_ONCE = 256  # items tokenized together, examples read in a row
SHOWN = 60  # characters of a text in a message
GOLDEN = (math.sqrt(5) - 1) / 2

# Texts that differ in these alone, or in case, are alike on purpose.
ASIDE = regex.compile(r"[!-/:-@\[-`{-~\p{P}\p{Z}\p{C}]+")
LAST = regex.compile(r"\w\W*$")

Item = Sequence[str]  # what is to be told from others: a caption; a class's prompts


@dataclasses.dataclass
class Lost:
    """What was counted; each example is of the first such item.

    total: items there are; counted: of them. different: items that differ in more than
    case and punctuation; alike: of these, that have the ids of another; rows: different
    ids. unknown, cut: items with an unknown word, and a text cut at the context_length.
    """

    total: int
    counted: int = 0
    different: int = 0
    alike: int = 0
    rows: int = 0
    unknown: int = 0
    cut: int = 0
    alike_example: tuple[str, str] = ("", "")
    unknown_example: tuple[str, str] = ("", "")
    cut_example: str = ""

    @property
    def all_alike(self) -> bool:
        """Whether nothing tells any of several different items from the others."""
        return self.different > 1 and self.rows == 1

    def lines(self, what: str, tokenizer: str, context_length: int) -> list[str]:
        """One line for each kind of loss that there is.

        what: the items are ("training captions"). tokenizer: its name.
        """
        sample = ""
        if self.counted < self.total:
            sample = f", of a sample of {self.counted:,} of all {self.total:,}"
        found = []
        if self.unknown:
            word, one = self.unknown_example
            found.append(
                f"{what}: {self.unknown:,} of {self.counted:,} hold what "
                f"tokenizer={tokenizer} does not know, such as {_short(word)} in "
                f"{_short(one)}{sample}"
            )
        if self.cut:
            found.append(
                f"{what}: {self.cut:,} of {self.counted:,} are longer than "
                f"data.tokenizer.context_length={context_length} and are cut, such as "
                f"{_short(self.cut_example)}{sample}"
            )
        if self.alike:
            one, other = _short_pair(*self.alike_example)
            loud = "WARNING: " if 2 * self.alike >= self.different else ""
            fix = f"; {self.remedy(tokenizer)}" if loud else ""
            found.append(
                f"{loud}{what}: {self.alike:,} of {self.different:,} different ones "
                f"have the ids of another, such as {one} and {other}, which leaves "
                f"{self.rows:,} rows of ids{sample}{fix}"
            )
        return found

    def remedy(self, tokenizer: str) -> str:
        """What helps if texts become alike."""
        if self.cut > self.unknown:
            return "raise data.tokenizer.context_length"
        known = "bpe" if tokenizer != "bpe" else "clip_bpe"
        return f"choose a tokenizer that knows their words, such as tokenizer={known}"


def count(items: Iterable[Item], total: int, tokenizer: Tokenizer) -> Lost:
    """Counts up to LIMIT items, for SECONDS at most; total: how many there are."""
    lost = Lost(total)
    counter = _Counter(lost, tokenizer)
    end = time.monotonic() + SECONDS
    block: list[Item] = []
    for item in items:
        block.append(item)
        if len(block) == AT_ONCE:
            counter.add(block)
            block = []
            if lost.counted >= LIMIT or time.monotonic() > end:
                break
    counter.add(block)
    return lost


def captions(source: Source, indices: Sequence[int] | None = None) -> Iterator[Item]:
    """Each caption of a source, or of some examples; not of those that are broken.

    They come in an order whose every beginning is spread over all of them, but many in
    a row from one place, since some sources read such faster.
    """
    read = getattr(source, "captions_of", lambda index: source[index].captions)
    having = np.flatnonzero(source.caption_counts) if indices is None else indices
    for place in _spread(len(having)):
        try:
            found = read(int(having[place]))
        except BadExample:
            continue
        yield from ((one,) for one in found if isinstance(one, str))


def _spread(size: int) -> Iterator[int]:
    blocks = -(-size // AT_ONCE)
    stride = max(1, int(GOLDEN * blocks))
    while math.gcd(stride, blocks) > 1:
        stride += 1
    for number in range(blocks):
        start = number * stride % blocks * AT_ONCE
        yield from range(start, min(start + AT_ONCE, size))


class _Counter:
    def __init__(self, lost: Lost, tokenizer: Tokenizer):
        self._lost = lost
        self._tokenizer = tokenizer
        self._unknown = getattr(tokenizer, "unknown", None)
        self._folded: set[int] = set()
        self._rows: dict[int, tuple[int, str]] = {}  # -> items that have it, the first

    def add(self, items: Sequence[Item]) -> None:
        texts = [one for item in items for one in item]
        if not texts:
            return
        ids, mask = self._tokenizer(texts)
        cut = self._cut(texts, ids, mask)
        start = 0
        for item in items:
            rows = slice(start, start + len(item))
            start = rows.stop
            self._lost.counted += 1
            self._count_unknown(item)
            if cut[rows].any():
                self._lost.cut += 1
                longest = item[int(cut[rows].argmax())]
                self._lost.cut_example = self._lost.cut_example or longest
            self._count_alike(item, hash(ids[rows].tobytes()))

    def _count_unknown(self, item: Item) -> None:
        if self._unknown is None:
            return
        for one in item:
            if words := self._unknown(one):
                self._lost.unknown += 1
                if not self._lost.unknown_example[1]:
                    self._lost.unknown_example = words[0], one
                return

    def _count_alike(self, item: Item, row: int) -> None:
        folded = hash(tuple(map(_fold, item)))
        if folded in self._folded:
            return
        self._folded.add(folded)
        lost = self._lost
        lost.different += 1
        having, first = self._rows.get(row, (0, item[0]))
        self._rows[row] = having + 1, first
        lost.rows = len(self._rows)
        if having:
            lost.alike += 2 if having == 1 else 1
            if not lost.alike_example[1]:
                lost.alike_example = first, item[0]

    def _cut(
        self, texts: Sequence[str], ids: np.ndarray, mask: np.ndarray
    ) -> np.ndarray:
        """bool [b]: full rows that are the same without the text's last letter."""
        cut = np.zeros(len(texts), bool)
        full = np.flatnonzero(mask.all(axis=1)).tolist()
        if full:
            shorter, _ = self._tokenizer([LAST.sub("", texts[i]) for i in full])
            cut[full] = (shorter == ids[full]).all(axis=1)
        return cut


def _fold(one: str) -> str:
    """A text without what makes no other text of it."""
    cleaned = cleaning.clean(one)
    return ASIDE.sub(" ", cleaned).strip() or cleaned


def _short(one: str) -> str:
    return repr(one if len(one) <= SHOWN else one[: SHOWN - 3] + "...")


def _short_pair(one: str, other: str) -> tuple[str, str]:
    """Both from shortly before they differ."""
    start = len(os.path.commonprefix([one, other])) - SHOWN // 2
    if start <= 0:
        return _short(one), _short(other)
    return _short("..." + one[start:]), _short("..." + other[start:])
