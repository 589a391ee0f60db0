"""`data=scenes`: generated images of coloured shapes with captions, drawn on access.

Every example is a pure function of (seed, split, index), so that every image's ground
truth is known and nothing is downloaded. Splits:

- train: shape-colour combinations outside HELD_OUT; a scene's last caption omits
  something ("a star above a ring", "the colour is red"); with the option `parts` its
  last two name one object ("a red star").
- val: other scenes like those of training.
- heldout: every scene has at least one object with a HELD_OUT combination; training
  shows its shape and its colour, but never together.
- attributes: objects of one kind per scene, any combination; for zero-shot labels.

No two scenes of val, heldout or attributes have the same description. In val and
heldout no scene is a part of another, so that exactly one scene fits each caption.
"""

from __future__ import annotations

import itertools

import numpy as np

from clipjax.data.synthetic import scene_grammar
from clipjax.data.synthetic.scene_drawing import MOST, render, render_with_boxes
from clipjax.data.synthetic.scene_grammar import Kind, Scene, pick
from clipjax.types import Example, UserError

SPLITS = ("train", "val", "heldout", "attributes")
MAX_EVAL_SIZE = 1000  # about the limit that the few held-out objects allow

# (colour, shape): two colours per shape, and one or two shapes per colour.
HELD_OUT = frozenset(
    {
        *{("red", "star"), ("orange", "ring"), ("yellow", "square")},
        *{("green", "circle"), ("cyan", "triangle"), ("blue", "cross")},
        *{("purple", "ring"), ("pink", "triangle"), ("red", "square")},
        *{("green", "star"), ("blue", "circle"), ("pink", "cross")},
    }
)
KINDS = tuple(
    Kind(*words)
    for words in itertools.product(
        scene_grammar.SIZES, scene_grammar.COLOURS, scene_grammar.SHAPES
    )
)
_NEW = tuple(kind for kind in KINDS if (kind.colour, kind.shape) in HELD_OUT)
_TRAINED = tuple(kind for kind in KINDS if kind not in _NEW)

# Layouts are (number of objects, whether all are of one kind). Training draws from its
# tuple; a gallery cycles through its own. A retrieval gallery has few scenes of one
# kind, because each excludes all scenes that contain it.
_LINES = ((2, False), (3, False), (2, False), (3, False))
_LAYOUTS = {
    "train": ((1, True), (1, True), (2, True), (3, True), *_LINES),
    "val": (*_LINES * 2, (1, True), *_LINES * 2, (2, True), *_LINES * 2, (3, True)),
    "attributes": ((1, True), (2, True), (3, True)),
}
_LAYOUTS["heldout"] = _LAYOUTS["val"]
_TRIES = 1000  # draws to find one more scene for a gallery
_GALLERY_INDEX = 2**40  # the gallery's random stream, beyond those of all examples


class Scenes:
    """The Source that the module describes; it stores only the gallery's scenes."""

    max_captions = scene_grammar.CAPTIONS
    class_names = scene_grammar.CLASS_NAMES
    templates = scene_grammar.TEMPLATES

    def __init__(
        self, split: str, seed: int, size: int, resolution: int, parts: bool = False
    ):
        self.split = split
        self.seed = seed
        self.resolution = resolution
        self.parts = parts
        self.caption_counts = np.full(size, scene_grammar.CAPTIONS, np.int32)
        self._gallery = None
        if split != "train":
            self._gallery = _gallery(split, size, self._rng(_GALLERY_INDEX))

    def __len__(self) -> int:
        return len(self.caption_counts)

    def scene(self, index: int) -> Scene:
        """Returns an example's ground truth."""
        return self._scene(index, self._rng(index))

    def boxes(self, index: int) -> np.ndarray:
        """Returns the box of each of `scene(index)`'s objects in the example's image,
        int64 [objects 4] in pixels; see scene_drawing.render_with_boxes.
        """
        rng = self._rng(index)
        scene = self._scene(index, rng)
        self._describe(scene, rng)
        return render_with_boxes(scene, self.resolution, rng)[1]

    def __getitem__(self, index: int) -> Example:
        """Returns an example with image uint8 [resolution resolution 3].

        Raises IndexError out of range.
        """
        rng = self._rng(index)
        scene = self._scene(index, rng)
        captions = self._describe(scene, rng)
        return Example(
            image=render(scene, self.resolution, rng),
            captions=captions,
            labels=scene_grammar.labels(scene),
            key=self.key_of(index),
        )

    def key_of(self, index: int) -> str:
        """Returns an example's key without drawing it."""
        return f"scenes/{self.split}/{index}"

    def captions_of(self, index: int) -> tuple[str, ...]:
        """Returns an example's captions without drawing it."""
        rng = self._rng(index)
        return self._describe(self._scene(index, rng), rng)

    def _describe(self, scene: Scene, rng: np.random.Generator) -> tuple[str, ...]:
        captions = scene_grammar.describe(scene, rng)
        if self.split != "train":
            return captions
        if self.parts:
            return captions[0], *(scene_grammar.describe_part(scene, rng) for _ in "ab")
        return (*captions[:-1], scene_grammar.describe_briefly(scene, rng))

    def _scene(self, index: int, rng: np.random.Generator) -> Scene:
        if not 0 <= index < len(self):
            raise IndexError(f"scenes/{self.split} has no example {index}")
        if self._gallery is not None:
            return self._gallery[index]
        return _draw(_TRAINED, pick(rng, _LAYOUTS["train"]), rng)

    def _rng(self, index: int) -> np.random.Generator:
        stream = SPLITS.index(self.split) * 2**48 + int(index)
        return np.random.Generator(np.random.Philox(key=[self.seed, stream]))


def make(
    split: str,
    *,
    seed: int = 0,
    size: int = 20_000,
    eval_size: int = 500,
    resolution: int = 64,
    parts: bool = False,
) -> Scenes:
    """Makes one split.

    Args:
      split: "train", "val", "heldout" or "attributes".
      seed: determines the scenes.
      size: number of examples in an epoch of training.
      eval_size: number of examples in each other split, at most MAX_EVAL_SIZE.
      resolution: side of the images in pixels.
      parts: in training, two of a scene's three captions name one of its objects alone
        ("a red star"), so that a model learns what each word is about; for maps.

    Raises:
      UserError: for an unknown split or a number out of range.
    """
    if split not in SPLITS:
        raise UserError(f"data=scenes has no split {split!r}; use {', '.join(SPLITS)}")
    for name, value, low, high in (
        ("seed", seed, 0, 2**63 - 1),
        ("size", size, 1, MOST),
        ("eval_size", eval_size, 1, MAX_EVAL_SIZE),
        ("resolution", resolution, 16, 1024),
    ):
        if not low <= value <= high:
            raise UserError(
                f"data=scenes: {name}={value} is out of range; use {low} to {high}"
            )
    length = size if split == "train" else eval_size
    return Scenes(split, seed, length, resolution, parts)


def _draw(
    kinds: tuple[Kind, ...], layout: tuple[int, bool], rng: np.random.Generator
) -> Scene:
    """Draws a scene of a layout with objects from `kinds`."""
    count, one_kind = layout
    drawn = [pick(rng, kinds)] * count
    while not one_kind and len(set(drawn)) < count:
        drawn = [pick(rng, kinds) for _ in range(count)]
    if count == 1:
        arrangement = pick(rng, scene_grammar.POSITIONS)
    else:
        arrangement = "" if one_kind else pick(rng, ("across", "down"))
    return Scene(pick(rng, scene_grammar.BACKGROUNDS), tuple(drawn), arrangement)


def _gallery(split: str, size: int, rng: np.random.Generator) -> list[Scene]:
    """Draws `size` different scenes; for retrieval, none contains another."""
    kinds = _TRAINED if split == "val" else KINDS
    scenes: dict[Scene, None] = {}  # an ordered set
    full_contents: set[tuple] = set()  # contents of the scenes
    partial_contents: set[tuple] = set()  # their proper parts
    for i in range(size):
        layout = _LAYOUTS[split][i % len(_LAYOUTS[split])]
        for _ in range(_TRIES):
            scene = _draw(kinds, layout, rng)
            if split == "heldout" and not any(kind in _NEW for kind in scene.kinds):
                continue
            content, parts_of_scene = _contents(scene)
            distinct = (
                content not in partial_contents and not parts_of_scene & full_contents
            )
            if scene not in scenes and (distinct or split == "attributes"):
                scenes[scene] = None
                full_contents.add(content)
                partial_contents |= parts_of_scene
                break
        else:
            raise UserError(
                f"data=scenes: eval_size={size} is more than split {split!r} can hold "
                f"with this seed; use {len(scenes)} or fewer"
            )
    return list(scenes)


def _contents(scene: Scene) -> tuple[tuple, set[tuple]]:
    """Returns the background with all objects, sorted, and with each proper part."""
    names = sorted((kind.size, kind.colour, kind.shape) for kind in scene.kinds)
    parts = {
        (scene.background, *subset)
        for count in range(1, len(names))
        for subset in itertools.combinations(names, count)
    }
    return (scene.background, *names), parts
