"""Wrong captions by rule: the words of a right caption in another order.

- shuffle: all words, in a random order.
- swap_words: two different words change places.
- swap_nouns: two nouns of one number do, "a dog chases a man" -> "a man chases a dog";
  not those that only words such as "and" or "near" link.
- swap_attributes: two attributes of one kind and of different nouns do, "a red car near
  a blue house" -> "a blue car near a red house".
- shuffle_trigrams: each three words stay together, in a random order of these.
- shuffle_in_trigrams: each three words stay in their place, in a random order.

The last two are orders of ARO (2210.01936), which counts punctuation as words.

Nouns and attributes are common English ones (caption_words.py), and a swap of them
leaves "a" and "an" right. A wrong caption has all the words of the right one, so a
model that is blind to word order cannot tell the two apart. It is a function of the
seed, the rule and the captions of the image alone. No rule understands the picture: a
wrong caption may happen to be true of it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import accumulate

from clipjax.evals.common.caption_words import (
    ATTRIBUTES,
    LINKS,
    NOUNS,
    WORD,
    meaning,
    takes_an,
    words,
)

# Of orders that may all say the same, as those of repeated words, not all are tried, so
# that long texts end too.
_TRIES = 200  # orders that `shuffle` draws, fewer of more than 5,000 words
_SHUFFLED = 2**20  # words
_PAIRS = 2**16  # of words that a swap looks at: all of 256
_JOINS = frozenset(("and", "or"))

# The words of a caption -> orders of them, in a random order, as their places.
Rule = Callable[[Sequence[str], random.Random], Iterator[list[int]]]


def make(
    caption: str, rule: str, seed: int, right: Collection[tuple[str, ...]]
) -> str | None:
    """A wrong caption, or None if the rule finds none.

    Punctuation stays in its place, and so does a capital at the start.

    Args:
      rule: of RULES. right: what the wrong caption must not say, as `words` of texts.

    >>> make("A dog chases a man.", "swap_nouns", 0, [words("A dog chases a man.")])
    'A man chases a dog.'
    """
    plain = words(caption)
    # Text may hold surrogates, which "utf-8" alone refuses.
    key = f"{seed} {rule} {caption}".encode("utf-8", "surrogatepass")
    for order in RULES[rule](plain, random.Random(key)):
        if tuple(plain[i] for i in order) not in right:
            return _written(caption, order)
    return None


def _written(caption: str, order: Sequence[int]) -> str:
    """The caption with its words in another order."""
    matches = list(WORD.finditer(caption))
    new = [matches[i][0] for i in order]
    if order[0] and matches[0][0][:1].isupper() and caption != caption.upper():
        old = order.index(0)
        new[old] = new[old][:1].lower() + new[old][1:]
        new[0] = new[0][:1].upper() + new[0][1:]
    parts, end = [], 0
    for match, word in zip(matches, new, strict=True):
        parts += [caption[end : match.start()], word]
        end = match.end()
    return "".join([*parts, caption[end:]])


def _tries(plain: Sequence[str]) -> int:
    if len(set(plain)) < 2:
        return 0
    return max(1, min(_TRIES, _SHUFFLED // len(plain)))


def _shuffle(plain: Sequence[str], rng: random.Random) -> Iterator[list[int]]:
    for _ in range(_tries(plain)):
        yield rng.sample(range(len(plain)), len(plain))


def _shuffle_trigrams(plain: Sequence[str], rng: random.Random) -> Iterator[list[int]]:
    trigrams = _trigrams(plain)
    for _ in range(_tries(plain)):
        parts = rng.sample(trigrams, len(trigrams))
        yield [place for part in parts for place in part]


def _shuffle_in_trigrams(
    plain: Sequence[str], rng: random.Random
) -> Iterator[list[int]]:
    for _ in range(_tries(plain)):
        parts = [rng.sample(part, len(part)) for part in _trigrams(plain)]
        yield [place for part in parts for place in part]


def _trigrams(plain: Sequence[str]) -> list[range]:
    """The places of each three words; the last may be fewer."""
    return [range(i, min(i + 3, len(plain))) for i in range(0, len(plain), 3)]


def _swap_words(plain: Sequence[str], rng: random.Random) -> Iterator[list[int]]:
    return _swaps(plain, range(len(plain)), rng, lambda first, second: True)


def _swap_nouns(plain: Sequence[str], rng: random.Random) -> Iterator[list[int]]:
    # How many of the words up to each link no nouns.
    apart = list(accumulate(x not in LINKS and x not in NOUNS for x in plain))

    def may(first: int, second: int) -> bool:
        return (
            NOUNS[plain[first]] == NOUNS[plain[second]]
            and meaning(plain[first]) != meaning(plain[second])
            and apart[first] < apart[second]
            and _articles_fit(plain, first, second)
        )

    places = [i for i, word in enumerate(plain) if word in NOUNS]
    return _swaps(plain, places, rng, may)


def _swap_attributes(plain: Sequence[str], rng: random.Random) -> Iterator[list[int]]:
    described = _described(plain)

    def may(first: int, second: int) -> bool:
        nouns = described[first], described[second]
        return (
            ATTRIBUTES[plain[first]] == ATTRIBUTES[plain[second]]
            and meaning(plain[first]) != meaning(plain[second])
            and None not in nouns
            and nouns[0] != nouns[1]
            and _articles_fit(plain, first, second)
        )

    places = [i for i, word in enumerate(plain) if word in ATTRIBUTES]
    return _swaps(plain, places, rng, may)


RULES: dict[str, Rule] = {
    "shuffle": _shuffle,
    "swap_words": _swap_words,
    "swap_nouns": _swap_nouns,
    "swap_attributes": _swap_attributes,
    "shuffle_trigrams": _shuffle_trigrams,
    "shuffle_in_trigrams": _shuffle_in_trigrams,
}
# Those in use unless others are named.
USUAL = ("shuffle", "swap_words", "swap_nouns", "swap_attributes")


def _swaps(
    plain: Sequence[str],
    places: Sequence[int],
    rng: random.Random,
    may: Callable[[int, int], bool],
) -> Iterator[list[int]]:
    """The orders with two different words exchanged, each such pair as likely.

    Of the pairs of many places, _PAIRS are looked at.
    """
    left = _PAIRS
    for one in rng.sample(places, len(places)):
        for other in rng.sample(places, len(places)):
            if not left:
                return
            left -= 1
            first, second = sorted((one, other))
            if plain[first] != plain[second] and may(first, second):
                order = list(range(len(plain)))
                order[first], order[second] = second, first
                yield order


def _articles_fit(plain: Sequence[str], first: int, second: int) -> bool:
    """Whether "a" and "an" are right before two words that change places."""
    for place, new in ((first, plain[second]), (second, plain[first])):
        before = plain[place - 1] if place else ""
        if before in ("a", "an") and takes_an(new) != (before == "an"):
            return False
    return True


def _described(plain: Sequence[str]) -> list[str | None]:
    """Of each place the word that an attribute there belongs to: the next that is no
    attribute or "and".
    """
    found: list[str | None] = [None] * len(plain)
    following = None
    for place in reversed(range(len(plain))):
        found[place] = following
        if plain[place] not in ATTRIBUTES and plain[place] not in _JOINS:
            following = plain[place]
    return found
