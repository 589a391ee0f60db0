"""Counts the texts that a tokenizer does not represent fully, before they are used.

These are texts with unknown words, truncated texts, and different texts with the same
ids, which no model can tell apart.
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
SECONDS = 3.0  # time limit of the count, because reading captions may be slow
AT_ONCE = 256  # items tokenized together, consecutive examples read
SHOWN = 60  # characters of a text in a message
GOLDEN = (math.sqrt(5) - 1) / 2

# Texts that differ only in these, or in case, are not counted as different.
ASIDE = regex.compile(r"[!-/:-@\[-`{-~\p{P}\p{Z}\p{C}]+")
LAST = regex.compile(r"\w\W*$")

Item = Sequence[str]  # one caption, or one class's prompts


@dataclasses.dataclass
class Lost:
    """The counts; each example is the first such item.

    total: all items. counted: items looked at. different: counted items that differ in
    more than case and punctuation. alike: different items that share their ids with
    another. rows: distinct rows of ids. unknown: items with an unknown word. cut: items
    with a text truncated at the context_length.
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
        """Whether several different items all have the same ids."""
        return self.different > 1 and self.rows == 1

    def lines(self, what: str, tokenizer: str, context_length: int) -> list[str]:
        """One line per kind of loss.

        what: a name for the items ("training captions"). tokenizer: its name.
        """
        sample = ""
        if self.counted < self.total:
            sample = f", of a sample of {self.counted:,} of all {self.total:,}"
        lines = []
        if self.unknown:
            word, text = self.unknown_example
            lines.append(
                f"{what}: {self.unknown:,} of {self.counted:,} have text that "
                f"tokenizer={tokenizer} does not know, such as {_short(word)} in "
                f"{_short(text)}{sample}"
            )
        if self.cut:
            lines.append(
                f"{what}: {self.cut:,} of {self.counted:,} are longer than "
                f"data.tokenizer.context_length={context_length} and are truncated, "
                f"such as {_short(self.cut_example)}{sample}"
            )
        if self.alike:
            first, second = _short_pair(*self.alike_example)
            warning = "WARNING: " if 2 * self.alike >= self.different else ""
            fix = f"; {self.remedy(tokenizer)}" if warning else ""
            lines.append(
                f"{warning}{what}: {self.alike:,} of {self.different:,} different ones "
                f"share their ids with another, such as {first} and {second}, which "
                f"leaves {self.rows:,} rows of ids{sample}{fix}"
            )
        return lines

    def remedy(self, tokenizer: str) -> str:
        """The advice if different texts share their ids."""
        if self.cut > self.unknown:
            return "raise data.tokenizer.context_length"
        known = "bpe" if tokenizer != "bpe" else "clip_bpe"
        return f"choose a tokenizer that knows their words, such as tokenizer={known}"


def count(items: Iterable[Item], total: int, tokenizer: Tokenizer) -> Lost:
    """Counts up to LIMIT of `total` items, for SECONDS at most."""
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
    """Yields each caption of a source, or of some examples; skips broken examples.

    Blocks of consecutive examples come in a spread-out order, so that any first part
    is a sample of all. Blocks, because some sources read neighbours faster.
    """
    read = getattr(source, "captions_of", lambda index: source[index].captions)
    examples = np.flatnonzero(source.caption_counts) if indices is None else indices
    for position in _spread(len(examples)):
        try:
            texts = read(int(examples[position]))
        except BadExample:
            continue
        yield from ((text,) for text in texts if isinstance(text, str))


class Captions(Iterable[Item]):
    """The captions of some examples; equal to those of the same examples of a source,
    so that they are counted once for several evaluators.
    """

    def __init__(self, source: Source, indices: Sequence[int]):
        self._source = source
        self._indices = indices

    def __iter__(self) -> Iterator[Item]:
        return captions(self._source, self._indices)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Captions) or other._source is not self._source:
            return False
        return np.array_equal(other._indices, self._indices)

    __hash__ = None  # type: ignore[assignment]  # no key: indices may be a list


def of_evaluator(
    source: Source, indices: Sequence[int]
) -> dict[str, tuple[Iterable[Item], int]]:
    """The captions of some examples, as types.Evaluator.texts gives them."""
    count = int(source.caption_counts[indices].sum())
    return {"captions": (Captions(source, indices), count)}


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
        self._rows: dict[int, tuple[int, str]] = {}  # hash -> (items, first of them)

    def add(self, items: Sequence[Item]) -> None:
        texts = [text for item in items for text in item]
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
        for text in item:
            if words := self._unknown(text):
                self._lost.unknown += 1
                if not self._lost.unknown_example[1]:
                    self._lost.unknown_example = words[0], text
                return

    def _count_alike(self, item: Item, row: int) -> None:
        folded = hash(tuple(map(_fold, item)))
        if folded in self._folded:
            return
        self._folded.add(folded)
        lost = self._lost
        lost.different += 1
        earlier, first = self._rows.get(row, (0, item[0]))
        self._rows[row] = earlier + 1, first
        lost.rows = len(self._rows)
        if earlier:
            lost.alike += 2 if earlier == 1 else 1
            if not lost.alike_example[1]:
                lost.alike_example = first, item[0]

    def _cut(
        self, texts: Sequence[str], ids: np.ndarray, mask: np.ndarray
    ) -> np.ndarray:
        """bool [b]: full rows that stay the same without the text's last letter."""
        cut = np.zeros(len(texts), bool)
        full = np.flatnonzero(mask.all(axis=1)).tolist()
        if full:
            shorter, _ = self._tokenizer([LAST.sub("", texts[i]) for i in full])
            cut[full] = (shorter == ids[full]).all(axis=1)
        return cut


def _fold(text: str) -> str:
    """A text without case and punctuation; texts that fold alike are the same."""
    cleaned = cleaning.clean(text)
    return ASIDE.sub(" ", cleaned).strip() or cleaned


def _short(text: str) -> str:
    return repr(text if len(text) <= SHOWN else text[: SHOWN - 3] + "...")


def _short_pair(first: str, second: str) -> tuple[str, str]:
    """Both texts, from shortly before they differ."""
    start = len(os.path.commonprefix([first, second])) - SHOWN // 2
    if start <= 0:
        return _short(first), _short(second)
    return _short("..." + first[start:]), _short("..." + second[start:])
