"""Combines several sources: `parts="webdataset path=A + captions path=B"`.

It concatenates the parts' examples, so that its length is the sum of theirs. An
example's index is its index in its part plus the lengths of the parts before.

Without weights an epoch visits every example of every part once, in one random order.
With `weight=` on all parts, training takes that share of its examples from each, evenly
spread: 3 and 1 give three to one in every four, whatever the sizes. An epoch then has
as many examples as all parts together; each part goes through its own epochs, in a new
order each time. The order remains a function of (seed, step) alone.

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
    """Makes each part's source, with the same split unless the part sets its split.

    Options:
      parts: NAME key=value ... + NAME key=value ..., any sources with their options.
        Each may have `weight`, its share of the training examples (all parts or none);
        `as`, its label in messages, by default its source's name; `split`, its split
        for every split of the mixture, or `split.val`, its split if the mixture's is
        val.

    Label sets with the same name and the same classes are merged; others become
    LABEL.SET.

    Raises UserError for no parts, for a mistake in one of them, and for parts with
    different modalities.
    """
    if not parts.strip():
        raise UserError(
            "data=mixture needs the option parts: "
            + local.set_by("parts", f'"{mixture_spec.FORM}"')
        )
    members = mixture_spec.parts(parts)
    weighted = [part.label for part in members if part.weight is not None]
    if weighted and len(weighted) < len(members):
        unweighted = [part.label for part in members if part.weight is None]
        raise UserError(
            f"parts: {weighted[0]} has a weight and {unweighted[0]} has none: give one "
            f"to all parts, or to none"
        )
    sources = {part.label: part.make(split) for part in members}
    for label, source in sources.items():
        if isinstance(source, Mixture):
            raise UserError(f"{label} is a mixture itself: list its parts in this one")
        if not len(source):
            raise UserError(f"{label} is empty in the split {split!r}")
    weights = [part.weight for part in members if part.weight is not None]
    return Mixture(sources, weights)


class Mixture:
    """The parts as one `clipjax.types.Source`; see the module.

    shares: (examples, weight) per part, in order; () without weights.
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
        """Returns a part's example; raises BadExample as the part does."""
        part, offset = self._locate(index)
        label = self._labels[part]
        try:
            example = self._sources[part][offset]
        except BadExample as error:
            key = error.key or f"example {offset}"
            raise BadExample(error.reason, f"{label}: {key}") from error
        return dataclasses.replace(
            example,
            labels={self._sets[part][name]: n for name, n in example.labels.items()},
            key=f"{label}: {example.key or f'example {offset}'}",
        )

    def captions_of(self, index: int) -> Sequence[str]:
        """Returns an example's captions, without its image if the part can."""
        part, offset = self._locate(index)
        source = self._sources[part]
        read = getattr(source, "captions_of", None)
        return read(offset) if read is not None else source[offset].captions

    def key_of(self, index: int) -> str:
        """Returns an example's key, without its image if the part can."""
        part, offset = self._locate(index)
        source = self._sources[part]
        read = getattr(source, "key_of", None)
        key = read(offset) if read is not None else source[offset].key
        return f"{self._labels[part]}: {key or f'example {offset}'}"

    def _locate(self, index: int) -> tuple[int, int]:
        return local.part_and_offset(self._ends, local.position(index, len(self)))

    def _merge(self, label: str, source: Source) -> dict[str, str]:
        """Merges a part's label sets; returns their names in the mixture."""
        merged_names = {}
        for name, names in source.class_names.items():
            classes, merged = class_lists.classes_of(source, name), name
            if name in self.class_names:
                known_names = tuple(self.class_names[name])
                known = class_lists.Classes(
                    known_names, tuple(self.class_ids.get(name, ()))
                )
                same = class_lists.same(known, classes)
                merged = name if same else f"{label}.{name}"
            merged_names[name] = merged
            self.class_names.setdefault(merged, names)
            if classes.ids:
                self.class_ids.setdefault(merged, classes.ids)
            if name in source.templates:
                self.templates.setdefault(merged, source.templates[name])
        return merged_names
