"""How usual a text is, without any image: the text-only baseline of caption choice."""

from __future__ import annotations

import collections
import functools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from clipjax.evals.common.caption_words import words

_PRIOR = 1.0  # words' worth of the unigram model that a bigram's counts are mixed with
_EDGE = ""  # before the first word, and after the last


class _Counts(NamedTuple):
    """pairs: (word, the next) -> how often. before, after: of either side of a pair.
    total: of all pairs.
    """

    pairs: Mapping[tuple[str, str], int]
    before: Mapping[str, int]
    after: Mapping[str, int]
    total: int


class Bigrams:
    """A model of the captions of all images but one, which has no part in it.

    The image's own captions are left out, since they describe the picture that the
    baseline must not know. A word's probability after another is (pairs + _PRIOR *
    share) / (that other word's number + _PRIOR); the share of a word among all is
    (number + 1) / (all + distinct ones + 1), so that new words have one, too.

    Args:
      captions: image -> its captions.

    >>> model = Bigrams({0: ["a dog runs"], 1: ["a cat runs"], 2: ["a cat sleeps"]})
    >>> usual, odd = (model.log_likelihood(x, 0) for x in ("a cat runs", "cat a runs"))
    >>> usual > odd
    True
    """

    def __init__(self, captions: Mapping[int, Sequence[str]]):
        self._all = _count(text for own in captions.values() for text in own)
        self._total = self._all.total
        self._kinds = len(self._all.after) + 1
        self._own = functools.lru_cache(maxsize=1)(lambda at: _count(captions[at]))

    def log_likelihood(self, text: str, image: int) -> float:
        """The natural logarithm of a text's probability, its end included; the captions
        of `image` do not count. It is exact to rounding, whatever the words' order.
        """
        everything, own = self._all, self._own(image)
        total = self._total - own.total + self._kinds
        logs = []
        for pair in _pairs(text):
            before, after = pair
            count = everything.pairs.get(pair, 0) - own.pairs.get(pair, 0)
            context = everything.before.get(before, 0) - own.before.get(before, 0)
            number = everything.after.get(after, 0) - own.after.get(after, 0)
            share = (number + 1) / total
            logs.append(math.log((count + _PRIOR * share) / (context + _PRIOR)))
        return math.fsum(logs)


def _count(texts: Iterable[str]) -> _Counts:
    pairs = collections.Counter(pair for text in texts for pair in _pairs(text))
    before, after = collections.Counter[str](), collections.Counter[str]()
    for (first, second), count in pairs.items():
        before[first] += count
        after[second] += count
    return _Counts(dict(pairs), dict(before), dict(after), pairs.total())


def _pairs(text: str) -> Iterator[tuple[str, str]]:
    found = words(text)
    return zip((_EDGE, *found), (*found, _EDGE), strict=True)
