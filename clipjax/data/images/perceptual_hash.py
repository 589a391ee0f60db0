"""Perceptual hashes: 64 bits that hardly change if a picture is re-encoded or resized.

The hash is pHash (C. Zauner, "Implementation and Benchmarking of Perceptual Image Hash
Functions", 2010) as the library ImageHash computes it: its `phash` has the same bits.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from clipjax.types import UserError

BITS = 64
# Differing bits of pictures that are nearly the same, by default and at most;
# docs/prepare.md has the measured errors.
NEAR, MOST_NEAR = 4, 16
_SIDE, _LOW = 32, 8  # of the small grey picture; frequencies per axis
# Photographs have 3 or more. Below 2 grey levels JPEG's noise decides the bits.
_PLAIN = 2.0
_CELLS = 2**18  # distances at once, whose differences (2 MiB) a cache can hold
# Row k: the cosines of the DCT-II's frequency k at the 32 places.
_COSINES = 2 * np.cos(
    np.pi / _SIDE * np.arange(_LOW)[:, None] * (np.arange(_SIDE) + 0.5)
)


def of_picture(picture: Image.Image) -> int | None:
    """A picture's hash, from 0 to 2^64 - 1; None if the picture is too plain for one.

    The picture becomes grey, 32 x 32. A bit says whether one of the 8 x 8 lowest
    frequencies of its DCT is above their median, so exactly half of the bits are set
    unless frequencies tie.

    A plain picture, such as of one colour, of a smooth gradient or of a few symmetric
    shapes, has mostly frequencies so near to the median that noise decides the bits.
    """
    small = picture.convert("L").resize((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    low = _COSINES @ np.asarray(small, np.float64) @ _COSINES.T
    apart = low - _median(low)
    # In grey levels: pixels' independent noise changes a frequency by 64 times as much.
    if _median(np.abs(apart)) < _PLAIN * 2 * _SIDE:
        return None
    return int(np.packbits((apart > 0).ravel()).view(">u8")[0])


def _median(values: np.ndarray) -> float:
    """As np.median of an even number of values, in a tenth of the time."""
    ordered = np.sort(values, axis=None)
    return (ordered[len(ordered) // 2 - 1] + ordered[len(ordered) // 2]) / 2


def check_near(most: int) -> None:
    """Raises UserError for a --near that is no useful number of bits."""
    if not 0 <= most <= MOST_NEAR:
        raise UserError(f"--near={most}: use 0 to {MOST_NEAR} of {BITS} bits")


def near(hashes: np.ndarray, others: np.ndarray, most: int) -> np.ndarray:
    """The pairs of hashes that differ in at most `most` bits.

    Args:
      hashes: uint64 [n]. others: uint64 [m].

    Returns int64 [pairs 3]: place in hashes, place in others, how many bits differ.
    Memory does not grow with n times m.
    """
    rows = max(1, _CELLS // max(len(others), 1))
    found = [np.zeros((0, 3), np.int64)]
    for start in range(0, len(hashes), rows):
        bits = np.bitwise_count(hashes[start : start + rows, None] ^ others[None, :])
        here, there = np.nonzero(bits <= most)
        found.append(np.stack([here + start, there, bits[here, there]], axis=1))
    return np.concatenate(found)
