"""Which images and captions of one source are also in another.

One source, such as a test split, is read first and held as hashes. The other one is
read in blocks that are not kept, so memory does not grow with it.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import hashlib
import itertools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import NamedTuple

import numpy as np
from PIL import Image

from clipjax.data.images import decoding, perceptual_hash
from clipjax.data.prepare import reading
from clipjax.data.prepare.reading import Broken
from clipjax.types import Example, Source

Progress = Callable[[int, int], None]
SAME_BYTES, SAME_PIXELS, NEAR = range(3)  # how much two images have in common
LEVELS = ("same bytes", "same pixels", "nearly the same")
MOST_EACH = 100  # pairs kept for one image, the closest
_BLOCK = 4096  # images of the other source that are compared at once


class Pair(NamedTuple):
    """An image and one like it in the other source.

    level: SAME_BYTES, SAME_PIXELS (of other bytes) or NEAR. distance: how many bits of
    their perceptual hashes differ. place, other_place: their numbers in their sources.
    """

    place: int
    level: int
    distance: int
    other_place: int
    key: str
    other_key: str


@dataclasses.dataclass
class Side:
    """What was read of a source.

    examples: also the broken ones. plain: images without a perceptual hash.
    """

    examples: int
    plain: int = 0
    captions: int = 0
    broken: list[Broken] = dataclasses.field(default_factory=list)

    @property
    def usable(self) -> int:
        return self.examples - len(self.broken)


@dataclasses.dataclass
class Copies:
    """What one source shares with another.

    images, others: the two sources. pairs: by their places, the closest first; at most
    MOST_EACH of one image. left_out: how many more there are. shared_captions: the
    images' captions with the words of one in the other source.
    """

    images: Side
    others: Side
    pairs: list[Pair]
    left_out: int
    shared_captions: int

    def counts(self) -> list[int]:
        """Per level, the images whose closest copy is of that level."""
        closest: dict[int, int] = {}
        for pair in self.pairs:
            closest.setdefault(pair.place, pair.level)
        found = collections.Counter(closest.values())
        return [found[level] for level in range(len(LEVELS))]


class _Print(NamedTuple):
    """What is kept of an image: digests, perceptual hash, and captions without case."""

    place: int
    key: str
    of_bytes: bytes
    of_pixels: bytes
    hash: int | None
    captions: tuple[str, ...]


def find(
    source: Source,
    other: Source,
    *,
    near: int,
    threads: int,
    watch: Callable[[bool], AbstractContextManager[Progress]] | None = None,
) -> Copies:
    """Reads and decodes both sources, and finds what they share.

    near: pictures are nearly the same if at most so many bits of their perceptual
      hashes differ. watch: of whether the other source is read, the context of its
      reading, in which (done, total) is called now and then.
    """
    watch = watch or (lambda second: contextlib.nullcontext(lambda done, total: None))
    images, others = Side(len(source)), Side(len(other))
    with watch(False) as progress:
        prints = list(_prints(source, images, threads, progress))
    known = _Known(prints, near)
    with watch(True) as progress:
        passing = _prints(other, others, threads, progress)
        while block := list(itertools.islice(passing, _BLOCK)):
            known.compare(block)
    pairs, left_out = known.result()
    shared = sum(text in known.shared for one in prints for text in one.captions)
    return Copies(images, others, pairs, left_out, shared)


def _prints(
    source: Source, side: Side, threads: int, progress: Progress
) -> Iterator[_Print]:
    """The prints of a source's usable images, which are counted in `side`."""
    for index, one in reading.each(source, range(len(source)), _print, threads):
        progress(index + 1, len(source))
        if isinstance(one, Broken):
            side.broken.append(one)
            continue
        side.plain += one.hash is None
        side.captions += len(one.captions)
        yield one


def _print(index: int, example: Example) -> _Print:
    """Raises BadExample for an image that cannot be decoded."""
    picture = decoding.decode(example.image)
    of_pixels = _digest(picture)
    if isinstance(example.image, bytes):
        of_bytes = hashlib.blake2b(example.image, digest_size=16).digest()
    else:  # the pixels are all its bytes
        of_bytes = of_pixels
    return _Print(
        index,
        example.key or f"example {index}",
        of_bytes,
        of_pixels,
        perceptual_hash.of_picture(picture),
        tuple(" ".join(text.casefold().split()) for text in example.captions),
    )


def _digest(picture: Image.Image) -> bytes:
    """The same for two RGB pictures of the same size and pixels."""
    size = ",".join(map(str, picture.size)).encode()
    found = hashlib.blake2b(size, digest_size=16)
    found.update(picture.tobytes())
    return found.digest()


class _Known:
    """The first source's prints, with which those of the other are compared."""

    def __init__(self, prints: list[_Print], near: int):
        self._near = near
        self._prints = prints
        self._by_bytes = _places(prints, "of_bytes")
        self._by_pixels = _places(prints, "of_pixels")
        self._hashed = [at for at, one in enumerate(prints) if one.hash is not None]
        self._hashes = _hashes([prints[at] for at in self._hashed])
        self._captions = {text for one in prints for text in one.captions}
        self._found: dict[int, list[Pair]] = collections.defaultdict(list)
        self._counts: collections.Counter[int] = collections.Counter()
        self.shared: set[str] = set()

    def compare(self, others: list[_Print]) -> None:
        """Adds the pairs with some images of the other source."""
        for other in others:
            for at in self._by_bytes.get(other.of_bytes, ()):
                self._add(at, other, SAME_BYTES, 0)
            for at in self._by_pixels.get(other.of_pixels, ()):
                if self._prints[at].of_bytes != other.of_bytes:
                    self._add(at, other, SAME_PIXELS, 0)
            self.shared.update(self._captions.intersection(other.captions))
        hashed = [other for other in others if other.hash is not None]
        close = perceptual_hash.near(self._hashes, _hashes(hashed), self._near)
        for place, number, bits in close.tolist():
            at, other = self._hashed[place], hashed[number]
            if bits or self._prints[at].of_pixels != other.of_pixels:
                self._add(at, other, NEAR, bits)

    def _add(self, at: int, other: _Print, level: int, distance: int) -> None:
        one, mine = self._prints[at], self._found[at]
        mine.append(Pair(one.place, level, distance, other.place, one.key, other.key))
        self._counts[at] += 1
        if len(mine) >= 2 * MOST_EACH:
            mine.sort()
            del mine[MOST_EACH:]

    def result(self) -> tuple[list[Pair], int]:
        """The pairs in order, and how many are left out."""
        kept = [
            pair for mine in self._found.values() for pair in sorted(mine)[:MOST_EACH]
        ]
        return sorted(kept), self._counts.total() - len(kept)


def _places(prints: list[_Print], digest: str) -> dict[bytes, list[int]]:
    places: dict[bytes, list[int]] = {}
    for at, one in enumerate(prints):
        places.setdefault(getattr(one, digest), []).append(at)
    return places


def _hashes(prints: list[_Print]) -> np.ndarray:
    return np.array([one.hash for one in prints], np.uint64)
