"""`data=scenes`: pictures of coloured shapes with captions, drawn on the fly, no files.

Every example is a pure function of (seed, split, index), so the ground truth of every
picture is known and nothing is downloaded. Splits:

- train: shape-colour combinations outside HELD_OUT; the last caption of a scene leaves
  something out ("a star above a ring", "the colour is red").
- val: as training, other scenes.
- heldout: every scene has at least one object of a HELD_OUT combination, whose shape
  and colour training shows only apart.
- attributes: objects of one kind a scene, any combination; for zero-shot labels.

No two scenes of val, heldout or attributes have the same description. In val and
heldout none is a part of another either, so exactly one scene fits each caption.
"""

from __future__ import annotations

import itertools

import numpy as np

from clipjax.data.synthetic import scene_grammar
from clipjax.data.synthetic.scene_drawing import MOST, render
from clipjax.data.synthetic.scene_grammar import Kind, Scene, pick
from clipjax.types import Example, UserError

SPLITS = ("train", "val", "heldout", "attributes")
MAX_EVAL_SIZE = 1000  # about as many as the few held-out objects allow

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

# Layouts as (number of objects, all of one kind): training draws from its tuple, a
# gallery takes its own in turn. A retrieval gallery has few scenes of one kind, as
# each rules out all others that contain it.
_LINES = ((2, False), (3, False), (2, False), (3, False))
_LAYOUTS = {
    "train": ((1, True), (1, True), (2, True), (3, True), *_LINES),
    "val": (*_LINES * 2, (1, True), *_LINES * 2, (2, True), *_LINES * 2, (3, True)),
    "attributes": ((1, True), (2, True), (3, True)),
}
_LAYOUTS["heldout"] = _LAYOUTS["val"]
_TRIES = 1000  # to find one more scene for a gallery
_GALLERY_INDEX = 2**40  # beyond every example's index: the gallery's own draws


class Scenes:
    """The Source; see the module. Holds only the gallery's descriptions."""

    max_captions = scene_grammar.CAPTIONS
    class_names = scene_grammar.CLASS_NAMES
    templates = scene_grammar.TEMPLATES

    def __init__(self, split: str, seed: int, size: int, resolution: int):
        self.split = split
        self.seed = seed
        self.resolution = resolution
        self.caption_counts = np.full(size, scene_grammar.CAPTIONS, np.int32)
        self._gallery = None
        if split != "train":
            self._gallery = _gallery(split, size, self._rng(_GALLERY_INDEX))

    def __len__(self) -> int:
        return len(self.caption_counts)

    def scene(self, index: int) -> Scene:
        """The ground truth of one example."""
        return self._scene(index, self._rng(index))

    def __getitem__(self, index: int) -> Example:
        """image uint8 [resolution resolution 3]. Raises IndexError out of range."""
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
        """The key of an example, without drawing it."""
        return f"scenes/{self.split}/{index}"

    def captions_of(self, index: int) -> tuple[str, ...]:
        """The captions of an example, without drawing it."""
        rng = self._rng(index)
        return self._describe(self._scene(index, rng), rng)

    def _describe(self, scene: Scene, rng: np.random.Generator) -> tuple[str, ...]:
        captions = scene_grammar.describe(scene, rng)
        if self.split == "train":
            captions = (*captions[:-1], scene_grammar.describe_briefly(scene, rng))
        return captions

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
) -> Scenes:
    """The scenes of one split.

    Args:
      split: "train", "val", "heldout" or "attributes".
      seed: another one gives other scenes.
      size: examples of an epoch of training.
      eval_size: examples of each other split, at most MAX_EVAL_SIZE.
      resolution: side of the images in pixels.

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
    return Scenes(split, seed, size if split == "train" else eval_size, resolution)


def _draw(
    kinds: tuple[Kind, ...], layout: tuple[int, bool], rng: np.random.Generator
) -> Scene:
    """One scene of a layout with objects from `kinds`."""
    count, alike = layout
    chosen = [pick(rng, kinds)] * count
    while not alike and len(set(chosen)) < count:
        chosen = [pick(rng, kinds) for _ in range(count)]
    if count == 1:
        place = pick(rng, scene_grammar.POSITIONS)
    else:
        place = "" if alike else pick(rng, ("across", "down"))
    return Scene(pick(rng, scene_grammar.BACKGROUNDS), tuple(chosen), place)


def _gallery(split: str, size: int, rng: np.random.Generator) -> list[Scene]:
    """`size` different scenes; for retrieval, none that contains another."""
    kinds = _TRAINED if split == "val" else KINDS
    found: dict[Scene, None] = {}  # in order
    wholes: set[tuple] = set()  # what lies in the scenes found
    parts: set[tuple] = set()  # what lies in them beside something else
    for i in range(size):
        layout = _LAYOUTS[split][i % len(_LAYOUTS[split])]
        for _ in range(_TRIES):
            scene = _draw(kinds, layout, rng)
            if split == "heldout" and not any(kind in _NEW for kind in scene.kinds):
                continue
            whole, inside = _contents(scene)
            apart = whole not in parts and not inside & wholes
            if scene not in found and (apart or split == "attributes"):
                found[scene] = None
                wholes.add(whole)
                parts |= inside
                break
        else:
            raise UserError(
                f"data=scenes: eval_size={size} is more than split {split!r} can hold "
                f"with this seed; use {len(found)} or fewer"
            )
    return list(found)


def _contents(scene: Scene) -> tuple[tuple, set[tuple]]:
    """The background with all objects, in any order, and with each proper part."""
    names = sorted((kind.size, kind.colour, kind.shape) for kind in scene.kinds)
    parts = {
        (scene.background, *some)
        for count in range(1, len(names))
        for some in itertools.combinations(names, count)
    }
    return (scene.background, *names), parts
