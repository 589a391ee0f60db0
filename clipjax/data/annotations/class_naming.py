"""Names a source's classes in words: the option `class_names` of several sources."""

from __future__ import annotations

import collections
import re
from collections.abc import Sequence

from clipjax.data.annotations import class_tables, known_classes
from clipjax.types import UserError

AUTO, RAW = "auto", "raw"
WORDNET_ID = re.compile(r"n\d{8}")


def check_one(classes: str, class_names: str) -> None:
    """Raises UserError if the options of these names both name the classes."""
    if classes and class_names != AUTO:
        raise UserError(
            f"classes={classes} and class_names={class_names} both name the classes: "
            f"remove one"
        )


def name_classes(ids: Sequence[str], class_names: str) -> tuple[list[str], list[str]]:
    """Returns the classes' names, and what to say about them (a text, or none).

    ids: the classes as the data write them, such as their folders.
    class_names:
      "raw": the ids themselves.
      "auto": ImageNet's names for WordNet ids (n01440764), and spaces for the `_` and
        `-` of an id without spaces, unless two names would become equal.
      else the name of a data set of tensorflow-datasets, whose names are taken. An id
        is one of its labels or names ("apple_pie", "Apple Pie"); or all ids are its
        numbers, from 0 or from 1 on.

    Raises UserError for an unknown data set, and for an id that it does not have.
    """
    if class_names == RAW:
        return list(ids), []
    if class_names == AUTO:
        return _in_words(ids)
    known = known_classes.find(class_names)
    names = _numbered(ids, known) or _matched(ids, known, class_names)
    first = f" ({_first(ids, names)})" if names != list(ids) else ""
    return names, [f"its classes are called as in {class_names}{first}"]


def _in_words(ids: Sequence[str]) -> tuple[list[str], list[str]]:
    words = [known_classes.in_words(i) for i in ids]
    counts = collections.Counter(words)
    names = [w if counts[w] == 1 else i for i, w in zip(ids, words, strict=True)]
    changed = [i for i, name in zip(ids, names, strict=True) if i != name]
    notes = []
    if changed:
        shown = known_classes.in_words(changed[0])
        notes.append(
            f"{len(changed)} class names with spaces for _ and - ({changed[0]!r} is "
            f"{shown!r}; class_names=raw keeps them)"
        )
    wordnet = [i for i in ids if WORDNET_ID.fullmatch(i)]
    if wordnet and (english := known_classes.imagenet_names()).keys() & wordnet:
        names = [english.get(i, name) for i, name in zip(ids, names, strict=True)]
        unknown = [i for i in wordnet if i not in english]
        without = f"; {len(unknown)} ids are none of its 1000" if unknown else ""
        notes.append(
            f"{len(wordnet) - len(unknown)} class names of ImageNet "
            f"({_first(ids, names)}; class_names=raw keeps the ids{without})"
        )
    return names, notes


def _numbered(
    ids: Sequence[str], known: known_classes.KnownClasses
) -> list[str] | None:
    """The names if the ids are all the data set's numbers, from 0 or 1 on."""
    if not all(i.isascii() and i.isdigit() for i in ids) or len(ids) != len(known):
        return None
    ordered = class_tables.in_order(ids)
    numbers = [int(i) for i in ordered]
    if numbers != list(range(numbers[0], numbers[0] + len(ids))) or numbers[0] > 1:
        return None
    return [known.names[int(i) - numbers[0]] for i in ids]


def _matched(
    ids: Sequence[str], known: known_classes.KnownClasses, dataset: str
) -> list[str]:
    name_of = {_plain(name): name for name in known.names}
    name_of |= {
        _plain(label): name
        for label, name in zip(known.labels, known.names, strict=True)
    }
    if missing := [i for i in ids if _plain(i) not in name_of]:
        raise UserError(
            f"class_names={dataset}: {missing[0]!r} is none of its {len(known)} "
            f"classes ({', '.join(known.names[:3])}, ...); use auto, raw, or a file of "
            f"names"
        )
    return [name_of[_plain(i)] for i in ids]


def _plain(name: str) -> str:
    return re.sub("[-_ /]", "", known_classes.in_words(name).casefold())


def _first(ids: Sequence[str], names: Sequence[str]) -> str:
    """The first class whose name is not its id."""
    i = next(i for i, name in enumerate(names) if name != ids[i])
    return f"{ids[i]!r} is {names[i]!r}"
