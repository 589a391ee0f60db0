"""Many strings in one array: a few bytes each, quick to pickle for a worker process."""

from __future__ import annotations

import array
from collections.abc import Iterable, Iterator

import numpy as np

# File names that are not UTF-8 have surrogates, which must survive.
ERRORS = "surrogatepass"


class Strings:
    """An immutable sequence of strings; each access decodes one."""

    def __init__(self, strings: Iterable[str]):
        joined, ends = bytearray(), array.array("q", [0])
        for string in strings:
            joined += string.encode("utf-8", ERRORS)
            ends.append(len(joined))
        self._joined = bytes(joined)
        self._ends = np.frombuffer(ends, np.int64)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> str:
        """Raises IndexError out of range; there are no negative indices."""
        if not 0 <= index < len(self):
            raise IndexError(f"string {index} of {len(self)}")
        start, stop = self._ends[index : index + 2].tolist()
        return self._joined[start:stop].decode("utf-8", ERRORS)

    def __iter__(self) -> Iterator[str]:
        return (self[i] for i in range(len(self)))
