"""Reads parquet files with encoded images, captions and labels in the hub's layout.

`hf download --repo-type dataset` writes such folders: files named by their splits
(`data/train-00000-of-00042.parquet`, `default/validation/0000.parquet`) with a column
of images ({bytes, path} or bytes alone), captions as text or lists of texts, and
classes as numbers with their names in the file. A row is an example.

    --config configs/x.py:data=parquet --config.data.train.path=FOLDER
"""

from __future__ import annotations

import dataclasses
import itertools
import pathlib
from typing import Any

import numpy as np

from clipjax.data.annotations import class_naming
from clipjax.data.annotations.caption_entries import Counts
from clipjax.data.containers import parquet_classes, parquet_rows, parquet_splits
from clipjax.data.containers.parquet_columns import Columns, Wanted
from clipjax.data.storage import local, selection, shard_files
from clipjax.types import BadExample, Example, UserError


def make(
    split: str,
    *,
    path: str = "",
    shards: str = "",
    image_column: str = "",
    caption_column: str = "",
    labels: tuple[str, ...] = (),
    classes: str = "",
    class_names: str = class_naming.AUTO,
    split_column: str = "",
    val_fraction: float = 0.01,
    max_samples: int = 0,
    max_classes: int = 0,
    max_samples_per_class: int = 0,
    subset_seed: int = -1,
) -> Parquet:
    """Finds a split's files and scans their rows, but reads no image.

    The split is one of those in the files' names or folders; "val" also matches
    validation, valid and dev; "all" is all files. If there is no "val", a part of
    "train" is held out for it, by a hash of the keys (storage/selection.py). The same
    divides files without a split in their names into "train" and "val".

    Options:
      path: the folder; its files may be in a subfolder, such as data.
      shards: use these files instead; keys divide them into "train" and "val". A
        pattern relative to `path`, or numbered files of which none may be missing,
        "{00000..00331}.parquet"; several are joined by "::". With {split} in it, all
        of them belong to this split.
      image_column: "" finds image, jpg and similar names.
      caption_column: also a struct's field, "sentences.raw", or several columns,
        "caption_*"; "" finds caption, text and similar names, "none" takes none.
      labels: columns with the numbers of classes, or their names as text or categories,
        each a label set; () finds those that the files declare, or label, labels and
        similar names. Names are numbered in alphabetical order, over all splits.
      classes: text file of class names, one per line, in the order of their numbers,
        in place of the files' own; relative to `path`.
      class_names: "auto" puts spaces for the `_` and `-` of the files' names, and
        ImageNet's names for WordNet ids; "raw" takes them as they are; the name of a
        data set of tensorflow-datasets takes its names.
      split_column: a column with each row's split, which replaces the rules above;
        text, categories, or numbers with names in the files.
      val_fraction: share of the examples in "val" if it is held out, in [0, 1].
      max_samples: use so many examples (0: all).
      max_classes, max_samples_per_class: of one label set, use so many classes,
        renumbered from 0, and so many examples per class (0: all).
      subset_seed: which ones: -1 the first, else a choice by this seed.

    Raises UserError for missing folders, files, columns and splits, and if no
    example is left.
    """
    selection.check_fraction(val_fraction)
    class_naming.check_one(classes, class_names)
    base = local.folder(path, "parquet files")
    problems: list[str] = []
    if shards:
        names, part = _named(base, shards, split)
    else:
        names, part = _of_split(base, split, bool(split_column), problems)
    wanted = Wanted(image_column, caption_column, labels, split_column)

    def scan(name: str) -> tuple[parquet_rows.Rows, np.ndarray, set[str]]:
        """Returns a file's rows without keys, the ones in the split, and its splits."""
        rows = parquet_rows.scan(base / name, name, wanted)
        in_split = np.ones(len(rows.keys), bool)
        splits = {parquet_splits.canonical(s) for s in set(rows.splits)}
        if split_column and split != "all":
            target = parquet_splits.canonical(split)
            in_split = np.array(
                [parquet_splits.canonical(s) == target for s in rows.splits], bool
            )
        elif part != "all":
            in_split = np.array(
                [selection.in_split(key, part, val_fraction) for key in rows.keys], bool
            )
        return dataclasses.replace(rows, keys=[], splits=[]), in_split, splits

    scanned, in_split, splits = zip(*shard_files.each(scan, names), strict=True)
    in_split = np.concatenate(in_split)
    if not len(in_split):
        raise UserError(f"the {len(names)} shards of {base} hold no images")
    if not in_split.any() and split_column:
        raise parquet_splits.unknown(base, split, sorted(set().union(*splits)))
    if not in_split.any():
        raise UserError(
            f"none of the {len(in_split)} images of {base} falls into the split "
            f"{split!r} with val_fraction={val_fraction}; change it"
        )
    problems += parquet_rows.problems(scanned)
    files = names if shards else _all_files(base)
    sets = parquet_classes.ids(base, scanned, files, classes, problems)
    if "{split}" in shards and not classes:
        problems += [
            f"the classes of {name} are numbered by their names in the files of "
            f"{shards}, which may differ in another split: set the option classes"
            for name in sorted(scanned[0].columns.text_labels & sets.keys())
        ]
    if (max_classes or max_samples_per_class) and len(sets) != 1:
        raise UserError(
            f"max_classes and max_samples_per_class need one label set, and {base} has "
            f"{', '.join(sets) or 'none'}: choose it by the option labels"
        )
    numbers = {
        name: np.concatenate([parquet_classes.numbers(f, name, ids) for f in scanned])
        for name, ids in sets.items()
    }
    for name in sets:
        dropped = sum(int((f.labels[name] >= 0).sum()) for f in scanned)
        dropped -= int((numbers[name] >= 0).sum())
        if dropped:
            problems.append(f"{dropped} images whose {name} is none of {classes}")
    by_class = None
    if max_classes or max_samples_per_class:
        ((name, by_class),) = numbers.items()
        subset = selection.classes(len(sets[name]), max_classes, subset_seed)
        renumbered = np.full(len(sets[name]), parquet_rows.NO_LABEL, np.int32)
        renumbered[subset] = np.arange(len(subset))
        known = (by_class >= 0) & (by_class < len(renumbered))
        if dropped := int((in_split & ~known).sum()):
            problems.append(f"{dropped} images without one of the classes, left out")
        by_class = np.where(
            known, renumbered[np.where(known, by_class, 0)], parquet_rows.NO_LABEL
        )
        in_split &= by_class >= 0
        if not in_split.any():
            raise UserError(f"no image of {base} has one of the chosen classes")
        numbers[name] = by_class
        sets[name] = [sets[name][i] for i in subset]
    usable = np.flatnonzero(in_split)
    chosen = selection.examples(
        len(usable),
        labels=None if by_class is None else by_class[usable],
        max_samples=max_samples,
        max_samples_per_class=max_samples_per_class,
        subset_seed=subset_seed,
    )
    class_ids = {} if classes else sets
    if not classes:
        sets = parquet_classes.named(sets, class_names, problems)
    return Parquet(base, scanned, usable[chosen], numbers, sets, class_ids, problems)


class Parquet:
    """A `clipjax.types.Source`; `problems` lists what was left out.

    chosen: int64, the indices to use among all files' rows. numbers: label set -> int32
    [all rows].
    """

    def __init__(
        self,
        base: pathlib.Path,
        scanned: tuple[parquet_rows.Rows, ...],
        chosen: np.ndarray,
        numbers: dict[str, np.ndarray],
        class_names: dict[str, list[str]],
        class_ids: dict[str, list[str]],
        problems: list[str],
    ):
        # Without what only this method needs, so that worker processes receive little.
        self._rows = [
            dataclasses.replace(
                rows,
                labels={},
                label_texts={},
                columns=dataclasses.replace(rows.columns, labels={}),
            )
            for rows in scanned
        ]
        self._ends = list(itertools.accumulate(len(rows.captions) for rows in scanned))
        self._chosen = chosen
        self._groups = parquet_rows.RowGroups()
        self._labels = {name: numbers[name][chosen] for name in class_names}
        counts = np.concatenate([rows.captions for rows in scanned])
        self.caption_counts = counts[chosen]
        self.max_captions = int(self.caption_counts.max())
        self.class_names, self.class_ids = class_names, class_ids
        self.templates = {name: ("a photo of a {}.",) for name in class_names}
        self.problems = problems
        if failed := sum(rows.failed for rows in scanned):
            problems.append(f"{failed} rows without an image, left out")
        if (largest := max(rows.largest for rows in scanned)) > parquet_rows.MEMORY:
            problems.append(
                f"an image is read with a row group of {largest / 2**20:.0f} MiB: "
                f"write the files with row_group_size=100, or copy them by "
                f"clipjax.prepare"
            )
        local.report(f"parquet {base}", problems)

    def __len__(self) -> int:
        return len(self._chosen)

    def __getitem__(self, index: int) -> Example:
        """Reads one example; raises BadExample, naming file and key, if broken."""
        rows, i = self._locate(index)
        columns = (rows.columns.image, *rows.columns.captions)
        values, key = self._values(rows, i, columns)
        image, *captions = values
        if not image:
            raise BadExample(self._no_image(rows, i, key), key)
        return Example(
            image=image,
            captions=self._parse(rows.columns, captions, key),
            labels=self._labels_of(index, key),
            key=key,
        )

    def captions_of(self, index: int) -> list[str]:
        """Returns an example's captions, without its image; raises BadExample."""
        rows, i = self._locate(index)
        return self._parse(rows.columns, *self._values(rows, i, rows.columns.captions))

    def key_of(self, index: int) -> str:
        """Returns an example's key without reading its image."""
        return self._values(*self._locate(index), ())[1]

    def _locate(self, index: int) -> tuple[parquet_rows.Rows, int]:
        """Returns an example's file and its row there."""
        position = int(self._chosen[local.position(index, len(self))])
        shard, i = local.part_and_offset(self._ends, position)
        return self._rows[shard], i

    def _values(
        self, rows: parquet_rows.Rows, i: int, columns: tuple[str, ...]
    ) -> tuple[list[Any], str]:
        """Returns a row's values, b"" for null, and its key."""
        key_of_row = f"{rows.name}:{rows.group[i]}/{rows.row[i]}"
        key_column = rows.columns.key
        names = (*columns, key_column) if key_column else columns
        try:
            values = self._groups.values(rows, i, names) if names else []
        except BadExample as error:
            raise BadExample(error.reason, key_of_row) from error
        if key_column and (name := values.pop()):
            key_of_row = f"{rows.name}:{name.decode('utf-8', 'backslashreplace')}"
        return values, key_of_row

    def _parse(self, columns: Columns, values: list[Any], key: str) -> list[str]:
        captions = []
        for text in parquet_rows.texts(columns, values, Counts()):
            if isinstance(text, bytes):
                raise BadExample("the caption is not UTF-8 text", key)
            captions.append(text)
        return captions

    def _no_image(self, rows: parquet_rows.Rows, i: int, key: str) -> str:
        path = rows.columns.path
        name = self._values(rows, i, (path,))[0][0] if path else b""
        name = name.decode("utf-8", "backslashreplace")
        return f"it has no image, only the path {name}" if name else "it has no image"

    def _labels_of(self, index: int, key: str) -> dict[str, int]:
        labels = {name: int(self._labels[name][index]) for name in self._labels}
        for name, label in labels.items():
            if label >= (known := len(self.class_names[name])):
                raise BadExample(
                    f"{name} is {label}, but there are {known} class names", key
                )
        return {name: label for name, label in labels.items() if label >= 0}


def _named(base: pathlib.Path, shards: str, split: str) -> tuple[list[str], str]:
    """Returns the files that `shards` names, and the part of them that is the split."""
    matches = shard_files.find(shard_files.LocalFolder(base), shards, split)
    names = [n for n in matches if not pathlib.PurePath(n).name.startswith((".", "_"))]
    if not names:
        raise UserError(f"no shard of {base} matches {shards}: only hidden files do")
    if "{split}" in shards:
        return names, "all"
    if split not in selection.SPLITS:
        raise UserError(
            f"with shards={shards} there is no split {split!r}; use "
            f"{', '.join(selection.SPLITS)}, or write {{split}} in the option shards"
        )
    return names, split


def _of_split(
    base: pathlib.Path, split: str, by_rows: bool, problems: list[str]
) -> tuple[list[str], str]:
    """Returns the files of a split, and the part of them that it is."""
    files_of = parquet_splits.find(base)
    if split == "all" or by_rows:
        return sorted(itertools.chain.from_iterable(files_of.values())), "all"
    canonical_split = parquet_splits.canonical(split)
    if canonical_split in files_of:
        names, part = files_of[canonical_split], "all"
    elif list(files_of) == [""] and canonical_split in selection.SPLITS:
        names, part = files_of[""], canonical_split
    elif canonical_split == "val" and "train" in files_of:
        names, part = files_of["train"], "val"
    else:
        held_out = ["val"] if "train" in files_of or "" in files_of else []
        known = [*(sorted(n for n in files_of if n) or ["train"]), *held_out, "all"]
        raise parquet_splits.unknown(base, split, list(dict.fromkeys(known)))
    if canonical_split == "train" and "train" in files_of and "val" not in files_of:
        part = "train"
    if "" in files_of and files_of[""] is not names:
        problems.append(
            f"{len(files_of[''])} files whose names say no split, left out "
            f"({files_of[''][0]})"
        )
    return names, part


def _all_files(base: pathlib.Path) -> list[str]:
    """Returns the files of all splits."""
    return sorted(itertools.chain.from_iterable(parquet_splits.find(base).values()))
