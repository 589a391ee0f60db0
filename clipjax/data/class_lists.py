"""Chooses a label set, and matches the classes of two lists."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable, Sequence

from clipjax.types import Source, UserError

SAME_NAME = ("apart", "merge", "error")


@dataclasses.dataclass(frozen=True)
class Classes:
    """The classes of a label set in index order.

    names: not always unique (ImageNet has two classes called "crane").
    ids: unique ids, such as the classes' folders; () if there are none.
    """

    names: tuple[str, ...] = ()
    ids: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.names)


NONE = Classes()  # for a model without classes


def find_label_set(source: Source, label_set: str) -> str | None:
    """Returns the label set called `label_set`; for "" the only one, else None.

    Raises UserError if the source does not have it.
    """
    known = source.class_names
    if not label_set:
        return next(iter(known)) if len(known) == 1 else None
    if label_set not in known:
        raise UserError(
            f"data.label_set={label_set!r}: the data have the label sets "
            f"{', '.join(known) or '(none)'}"
        )
    return label_set


def classes_of(source: Source, label_set: str) -> Classes:
    """Returns the classes of one of a source's label sets."""
    names = tuple(source.class_names[label_set])
    ids = tuple(getattr(source, "class_ids", {}).get(label_set, ()))
    return Classes(names, ids if len(set(ids)) == len(names) else ())


def shared_names(names: Iterable[str]) -> dict[str, int]:
    """name -> number of classes that have it, for names of several classes."""
    counts = collections.Counter(names)
    return {name: count for name, count in counts.items() if count > 1}


def shared_words(shared: dict[str, int]) -> str:
    """`shared_names` as text, the first three: "2 classes called 'crane'"."""
    first = [f"{count} classes called {n!r}" for n, count in list(shared.items())[:3]]
    more = f" and {len(shared) - 3} more such names" if len(shared) > 3 else ""
    return ", ".join(first) + more


def check_same_name(evals: str, same_name: str) -> None:
    """Raises UserError unless the option same_name has one of its values."""
    if same_name not in SAME_NAME:
        raise UserError(
            f"evals={evals}: same_name={same_name!r}: use {', '.join(SAME_NAME[:-1])} "
            f"or {SAME_NAME[-1]}"
        )


def refuse_same_names(evals: str, names: Iterable[str]) -> None:
    """Raises UserError if classes share a name; for same_name="error"."""
    if shared := shared_names(names):
        raise UserError(
            f"evals={evals}: {shared_words(shared)}, and same_name=error: give them "
            "names of their own, or choose same_name=apart or merge"
        )


def merge_same_names(
    names: Sequence[str], merge: bool = True
) -> tuple[Classes, tuple[int, ...]]:
    """Merges classes that share a name. Returns the merged classes and, for each given
    class, its index among them. merge=False: changes nothing.
    """
    if not merge:
        return Classes(tuple(names)), tuple(range(len(names)))
    number = {name: i for i, name in enumerate(dict.fromkeys(names))}
    return Classes(tuple(number)), tuple(number[name] for name in names)


def places(known: Classes, given: Classes) -> tuple[tuple[int, ...], str]:
    """Returns the index in `known` of each class in `given`, and how classes that share
    a name were matched: "", "by their folders" or "by their position".

    The name finds a class. If several classes in either list share it, the id decides.
    If one list has no ids, the position decides, but only if both lists have the same
    names in the same order.

    Raises UserError if `known` lacks a name, and if classes that share a name cannot be
    matched.
    """
    number = {name: i for i, name in enumerate(known.names)}
    unknown = next((name for name in given.names if name not in number), None)
    if unknown is not None:
        raise UserError(f"no class of the model is called {unknown!r}")
    shared = shared_names(known.names) | shared_names(given.names)
    ambiguous = [i for i, name in enumerate(given.names) if name in shared]
    if not ambiguous:
        return tuple(number[name] for name in given.names), ""
    if not (known.ids and given.ids):
        if known.names == given.names:
            return tuple(range(len(known))), "by their position"
        raise _unclear(shared, "the two lists of classes differ and have no folders")
    indices = [number[name] for name in given.names]
    by_id = {class_id: i for i, class_id in enumerate(known.ids)}
    for i in ambiguous:
        index = by_id.get(given.ids[i])
        if index is None or known.names[index] != given.names[i]:
            raise _unclear(shared, f"the model knows no folder {given.ids[i]!r} of it")
        indices[i] = index
    return tuple(indices), "by their folders"


def same(known: Classes, given: Classes) -> bool:
    """Whether two lists have the same classes in the same order."""
    if known.names != given.names:
        return False
    try:
        return places(known, given)[0] == tuple(range(len(known)))
    except UserError:
        return False


def _unclear(shared: dict[str, int], reason: str) -> UserError:
    return UserError(
        f"{shared_words(shared)}: the model's classes cannot be matched to the data's "
        f"({reason})"
    )
