"""Plans the order of examples as a function of (seed, number); reads no example.

The plan of unit n in the endless stream is a function of (seed, n): an example, a
caption, and a 63-bit draw that seeds the augmentation. A mixture with weights has one
stream per part, each in its own order, and interleaves them.
"""

from __future__ import annotations

import bisect
import itertools
from typing import NamedTuple

import grain
import numpy as np

from clipjax.types import Source, UserError

UNITS = ("image", "pair")


class Planned(NamedTuple):
    """One planned example: its index, its caption's index, and its random draw."""

    index: int
    caption: int
    draw: int


class Units:
    """An epoch's units, numbered, and the plan of each.

    weights: one per part of a mixture with weights (see `Source`), else [1.0].
    left_out: number of examples without a caption, in a source with captions.
    """

    def __init__(self, source: Source, unit: str):
        if unit not in UNITS:
            raise UserError(f"data.unit={unit!r}: use {' or '.join(UNITS)}")
        counts = np.asarray(source.caption_counts)
        captioned = source.max_captions > 0
        if len(source) * max(source.max_captions, 1) >= 2**31:
            raise UserError(
                f"{len(source)} examples x {source.max_captions} captions are too many "
                f"for 32-bit ids; use fewer examples"
            )
        if unit == "pair" and not captioned:
            raise UserError("data.unit=pair, but the source has no captions; use image")
        self._counts = counts
        self._images = np.flatnonzero(counts) if captioned else np.arange(len(source))
        self._pair_ends = np.cumsum(counts) if unit == "pair" else None
        self.left_out = len(source) - len(self._images)
        self._parts = [len(source)]  # where each part of a mixture ends
        self.weights = [1.0]
        if shares := getattr(source, "shares", ()):
            self._parts = np.cumsum([size for size, _ in shares]).tolist()
            self.weights = [weight for _, weight in shares]

    def __len__(self) -> int:
        ends = self._pair_ends
        return len(self._images) if ends is None else int(ends[-1])

    def plan(self, number: int, rng: np.random.Generator) -> Planned:
        ends = self._pair_ends
        if ends is None:
            index = int(self._images[number])
            count = self._counts[index]
            caption = int(rng.integers(count)) if count else 0
        else:
            index = int(np.searchsorted(ends, number, side="right"))
            caption = number - int(ends[index] - self._counts[index])
        return Planned(index, caption, int(rng.integers(2**63)))

    def ranges(self) -> list[tuple[int, int]]:
        """The units [first, last) per part of a mixture with weights, else of all."""
        ends = np.searchsorted(self._images, self._parts)
        if self._pair_ends is not None:
            ends = self._pair_ends[np.array(self._parts) - 1]
        return list(itertools.pairwise([0, *map(int, ends)]))

    def other(self, planned: Planned, attempt: int) -> Planned:
        """The replacement for a broken example, from its part, by its draw."""
        rng = generator(planned.draw, attempt)
        part = bisect.bisect_right(self._parts, planned.index)
        return self.plan(int(rng.integers(*self.ranges()[part])), rng)


def plans_of(units: Units, seed: int) -> grain.MapDataset:
    """The endless stream of plans; element n is a function of (seed, n).

    Raises UserError if the data, or one part with a weight, have no units.
    """
    if not len(units):
        raise UserError("the training data are empty; choose another data or split")
    parts = []
    for number, (first, last) in enumerate(units.ranges()):
        if first == last:
            raise UserError(f"part {number + 1} of the mixture has no captions")
        part_seed = int(generator(seed, number).integers(2**32)) if number else seed
        stream = grain.MapDataset.range(first, last).seed(part_seed).shuffle().repeat()
        parts.append(stream.random_map(units.plan))
    plans = parts[0]
    if len(parts) > 1:
        plans = grain.MapDataset.mix(parts, units.weights)
    for stream in (*parts, plans):
        stream[0]  # grain's first use sets up state, and is not thread-safe
    return plans


def generator(*seeds: int) -> np.random.Generator:
    """A generator that is a function of the seeds."""
    return np.random.Generator(np.random.PCG64(seeds))
