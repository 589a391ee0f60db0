"""Synthetic scenes, and the small grammar that describes them.

A `Scene` is meaning alone: its objects, their arrangement and the background.
scene_drawing.py draws exact positions. `describe` writes full captions: each names
everything in the scene, so that different scenes never share a caption.
`describe_briefly` leaves things out or fills one of `TEMPLATES`, so that training
captions include the zero-shot prompts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")
COLOURS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink")
SIZES = ("small", "large")
COUNTS = ("one", "two", "three")
BACKGROUNDS = ("white", "beige", "grey", "black")
POSITIONS = (
    *("top left", "top", "top right"),
    *("left", "centre", "right"),
    *("bottom left", "bottom", "bottom right"),
)  # of a single object, row by row

CLASS_NAMES = {
    "shape": SHAPES,
    "colour": COLOURS,
    "size": SIZES,
    "count": COUNTS,
    "background": BACKGROUNDS,
}
TEMPLATES = {
    "shape": ("a picture of a {}", "a {} shape", "the shape is a {}"),
    "colour": ("a picture of something {}", "something {}", "the colour is {}"),
    "size": ("a picture of something {}", "something {}", "the size is {}"),
    "count": ("the number of shapes is {}", "the count is {}"),
    "background": ("a picture with a {} background", "the background is {}"),
}

CAPTIONS = 3  # per scene
# Probability that a short description names each property. Colours are rare, because
# they alone distinguish most scenes; captions without them teach shapes.
_SAID = {"size": 0.4, "colour": 0.25, "place": 0.4}
_PART_SAID = {"size": 0.2, "colour": 0.8}  # of a description of one object
_SYNONYMS = {
    "circle": ("circle", "disc"),
    "cross": ("cross", "plus"),
    "ring": ("ring", "hoop"),
    "small": ("small", "little"),
    "large": ("large", "big"),
    "above": ("above", "over"),
    "below": ("below", "under"),
    "left": ("left of", "to the left of"),
    "right": ("right of", "to the right of"),
}
_PLURALS = {"cross": "crosses", "plus": "pluses"}
_WHERE = {
    "centre": ("in the centre", "in the middle"),
    "top": ("at the top",),
    "bottom": ("at the bottom",),
    "left": ("on the left",),
    "right": ("on the right",),
}
_FRAMES = (
    "{} on a {} background",
    "{} against {}",
    "there {be} {} on a {} background",
    "a picture of {} on a {} background",
    "on a {1} background, {0}",
)


@dataclasses.dataclass(frozen=True)
class Kind:
    """One object's looks."""

    size: str
    colour: str
    shape: str


@dataclasses.dataclass(frozen=True)
class Scene:
    """One scene's meaning; equal scenes have the same full description.

    kinds: one per object. A single object lies at `place`, one of POSITIONS. Two or
      three objects of the same kind are scattered (`place` ""). Two or three of
      different kinds form a line: `place` "across" (first one leftmost) or "down"
      (first one topmost).
    """

    background: str
    kinds: tuple[Kind, ...]
    place: str

    @property
    def alike(self) -> bool:
        """Whether all objects have the same kind."""
        return len(set(self.kinds)) == 1


def pick(rng: np.random.Generator, items: Sequence[Any]) -> Any:
    """A uniformly random item; several times faster than `rng.choice`."""
    return items[int(rng.random() * len(items))]


def labels(scene: Scene) -> dict[str, int]:
    """Label set -> class index, for the sets in CLASS_NAMES that are unambiguous."""
    classes = {
        "count": COUNTS[len(scene.kinds) - 1],
        "background": scene.background,
    }
    for name in ("size", "colour", "shape"):
        values = {getattr(kind, name) for kind in scene.kinds}
        if len(values) == 1:
            classes[name] = values.pop()
    return {name: CLASS_NAMES[name].index(label) for name, label in classes.items()}


def describe(scene: Scene, rng: np.random.Generator) -> tuple[str, ...]:
    """CAPTIONS different captions; each describes the scene fully."""
    first = int(rng.random() * len(_FRAMES))
    return tuple(
        _FRAMES[(first + i) % len(_FRAMES)].format(
            _body(scene, rng),
            scene.background,
            be="are" if scene.alike and len(scene.kinds) > 1 else "is",
        )
        for i in range(CAPTIONS)
    )


def describe_briefly(scene: Scene, rng: np.random.Generator) -> str:
    """A short true caption: a prompt from TEMPLATES, or a description without the
    background that names sizes, colours and a single object's place as often as `_SAID`
    says.
    """
    if rng.random() < 0.7:
        named = [name for name, share in _SAID.items() if rng.random() < share]
        body = _body(scene, rng, named)
        return f"a picture of {body}" if rng.random() < 0.3 else body
    known = labels(scene)
    name = pick(rng, tuple(known))
    return pick(rng, TEMPLATES[name]).format(CLASS_NAMES[name][known[name]])


def describe_part(scene: Scene, rng: np.random.Generator) -> str:
    """A true caption of one of the scene's objects alone: its shape, mostly its colour,
    sometimes its size.
    """
    kind = pick(rng, scene.kinds)
    named = [name for name, share in _PART_SAID.items() if rng.random() < share]
    noun = _a(_noun(kind, rng, named))
    return f"a picture of {noun}" if rng.random() < 0.3 else noun


def _body(
    scene: Scene,
    rng: np.random.Generator,
    named: Collection[str] = ("size", "colour", "place"),
) -> str:
    """Describes the objects, not the background; names only properties in `named`."""
    count = len(scene.kinds)
    if count == 1:
        noun = _a(_noun(scene.kinds[0], rng, named))
        where = _WHERE.get(scene.place, (f"in the {scene.place} corner",))
        return f"{noun} {pick(rng, where)}" if "place" in named else noun
    if scene.alike:
        return f"{COUNTS[count - 1]} {_plural(_noun(scene.kinds[0], rng, named))}"
    before, after = ("above", "below") if scene.place == "down" else ("left", "right")
    things = [_a(_noun(kind, rng, named)) for kind in scene.kinds]
    form = rng.random()
    if count == 2:
        if form < 0.5:
            return f"{things[0]} {_word(before, rng)} {things[1]}"
        return f"{things[1]} {_word(after, rng)} {things[0]}"
    if form < 0.4:
        where = (
            ("above", "below") if before == "above" else ("on the left", "on the right")
        )
        return f"{things[1]} between {things[0]} {where[0]} and {things[2]} {where[1]}"
    ends = ("top", "bottom") if before == "above" else ("left", "right")
    if form < 0.6:
        things, ends = things[::-1], ends[::-1]
    return f"{things[0]}, {things[1]} and {things[2]} from {ends[0]} to {ends[1]}"


def _noun(kind: Kind, rng: np.random.Generator, named: Collection[str]) -> str:
    words = [getattr(kind, name) for name in ("size", "colour") if name in named]
    return " ".join(_word(word, rng) for word in [*words, kind.shape])


def _word(word: str, rng: np.random.Generator) -> str:
    """The word, or sometimes its synonym."""
    synonyms = _SYNONYMS.get(word)
    if synonyms is None:
        return word
    return synonyms[0] if rng.random() < 0.7 else synonyms[1]


def _plural(noun: str) -> str:
    *front, last = noun.split(" ")
    return " ".join([*front, _PLURALS.get(last, last + "s")])


def _a(word: str) -> str:
    return f"an {word}" if word[0] in "aeiou" else f"a {word}"
