"""The texts of a call: one, or any number; classes' names and templates."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from clipjax.data.annotations import prompt_templates
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


def class_names(names: Any) -> tuple[str, ...]:
    """Some classes' names: a list, a generator, an array, the keys of a dict.

    Raises UserError unless they are strings, and at least one.
    """
    several = isinstance(names, Iterable) and not isinstance(names, str | bytes)
    found: tuple[Any, ...] = tuple(names) if several else ()
    if not found:
        raise UserError(
            f"zero_shot: names={names!r}: give the classes' names, such as "
            '["dog", "cat"]'
        )
    for number, name in enumerate(found):
        if not isinstance(name, str):
            raise UserError(f"zero_shot: name {number} is no str but {name!r}")
    return found


def templates(given: Any) -> tuple[str, ...]:
    """Prompts with one `{}`: a str or several; () for none.

    Raises UserError for anything else.
    """
    if isinstance(given, str):
        return templates((given,))
    if not isinstance(given, Iterable) or isinstance(given, bytes):
        raise UserError(
            f"zero_shot: templates={given!r}: give one, or a list, such as "
            '["a photo of a {}."]; leave it out for the usual ones'
        )
    found = tuple(given)
    for number, template in enumerate(found):
        if not isinstance(template, str):
            raise UserError(f"zero_shot: template {number} is no str but {template!r}")
    return prompt_templates.check(found, "zero_shot: templates")
