"""A small part of a labelled source: random classes, random images per class."""

from __future__ import annotations

import collections
import dataclasses
import pathlib
import re
import shutil
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from clipjax.data.class_lists import find_label_set
from clipjax.data.images import decoding
from clipjax.data.prepare import reading, writing
from clipjax.data.prepare.reading import Broken
from clipjax.types import Example, Source, UserError

Progress = Callable[[int, int], None]


class Subset:
    """Some examples of a source, with one label set's classes renumbered."""

    def __init__(
        self, source: Source, label_set: str, classes: Sequence[int], chosen: list[int]
    ):
        self._source = source
        self._chosen = chosen
        self._set = label_set
        self._number = {old: new for new, old in enumerate(classes)}
        names = source.class_names[label_set]
        class_names = [names[old] for old in classes]
        self.class_names: Mapping[str, Sequence[str]] = {label_set: class_names}
        self.templates: Mapping[str, Sequence[str]] = {
            name: t for name, t in source.templates.items() if name == label_set
        }
        self.caption_counts = np.asarray(source.caption_counts)[chosen]
        self.max_captions = int(self.caption_counts.max(initial=0))
        self.problems: list[str] = []

    def __len__(self) -> int:
        return len(self._chosen)

    def __getitem__(self, index: int) -> Example:
        example = self._source[self._chosen[index]]
        label = self._number[example.labels[self._set]]
        return dataclasses.replace(example, labels={self._set: label})


def choose(
    source: Source,
    *,
    classes: int,
    per_class: int,
    seed: int,
    threads: int,
    label_set: str = "",
    progress: Progress | None = None,
) -> Subset:
    """Draws `classes` classes, and `per_class` decodable images per class.

    The choice of classes depends only on the seed and the number of classes, so that
    all splits of a data set get the same ones; they keep their order. A class with
    fewer images gives all of them.

    Raises UserError for a source without labels, or with fewer classes.
    """
    name = find_label_set(source, label_set)
    if name is None:
        known = ", ".join(source.class_names)
        raise UserError(
            f"tiny needs one label set and the data have {known or 'none'}"
            + (": choose by --label_set=" if known else ": use data with labels")
        )
    total = len(source.class_names[name])
    if not 1 <= classes <= total:
        raise UserError(f"--classes={classes}: the data have {total}; use 1 to {total}")
    if per_class < 1:
        raise UserError(f"--per_class={per_class}: use 1 or more")
    rng = np.random.default_rng(seed)
    taken = sorted(rng.permutation(total)[:classes].tolist())
    order = rng.permutation(len(source)).tolist()
    wanted = dict.fromkeys(taken, per_class)
    chosen: list[int] = []

    def label_of(index: int, example: Example) -> int:
        label = example.labels.get(name, -1)
        if wanted.get(label, 0):
            decoding.decode(example.image)
        return label

    labels = reading.each(source, order, label_of, threads)
    for done, (index, label) in enumerate(labels, 1):
        if not isinstance(label, Broken) and wanted.get(label, 0):
            wanted[label] -= 1
            chosen.append(index)
        if progress is not None:
            progress(done, len(order))
        if not any(wanted.values()):
            break
    if not chosen:
        raise UserError("none of the chosen classes has an image that can be used")
    return Subset(source, name, taken, sorted(chosen))


def write_folders(
    source: Subset, split: str, out: pathlib.Path, fit: writing.Fit, threads: int
) -> dict[str, int]:
    """Writes OUT/SPLIT/CLASS/NUMBER.jpg atomically; returns class -> images.

    Captions are not written. Raises UserError if the split already exists, and if two
    classes would share a folder.
    """
    place = out / split
    if place.exists():
        raise UserError(f"{place} already exists: choose another --out, or delete it")
    ((name, names),) = source.class_names.items()
    folders = [re.sub(r"[^\w .,()'&+-]", "_", str(n)).strip(" .") or "_" for n in names]
    shared = [n for n, count in collections.Counter(folders).items() if count > 1]
    if shared:
        raise UserError(
            f"several classes would share the folder {shared[0]!r}: use "
            f"--to=arrayrecord"
        )
    scratch = out / f".{split}.partial"
    shutil.rmtree(scratch, ignore_errors=True)
    for folder in folders:
        (scratch / folder).mkdir(parents=True)
    counts = dict.fromkeys(folders, 0)
    examples = reading.each(
        source, range(len(source)), lambda _, example: fit(example), threads
    )
    for _, example in examples:
        if isinstance(example, Broken):  # `choose` could decode it before
            raise UserError(f"{example.key}: {example.reason}")
        folder = folders[example.labels[name]]
        assert isinstance(example.image, bytes)
        suffix = writing.SUFFIXES[decoding.format_of(example.image)]
        file = scratch / folder / f"{counts[folder]:05d}{suffix}"
        file.write_bytes(example.image)
        counts[folder] += 1
    scratch.replace(place)
    return counts
