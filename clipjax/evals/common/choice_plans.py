"""Where choices between captions come from: rules, a list, or the source itself."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from clipjax.data.annotations.caption_choices import OwnChoice
from clipjax.evals.common import wrong_captions
from clipjax.evals.common.caption_words import words
from clipjax.evals.common.choices import Choice
from clipjax.evals.common.inputs import Seen
from clipjax.evals.common.ranking import spread
from clipjax.types import Source, UserError


class Made(NamedTuple):
    """The choices of what could be read.

    seen: the images. kinds: kind -> its choices. pictures: int [n], of each place in
    `seen` the number of its picture: parts of one have the same. right: a picture ->
    its right captions. encoded: the right captions in use, in order. left_out: kind
    -> captions for which there is no wrong one.
    """

    seen: Seen
    kinds: dict[str, list[Choice]]
    pictures: np.ndarray
    right: dict[int, list[str]]
    encoded: list[str]
    left_out: Mapping[str, int]

    def size(self, kind: str) -> str:
        """How many choices of a kind there are, in words."""
        found = self.kinds[kind]
        images = len({int(self.pictures[choice.place]) for choice in found})
        text = f"{kind}: {len(found)} choices of {images} images"
        if count := self.left_out.get(kind, 0):
            text += f", {count} captions without a wrong one left out"
        groups = {choice.group for choice in found} - {""}
        if groups:
            counted = {choice.group for choice in found if choice.counted}
            text += f", {len(counted)} of {len(groups)} groups count"
        return text


@dataclasses.dataclass(frozen=True)
class ByRule:
    """Choices that rules make of a source's captions.

    indices: of the images in the source. kinds: the rules. captions: how many of an
    image's are changed, 0: all.
    """

    source: Source
    indices: list[int]
    kinds: tuple[str, ...]
    captions: int
    seed: int
    grouped = False

    @property
    def most_texts(self) -> int:
        """The most texts to encode."""
        counts = self.source.caption_counts[self.indices]
        counts = np.minimum(counts, self.captions) if self.captions else counts
        return int(counts.sum()) * (1 + len(self.kinds))

    @property
    def protocol(self) -> str:
        """What results share that are comparable."""
        taken = f"the first {self.captions}" if self.captions else "all"
        return f"{', '.join(self.kinds)} of {taken} captions, seed {self.seed}"

    def choices(self, seen: Seen) -> Made:
        """The choices, of what is read of `indices`; a choice's query is the caption's
        id, image * max_captions + its number.
        """
        seen = seen.with_captions()
        kinds: dict[str, list[Choice]] = {kind: [] for kind in self.kinds}
        left_out = dict.fromkeys(self.kinds, 0)
        right = {
            place: [text for text in seen.captions[place] if text is not None]
            for place in np.flatnonzero(seen.valid).tolist()
        }
        encoded: list[str] = []
        for place, own in right.items():
            first = self.indices[place] * self.source.max_captions
            said = {words(text) for text in own}
            changed = own[: self.captions or None]
            encoded += changed
            for number, text in enumerate(changed):
                for kind in self.kinds:
                    wrong = wrong_captions.make(text, kind, self.seed, said)
                    if wrong is None:
                        left_out[kind] += 1
                        continue
                    kinds[kind].append(Choice(place, first + number, (text, wrong)))
        pictures = np.arange(len(self.indices))
        return Made(seen, kinds, pictures, right, encoded, left_out)


@dataclasses.dataclass(frozen=True)
class Listed:
    """Choices of a list, or of a source that has its own.

    indices: of the images in the source. found: kind -> its choices, of places in
    `indices`. pictures: as of Made. origin: "listed" or "own". grouped: whether the
    choices have groups.
    """

    indices: list[int]
    found: Mapping[str, list[Choice]]
    pictures: np.ndarray
    origin: str = "listed"
    grouped: bool = False

    @property
    def kinds(self) -> Sequence[str]:
        """The names of the kinds."""
        return list(self.found)

    @property
    def most_texts(self) -> int:
        """The most texts to encode."""
        return len(self.texts())

    @property
    def protocol(self) -> str:
        """What results share that are comparable."""
        return f"{self.origin} {', '.join(self.found)}"

    def choices(self, seen: Seen) -> Made:
        """The choices, of what is read of `indices`; a choice's query is its number in
        the list.
        """
        kinds = {
            kind: [choice for choice in own if seen.valid[choice.place]]
            for kind, own in self.found.items()
        }
        right: dict[int, dict[str, None]] = {}
        for own in kinds.values():
            for choice in own:
                picture = int(self.pictures[choice.place])
                right.setdefault(picture, {})[choice.captions[0]] = None
        listed = {picture: list(own) for picture, own in sorted(right.items())}
        encoded = [text for own in listed.values() for text in own]
        return Made(seen, kinds, self.pictures, listed, encoded, {})

    def texts(self) -> list[str]:
        """All captions, right and wrong."""
        found = (choice for own in self.found.values() for choice in own)
        return [text for choice in found for text in choice.captions]


def listed(
    source: Source,
    found: Mapping[str, Sequence[tuple[str, tuple[str, ...]]]],
    origin: str,
    max_samples: int,
) -> Listed:
    """The choices of a list, whose images are found in the source by their names: the
    examples' keys, or the last parts of these.

    Args:
      found: kind -> (an image's name, its captions, the right one first).
      origin: where they are from, for messages.
      max_samples: the most images, evenly spread; 0: all.

    Raises UserError if the source has no keys, or lacks an image.
    """
    key_of = getattr(source, "key_of", None)
    if key_of is None:
        raise UserError(
            f"evals=caption_choice: {origin} names images, and these data cannot list "
            "their keys without reading everything: give their source a method "
            "key_of(index)"
        )
    keys = [key_of(index) for index in range(len(source))]
    numbers: dict[str, int] = {}
    for index, key in enumerate(keys):
        name = key.rpartition("/")[2]
        numbers[name] = -1 if name in numbers else index  # -1: of several images
    numbers |= {key: index for index, key in enumerate(keys)}
    names = list(dict.fromkeys(image for own in found.values() for image, _ in own))
    if missing := [name for name in names if numbers.get(name, -1) < 0]:
        raise UserError(
            f"evals=caption_choice: {len(missing)} of the {len(names)} images of "
            f"{origin} are not in the data, or several have the name, such as "
            f"{missing[0]!r}; the data's keys look like {keys[0]!r}: choose the data "
            "and split that have them"
        )
    every = sorted({numbers[name] for name in names})
    indices = [every[at] for at in spread(len(every), max_samples)]
    places = {index: place for place, index in enumerate(indices)}
    kinds = {
        kind: [
            Choice(places[numbers[image]], query, captions)
            for query, (image, captions) in enumerate(own)
            if numbers[image] in places
        ]
        for kind, own in found.items()
    }
    return Listed(indices, kinds, np.arange(len(indices)))


def own(found: Sequence[OwnChoice], max_samples: int) -> Listed:
    """The choices that a source has of its examples.

    Args:
      found: one per example.
      max_samples: the most examples, evenly spread; 0: all.
    """
    indices = spread(len(found), max_samples).tolist()
    kinds: dict[str, list[Choice]] = {choice.kind: [] for choice in found}
    numbers: dict[str, int] = {}
    pictures = np.zeros(len(indices), np.int64)
    for place, index in enumerate(indices):
        kind, number, image, captions, group, counted = found[index]
        kinds[kind].append(Choice(place, number, captions, group, counted))
        pictures[place] = numbers.setdefault(image, len(numbers))
    grouped = any(choice.group for choice in found)
    return Listed(indices, kinds, pictures, "own", grouped)
