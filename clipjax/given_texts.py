"""What users give as texts: one, or any number."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from clipjax.types import UserError


class Texts:
    """Some texts, each taken when it is asked for; iterated over once.

    texts: one str, or several: a list, a generator, an array of strings, or anything
    with a length and numbered elements.

    single: whether it is one str.

    Raises UserError if `texts` is neither.
    """

    def __init__(self, texts: Any):
        self.single = isinstance(texts, str)
        if self.single:
            texts = [texts]
        if not (isinstance(texts, Iterable) or hasattr(texts, "__getitem__")) or (
            isinstance(texts, bytes | bytearray | Mapping)
            or getattr(texts, "ndim", 1) != 1
        ):
            raise UserError(
                'give a string or a list of strings, such as ["a dog"], not '
                f"{type(texts).__name__}"
            )
        self._texts = texts

    def __length_hint__(self) -> int:
        return operator.length_hint(self._texts)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._texts)
