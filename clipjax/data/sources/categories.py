"""`data=categories`: 240 generated colour images of four categories with captions.

An image shows its category only by its colour: one of three shades, brighter towards
the bottom, with pixel noise. Its caption names one of the category's five subjects,
which the image does not show. So retrieval among one category's captions is chance, and
captions can repeat. Every tenth example is in the split "val": 216 train, 24 val.
"""

from __future__ import annotations

import numpy as np

from clipjax.types import Example, UserError

SPLITS = ("train", "val")
SUBJECTS = {
    "nature": (
        "the sun setting over mountain peaks",
        "a forest filled with morning mist",
        "ocean waves rolling onto a beach",
        "wildflowers in bloom across a meadow",
        "tall pines covered in snow",
    ),
    "animals": (
        "a golden retriever running on grass",
        "a cat sitting by the window",
        "wild horses crossing an open plain",
        "birds flying across the sky",
        "an elephant family near the water",
    ),
    "urban": (
        "skyscrapers rising above the city",
        "a busy street intersection",
        "a long bridge over the river",
        "a coffee shop on the corner",
        "the lights of the city at night",
    ),
    "food": (
        "fresh vegetables at the market",
        "a pizza straight from the oven",
        "a plate of sushi",
        "a cup of hot coffee",
        "a loaf of freshly baked bread",
    ),
}
CATEGORIES = tuple(SUBJECTS)
SHADES = {
    "nature": ((34, 139, 34), (144, 238, 144), (107, 142, 35)),
    "animals": ((160, 82, 45), (210, 180, 140), (139, 69, 19)),
    "urban": ((105, 105, 105), (169, 169, 169), (128, 128, 128)),
    "food": ((255, 165, 0), (255, 140, 0), (255, 69, 0)),
}
VARIATIONS = (
    "{} in high resolution",
    "professional photograph of {}",
    "{} captured during golden hour",
    "artistic view of {}",
    "{} with vibrant colors",
)
STYLES = 2
VARIED = 200  # examples with a random subject and variation, after those of all styles
NOISE = 15.0  # standard deviation, in levels
DARKEST = 0.7  # share of the shade's brightness at the top


class Categories:
    """The Source that the module describes."""

    max_captions = 1
    class_names = {"class": CATEGORIES}
    templates = {"class": ("category {}",)}

    def __init__(self, split: str, seed: int, resolution: int):
        self.seed = seed
        self.resolution = resolution
        self._examples = [
            (number, category, caption)
            for number, (category, caption) in enumerate(_captions(seed))
            if (number % 10 == 0) == (split == "val")
        ]
        self.caption_counts = np.ones(len(self._examples), np.int32)

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> Example:
        """Returns an example with image uint8 [resolution resolution 3].

        Raises IndexError out of range.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"categories has no example {index}")
        number, category, caption = self._examples[index]
        return Example(
            image=_draw(category, self.resolution, _rng(self.seed, number)),
            captions=(caption,),
            labels={"class": CATEGORIES.index(category)},
            key=self.key_of(index),
        )

    def key_of(self, index: int) -> str:
        """Returns an example's key without drawing it."""
        return f"categories/{self._examples[index][0]}"


def make(split: str, *, seed: int = 0, resolution: int = 224) -> Categories:
    """Makes the split "train" (216 examples) or "val" (24).

    Args:
      seed: determines shades, noise and random captions.
      resolution: side of the images in pixels.

    Raises:
      UserError: for an unknown split or a number out of range.
    """
    if split not in SPLITS:
        raise UserError(
            f"data=categories has no split {split!r}; use {', '.join(SPLITS)}"
        )
    if not 0 <= seed < 2**63:
        raise UserError(f"data=categories: seed={seed} is out of range; use 0 or more")
    if not 1 <= resolution <= 4096:
        raise UserError(
            f"data=categories: resolution={resolution} is out of range; use 1 to 4096"
        )
    return Categories(split, seed, resolution)


def _captions(seed: int) -> list[tuple[str, str]]:
    """Returns (category, caption) of all examples: those of all styles, then VARIED."""
    subjects = [(name, subject) for name in CATEGORIES for subject in SUBJECTS[name]]
    captions = [
        (name, f"{subject}, category {name} (style {style})")
        for name, subject in subjects
        for style in range(1, STYLES + 1)
    ]
    rng = _rng(seed, len(subjects) * STYLES + VARIED)
    for _ in range(VARIED):
        name, subject = subjects[int(rng.random() * len(subjects))]
        variation = VARIATIONS[int(rng.random() * len(VARIATIONS))]
        captions.append((name, variation.format(subject)))
    return captions


def _draw(category: str, resolution: int, rng: np.random.Generator) -> np.ndarray:
    shades = SHADES[category]
    shade = np.asarray(shades[int(rng.random() * len(shades))], np.float32)
    light = np.linspace(DARKEST, 1, resolution, dtype=np.float32)[:, None, None]
    noise = rng.standard_normal((resolution, resolution, 3), np.float32) * NOISE
    return np.clip(light * shade + noise, 0, 255).astype(np.uint8)


def _rng(seed: int, stream: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=[seed, stream]))
