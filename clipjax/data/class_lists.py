"""Which label set is meant, and which class of one list is which of another."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable, Sequence

from clipjax.types import Source, UserError

SAME_NAME = ("apart", "merge")


@dataclasses.dataclass(frozen=True)
class Classes:
    """The classes of a label set in index order.

    names: what they are called; two may have one name (ImageNet has two "crane").
    ids: what tells them apart all the same, such as their folders; () without.
    """

    names: tuple[str, ...] = ()
    ids: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.names)


NONE = Classes()  # of a model without classes


def find_label_set(source: Source, label_set: str) -> str | None:
    """The label set of that name; for "" the only one, None if there are others.

    Raises UserError for one that the source does not have.
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
    """The classes of one of a source's label sets."""
    names = tuple(source.class_names[label_set])
    ids = tuple(getattr(source, "class_ids", {}).get(label_set, ()))
    return Classes(names, ids if len(set(ids)) == len(names) else ())


def shared_names(names: Iterable[str]) -> dict[str, int]:
    """Each name that several classes have, and how many have it."""
    counts = collections.Counter(names)
    return {name: many for name, many in counts.items() if many > 1}


def shared_words(shared: dict[str, int]) -> str:
    """`shared_names` in words, the first three: "2 classes called 'crane'"."""
    listed = [f"{many} classes called {n!r}" for n, many in list(shared.items())[:3]]
    more = f" and {len(shared) - 3} more such names" if len(shared) > 3 else ""
    return ", ".join(listed) + more


def check_same_name(evals: str, same_name: str) -> None:
    """Raises UserError for a value that the option same_name does not have."""
    if same_name not in SAME_NAME:
        raise UserError(
            f"evals={evals}: same_name={same_name!r}: use {' or '.join(SAME_NAME)}"
        )


def merged(names: Sequence[str], merge: bool = True) -> tuple[Classes, tuple[int, ...]]:
    """The classes if those of one name are one, and of each given class its number
    there. merge=False: the classes as they are.
    """
    if not merge:
        return Classes(tuple(names)), tuple(range(len(names)))
    number = {name: i for i, name in enumerate(dict.fromkeys(names))}
    return Classes(tuple(number)), tuple(number[name] for name in names)


def places(known: Classes, given: Classes) -> tuple[tuple[int, ...], str]:
    """(the number in `known` of each class of `given`, how those of one name were told
    apart: "", "by their folders" or "by their position").

    A class is found by its name. If several have that name, in either list, it is
    found by its id; if one list has no ids, by its position if both lists have the
    same names in the same order.

    Raises UserError for a name that `known` lacks, and for a name of several classes
    if nothing tells which one is meant.
    """
    number = {name: i for i, name in enumerate(known.names)}
    unknown = next((name for name in given.names if name not in number), None)
    if unknown is not None:
        raise UserError(f"no class of the model is called {unknown!r}")
    shared = shared_names(known.names) | shared_names(given.names)
    doubtful = [i for i, name in enumerate(given.names) if name in shared]
    if not doubtful:
        return tuple(number[name] for name in given.names), ""
    if not (known.ids and given.ids):
        if known.names == given.names:
            return tuple(range(len(known))), "by their position"
        raise _unclear(shared, "the two lists of classes differ and have no folders")
    found = [number[name] for name in given.names]
    by_id = {own: i for i, own in enumerate(known.ids)}
    for i in doubtful:
        place = by_id.get(given.ids[i])
        if place is None or known.names[place] != given.names[i]:
            raise _unclear(shared, f"the model knows no folder {given.ids[i]!r} of it")
        found[i] = place
    return tuple(found), "by their folders"


def same(known: Classes, given: Classes) -> bool:
    """Whether two lists have the same classes in the same order."""
    if known.names != given.names:
        return False
    try:
        return places(known, given)[0] == tuple(range(len(known)))
    except UserError:
        return False


def _unclear(shared: dict[str, int], why: str) -> UserError:
    return UserError(
        f"{shared_words(shared)}: which of the model's is which of the data's cannot "
        f"be told ({why})"
    )
