"""Several sources as one: `parts="webdataset path=A + captions path=B"`.

Its examples are those of the parts, one part after the other, so that its length is the
sum of theirs, and an image keeps its id (that of its part, moved by the parts before).

Without weights an epoch visits every example of every part once, in one random order.
With `weight=` on all parts, training takes that share of its examples from each, evenly
spread: 3 and 1 give three to one in every four, whatever the sizes. An epoch is then as
many examples as there are in all; each part goes through epochs of its own, in a new
order each time. Which example comes when stays a function of (seed, step) alone.

    --config configs/x.py:data=mixture \\
        --config.data.train.parts="webdataset path=A + captions path=B"
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from clipjax.data import class_lists, mixture_spec
from clipjax.data.storage import local
from clipjax.types import BadExample, Example, Source, UserError


def make(split: str, *, parts: str = "") -> Mixture:
    """Makes each part's source, of the same split unless the part says another.

    Options:
      parts: NAME key=value ... + NAME key=value ..., of any sources with their options,
        and for each: `weight`, its share of the training examples (all parts or none);
        `as`, its label in messages, its source's name unless given; `split`, its split
        whatever the mixture's, or `split.val`, its split if the mixture's is val.

    Label sets of the same name and the same classes are one; others are kept apart as
    LABEL.SET.

    Raises UserError for no parts, for a mistake in one of them, and for parts with
    different modalities.
    """
    if not parts.strip():
        raise UserError(
            "data=mixture needs the option parts: "
            + local.set_by("parts", f'"{mixture_spec.FORM}"')
        )
    found = mixture_spec.parts(parts)
    given = [part.label for part in found if part.weight is not None]
    if given and len(given) < len(found):
        missing = [part.label for part in found if part.weight is None]
        raise UserError(
            f"parts: {given[0]} has a weight and {missing[0]} has none: give one to "
            f"all parts, or to none"
        )
    sources = {part.label: part.make(split) for part in found}
    for label, source in sources.items():
        if isinstance(source, Mixture):
            raise UserError(f"{label} is a mixture itself: list its parts in this one")
        if not len(source):
            raise UserError(f"{label} is empty in the split {split!r}")
    weights = [part.weight for part in found if part.weight is not None]
    return Mixture(sources, weights)


class Mixture:
    """See `clipjax.types.Source` and the module.

    shares: (examples, weight) of the parts in their order, () without weights.
    """

    def __init__(self, sources: Mapping[str, Source], weights: Sequence[float] = ()):
        self._labels = list(sources)
        self._sources = list(sources.values())
        sizes = [len(source) for source in self._sources]
        self._ends = list(itertools.accumulate(sizes))
        self.shares = tuple(zip(sizes, weights, strict=True)) if weights else ()
        counts = [np.asarray(source.caption_counts) for source in self._sources]
        self.caption_counts = np.concatenate(counts).astype(np.int32)
        self.max_captions = int(self.caption_counts.max(initial=0))
        self.problems = [
            f"{label}: {problem}"
            for label, source in sources.items()
            for problem in getattr(source, "problems", ())
        ]
        self.class_names: dict[str, Sequence[str]] = {}
        self.class_ids: dict[str, Sequence[str]] = {}
        self.templates: dict[str, Sequence[str]] = {}
        self._sets = [self._merge(label, source) for label, source in sources.items()]

    def __len__(self) -> int:
        return len(self.caption_counts)

    def __getitem__(self, index: int) -> Example:
        """An example of a part; raises BadExample as the part does."""
        part, inside = self._place(index)
        label = self._labels[part]
        try:
            found = self._sources[part][inside]
        except BadExample as error:
            key = error.key or f"example {inside}"
            raise BadExample(error.reason, f"{label}: {key}") from error
        return dataclasses.replace(
            found,
            labels={self._sets[part][name]: n for name, n in found.labels.items()},
            key=f"{label}: {found.key or f'example {inside}'}",
        )

    def captions_of(self, index: int) -> Sequence[str]:
        """The captions of an example, without its image if the part can do so."""
        part, inside = self._place(index)
        source = self._sources[part]
        read = getattr(source, "captions_of", None)
        return read(inside) if read is not None else source[inside].captions

    def key_of(self, index: int) -> str:
        """The key of an example, without its image if the part can do so."""
        part, inside = self._place(index)
        source = self._sources[part]
        read = getattr(source, "key_of", None)
        key = read(inside) if read is not None else source[inside].key
        return f"{self._labels[part]}: {key or f'example {inside}'}"

    def _place(self, index: int) -> tuple[int, int]:
        return local.part_and_offset(self._ends, local.position(index, len(self)))

    def _merge(self, label: str, source: Source) -> dict[str, str]:
        """Takes a part's label sets in; returns what each is called here."""
        called = {}
        for name, names in source.class_names.items():
            own, here = class_lists.classes_of(source, name), name
            if name in self.class_names:
                there = tuple(self.class_names[name])
                known = class_lists.Classes(there, tuple(self.class_ids.get(name, ())))
                same = class_lists.same(known, own)
                here = name if same else f"{label}.{name}"
            called[name] = here
            self.class_names.setdefault(here, names)
            if own.ids:
                self.class_ids.setdefault(here, own.ids)
            if name in source.templates:
                self.templates.setdefault(here, source.templates[name])
        return called
