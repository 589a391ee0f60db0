"""How often `prepare verify --against` finds altered copies, and takes others for one.

    python benchmarks/near_copies.py --data=captions --data.path=DATA/flickr8k

At most 1,000 images of the source are altered in several ways. The first table has the
share of altered images whose perceptual hash differs from the original's in at most so
many bits. The second counts pairs of two different images of the source by how many
bits differ: so many would be taken for copies by mistake. Those of 8 bits or fewer are
named, because some may be true copies. The last lines are the times of hashing and
comparing.
"""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageEnhance
from rich.console import Console
from rich.table import Table

from clipjax import data_flags, registry
from clipjax.data.images import decoding, perceptual_hash

LIMITS = (0, 2, 4, 6, 8, 10, 12)
MOST_ALTERED = 1000
COMPARED = 2000  # hashes of one side in the timing, against 100,000


def again(picture: Image.Image, quality: int) -> Image.Image:
    """The picture as a JPEG of this quality."""
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=quality)
    return decoding.decode(stream.getvalue())


def resized(picture: Image.Image, wide: int, high: int) -> Image.Image:
    return picture.resize((wide, high), Image.Resampling.BICUBIC)


def cropped(picture: Image.Image, share: float) -> Image.Image:
    """Without this share of the width and height, half of it at each side."""
    x, y = round(picture.width * share / 2), round(picture.height * share / 2)
    return picture.crop((x, y, picture.width - x, picture.height - y))


ALTERED: dict[str, Callable[[Image.Image], Image.Image]] = {
    "JPEG, quality 50": lambda p: again(p, 50),
    "JPEG, quality 20": lambda p: again(p, 20),
    "half the size, JPEG 90": lambda p: again(
        resized(p, p.width // 2, p.height // 2), 90
    ),
    "squashed to 224 x 224": lambda p: resized(p, 224, 224),
    "grey": lambda p: p.convert("L").convert("RGB"),
    "brightness x 0.8": lambda p: ImageEnhance.Brightness(p).enhance(0.8),
    "brightness x 1.2": lambda p: ImageEnhance.Brightness(p).enhance(1.2),
    "contrast x 1.2": lambda p: ImageEnhance.Contrast(p).enhance(1.2),
    "2 % cropped": lambda p: cropped(p, 0.02),
    "5 % cropped": lambda p: cropped(p, 0.05),
    "10 % cropped": lambda p: cropped(p, 0.1),
    "mirrored": lambda p: p.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
}


def main(argv: list[str]) -> None:
    given, rest = data_flags.read(argv[1:])
    if not given.name or rest:
        sys.exit(__doc__)
    make = registry.load("data", given.name)
    source = make(given.split or "all", **given.options(given.name))
    console = Console(highlight=False, width=100)
    hashes, keys, seconds, plain = [], [], 0.0, 0
    differ: dict[str, list[int]] = {name: [] for name in ALTERED}
    every = -(-len(source) // MOST_ALTERED)
    for index in range(len(source)):
        example = source[index]
        picture = decoding.decode(example.image)
        start = time.perf_counter()
        own = perceptual_hash.of_picture(picture)
        seconds += time.perf_counter() - start
        if own is None:
            plain += 1
            continue
        hashes.append(own)
        keys.append(example.key)
        for name, alter in ALTERED.items() if index % every == 0 else ():
            other = perceptual_hash.of_picture(alter(picture))
            bits = perceptual_hash.BITS + 1  # without a hash it is not found
            differ[name].append(bits if other is None else (own ^ other).bit_count())
    console.print(f"{len(source)} images, {plain} too plain for a hash")

    table = Table("found, %", *(f"<= {limit}" for limit in LIMITS))
    for name, values in differ.items():
        shares = [100 * np.mean(np.array(values) <= limit) for limit in LIMITS]
        table.add_row(name, *(f"{share:.1f}" for share in shares))
    console.print(table)

    found = np.array(hashes, np.uint64)
    pairs = perceptual_hash.near(found, found, max(LIMITS))
    pairs = pairs[pairs[:, 0] < pairs[:, 1]]
    for here, there, bits in pairs[pairs[:, 2] <= 8].tolist():
        console.print(f"{bits} bits: {keys[here]} {keys[there]}")
    table = Table(f"of {len(found) * (len(found) - 1) // 2:,} pairs", "pairs")
    for limit in LIMITS:
        table.add_row(f"<= {limit} bits", f"{int((pairs[:, 2] <= limit).sum()):,}")
    console.print(table)

    rng = np.random.default_rng(0)
    here, there = (
        rng.integers(2**64, size=size, dtype=np.uint64) for size in (COMPARED, 100_000)
    )
    start = time.perf_counter()
    perceptual_hash.near(here, there, 4)
    rate = len(here) * len(there) / (time.perf_counter() - start)
    console.print(f"a hash: {1000 * seconds / len(source):.2f} ms")
    console.print(f"compared in a second: {rate / 1e6:.0f} million pairs")


if __name__ == "__main__":
    main(sys.argv)
