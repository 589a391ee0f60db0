"""The words of captions, and common English nouns and attributes among them."""

from __future__ import annotations

import collections
import functools
from collections.abc import Mapping

import regex

# A run of letters and digits, of any script; "don't" and "man-made" are one word.
WORD = regex.compile(r"[\p{L}\p{M}\p{N}]+(?:['’-][\p{L}\p{M}\p{N}]+)*")

ONE, MANY = "one", "many"  # a noun's numbers


@functools.lru_cache(maxsize=2**15)  # several rules ask for the same ones
def words(text: str) -> tuple[str, ...]:
    """A caption's words in order, without case and punctuation.

    >>> words("Two dogs, one man-made hill.")
    ('two', 'dogs', 'one', 'man-made', 'hill')
    """
    return tuple(match[0].casefold() for match in WORD.finditer(text))


def bag(text: str) -> Mapping[str, int]:
    """How often a caption has each word: what a model blind to word order sees."""
    return collections.Counter(words(text))


_PEOPLE = (
    "athlete baby biker boy boyfriend bride child climber cowboy cyclist dancer "
    "doctor driver father friend girl girlfriend groom guitarist guy hiker kid lady "
    "man mother musician officer player policeman runner sailor singer skateboarder "
    "skier snowboarder soldier student surfer swimmer teacher teenager toddler "
    "tourist waiter woman worker"
)
_ANIMALS = (
    "bear bird bull butterfly camel cat chicken cow dog donkey duck eagle elephant "
    "fish fox frog giraffe goat goose horse kitten lamb lion monkey mouse owl "
    "penguin pig pigeon puppy rabbit seagull sheep snake squirrel swan tiger turtle "
    "wolf zebra"
)
_THINGS = (
    "airplane apple backpack bag ball balloon banana basket bat bed bench bicycle "
    "bike blanket boat book boot bottle bowl box bus cake camera cap car chair "
    "clock coat computer couch cup desk dish door dress drum fence flag flower "
    "football fork frisbee fruit glove guitar hat helmet instrument jacket jersey "
    "kite knife lamp laptop leash microphone mirror motorcycle newspaper orange "
    "oven painting paddle phone piano picture pillow pizza plane plant plate pole "
    "raft rock rope sandwich scarf shirt shoe sign sink skateboard skirt sofa spoon "
    "statue stick stove suit surfboard sweater table teddy television tent tie "
    "toilet toothbrush towel toy train tray tree truck tube umbrella uniform van "
    "vase vest wagon wall window"
)
_PLACES = (
    "beach bridge building canyon church city cliff court field forest garden hill "
    "house kitchen lake mountain ocean park path playground pond pool porch ramp "
    "restaurant river road roof room sea shop sidewalk stage station store stream "
    "street tower town trail tunnel valley yard"
)
_SHAPES = "circle disc hoop ring square star triangle"
_IRREGULAR = {
    **{"child": "children", "fish": "fish", "goose": "geese", "knife": "knives"},
    **{"man": "men", "mouse": "mice", "policeman": "policemen"},
    **{"scarf": "scarves", "sheep": "sheep", "wolf": "wolves", "woman": "women"},
}


def _plural(noun: str) -> str:
    if noun in _IRREGULAR:
        return _IRREGULAR[noun]
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return f"{noun[:-1]}ies"
    return f"{noun}es" if noun.endswith(("s", "x", "ch", "sh")) else f"{noun}s"


def _nouns() -> dict[str, str]:
    singular = f"{_PEOPLE} {_ANIMALS} {_THINGS} {_PLACES} {_SHAPES}".split()
    found = {_plural(noun): MANY for noun in singular}
    found |= dict.fromkeys(singular, ONE)
    for noun, plural in _IRREGULAR.items():
        if noun == plural:  # sheep: its number cannot be told
            del found[noun]
    return found


# Noun -> ONE or MANY.
NOUNS: Mapping[str, str] = _nouns()
# Attribute -> its kind.
ATTRIBUTES: Mapping[str, str] = {
    word: kind
    for kind, listed in {
        "colour": "beige black blond blonde blue brown golden gray green grey orange "
        "pink purple red silver tan white yellow",
        "size": "big giant huge large little short small tall tiny",
        "age": "elderly old older young younger",
        "material": "brick concrete glass leather metal plastic stone wood wooden",
        "pattern": "checkered colorful colourful plaid plain spotted striped",
        "state": "bright closed crowded dark dry empty full open wet",
        "count": "two three four five six seven eight nine ten",
    }.items()
    for word in listed.split()
}
# Words of one meaning, whose exchange says nothing else.
_SYNONYMS = (
    *("airplane plane", "bicycle bike", "child kid", "coat jacket", "couch sofa"),
    *("circle disc", "hoop ring"),
    *("guy man", "lady woman", "big giant huge large", "little small tiny short"),
    *("gray grey", "blond blonde golden yellow", "beige tan"),
    *("elderly old", "wood wooden", "colorful colourful"),
)
_MEANINGS = {
    word: group.split()[0] for group in _SYNONYMS for word in group.split()
} | {
    _plural(noun): group.split()[0]
    for group in _SYNONYMS
    for noun in group.split()
    if noun in NOUNS
}


def meaning(word: str) -> str:
    """The same for words of one meaning: "bike" and "bicycles"."""
    return _MEANINGS.get(word, word)


# Words between two nouns that may change places without a change of meaning.
LINKS = frozenset(
    "a alongside an and are at be beside by is near next or that the their to together "
    "with".split()
)
_SOUNDS_LIKE_A_CONSONANT = ("eu", "one", "uni", "use")


def takes_an(word: str) -> bool:
    """Whether "an" stands before a word, not "a"."""
    return word[0] in "aeiou" and not word.startswith(_SOUNDS_LIKE_A_CONSONANT)
