"""A source: stripes in two colours, drawn on the fly. Read your own data instead."""

import itertools

import numpy as np

from clipjax.option_checks import at_least_one
from clipjax.types import Example, UserError

COLOURS = {
    "red": (220, 40, 40),
    "green": (40, 180, 60),
    "blue": (50, 80, 220),
    "white": (240, 240, 240),
}
KINDS = [
    (one, other, way)
    for one, other in itertools.permutations(COLOURS, 2)
    for way in ("upright", "level")
]
SPLITS = {"train": 0, "val": 1, "test": 2}  # split -> seed of the pixels


def make(split: str, *, size: int = 256, resolution: int = 32) -> "Stripes":
    """Stripes with one caption each.

    Args:
      size: examples per split.
      resolution: an image's side in pixels.
    """
    if split not in SPLITS:
        raise UserError(f"split={split!r}: must be one of {', '.join(SPLITS)}")
    at_least_one("data.size", size)
    return Stripes(split, size, resolution)


class Stripes:
    max_captions = 1
    class_names: dict = {}
    templates: dict = {}

    def __init__(self, split: str, size: int, resolution: int):
        self.split, self.resolution = split, resolution
        self.caption_counts = np.ones(size, np.int32)

    def __len__(self) -> int:
        return len(self.caption_counts)

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < len(self):
            raise IndexError(index)
        one, other, way = KINDS[index % len(KINDS)]
        draw = np.random.default_rng([SPLITS[self.split], index])
        places = np.arange(self.resolution) + draw.integers(self.resolution)
        first = (places // draw.integers(2, 5)) % 2 == 0
        line = np.where(first[:, None], COLOURS[one], COLOURS[other])
        image = np.repeat(line[None], self.resolution, axis=0)
        image = image if way == "upright" else image.swapaxes(0, 1)
        image = np.clip(image + draw.normal(0, 9, image.shape), 0, 255)
        caption = f"{way} stripes in {one} and {other}"
        return Example(image.astype(np.uint8), (caption,), key=f"{self.split}/{index}")
