"""Parquet files with encoded images, captions and labels, as the Hugging Face hub has.

`hf download --repo-type dataset` gives such folders: files named by their splits
(`data/train-00000-of-00042.parquet`, `default/validation/0000.parquet`) with a column
of images ({bytes, path} or bytes alone), captions as text or lists of it, and classes
as numbers whose names stand in the file. A row is an example.

    --config configs/x.py:data=parquet --config.data.train.path=FOLDER
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import itertools
import pathlib
from typing import Any

import numpy as np

from clipjax.data.annotations.caption_entries import Counts
from clipjax.data.containers import parquet_rows, parquet_splits
from clipjax.data.containers.parquet_columns import Columns, Wanted
from clipjax.data.storage import local, selection, shard_files
from clipjax.types import BadExample, Example, UserError

PARTS = ("train", "val", "all")
THREADS = 16  # that scan files at once


def make(
    split: str,
    *,
    path: str = "",
    shards: str = "",
    image_column: str = "",
    caption_column: str = "",
    labels: tuple[str, ...] = (),
    classes: str = "",
    split_column: str = "",
    val_fraction: float = 0.01,
    max_samples: int = 0,
    max_classes: int = 0,
    max_samples_per_class: int = 0,
    subset_seed: int = -1,
) -> Parquet:
    """Finds the files of a split and reads which rows they have, but no image.

    The split is one of those in the files' names or folders, "val" also if they say
    validation, valid or dev; "all" is all files. Where there is no "val", a part of
    "train" is held out for it, by a hash of the keys: storage/selection.py.
    So are "train" and "val" divided if the files' names say no split.

    Options:
      path: the folder; its files may lie in a folder inside, such as data.
      shards: which files instead, of which "train" and "val" are parts by their keys: a
        pattern below `path`, or numbered ones of which none may be missing,
        "{00000..00331}.parquet"; several are joined by "::". With {split} in it, they
        are of this split alone.
      image_column: "" finds image, jpg and their like.
      caption_column: also a struct's field, "sentences.raw", or several columns,
        "caption_*"; "" finds caption, text and their like, "none" takes none.
      labels: columns with the numbers of classes, or their names as text or categories,
        each a label set; () finds those of which the files say so, or label, labels and
        their like. Names are numbered in the order of the alphabet, over all splits.
      classes: text file of class names, one a line, in the order of their numbers,
        if the files do not say them; relative to `path`.
      split_column: a column that says the split of each row, instead of all this; text,
        categories, or numbers whose names the files say.
      val_fraction: share of the examples in "val" if it is not there, in [0, 1].
      max_samples: use so many examples (0: all).
      max_classes, max_samples_per_class: of one label set, use so many classes,
        numbered anew, and of each so many examples (0: all).
      subset_seed: which ones: -1 the first, else a choice by this seed.

    Raises UserError for missing folders, files, columns and splits, and if no
    example is left.
    """
    selection.check_fraction(val_fraction)
    base = local.folder(path, "parquet files")
    problems: list[str] = []
    if shards:
        names, part = _named(base, shards, split)
    else:
        names, part = _of_split(base, split, bool(split_column), problems)
    wanted = Wanted(image_column, caption_column, labels, split_column)

    def one(name: str) -> tuple[parquet_rows.Rows, np.ndarray, set[str]]:
        """What a file holds, which of it is used, and its splits. No key is kept."""
        found = parquet_rows.scan(base / name, name, wanted)
        mine = np.ones(len(found.keys), bool)
        splits = {parquet_splits.canonical(said) for said in set(found.splits)}
        if split_column and split != "all":
            own = parquet_splits.canonical(split)
            mine = np.array(
                [parquet_splits.canonical(said) == own for said in found.splits], bool
            )
        elif part != "all":
            held = [selection.held_out(key, val_fraction) for key in found.keys]
            mine = np.array(held, bool) == (part == "val")
        return dataclasses.replace(found, keys=[], splits=[]), mine, splits

    pool = concurrent.futures.ThreadPoolExecutor(THREADS)
    try:
        scanned, mine, splits = zip(*pool.map(one, names), strict=True)
    finally:
        pool.shutdown(cancel_futures=True)  # after an error, of no use
    mine = np.concatenate(mine)
    if not len(mine):
        raise UserError(f"the {len(names)} shards of {base} hold no images")
    if not mine.any() and split_column:
        raise parquet_splits.unknown(base, split, sorted(set().union(*splits)))
    if not mine.any():
        raise UserError(
            f"none of the {len(mine)} images of {base} falls into the split {split!r} "
            f"with val_fraction={val_fraction}; change it"
        )
    problems += parquet_rows.problems(scanned)
    inside = names if shards else _all_files(base)
    sets = _class_names(base, scanned, inside, classes, problems)
    if "{split}" in shards and not classes:
        problems += [
            f"the classes of {name} are numbered by their names in the files of "
            f"{shards}, which may be others in another split: set the option classes"
            for name in sorted(scanned[0].columns.text_labels & sets.keys())
        ]
    if (max_classes or max_samples_per_class) and len(sets) != 1:
        raise UserError(
            f"max_classes and max_samples_per_class need one label set, and {base} has "
            f"{', '.join(sets) or 'none'}: choose it by the option labels"
        )
    numbers = {
        name: np.concatenate([_numbers(f, name, called) for f in scanned])
        for name, called in sets.items()
    }
    for name in sets:
        lost = sum(int((f.labels[name] >= 0).sum()) for f in scanned)
        lost -= int((numbers[name] >= 0).sum())
        if lost:
            problems.append(f"{lost} images whose {name} is none of {classes}")
    by_class = None
    if max_classes or max_samples_per_class:
        ((name, by_class),) = numbers.items()
        kept = selection.classes(len(sets[name]), max_classes, subset_seed)
        anew = np.full(len(sets[name]), parquet_rows.NO_LABEL, np.int32)
        anew[kept] = np.arange(len(kept))
        good = (by_class >= 0) & (by_class < len(anew))
        if lost := int((mine & ~good).sum()):
            problems.append(f"{lost} images without one of the classes, left out")
        by_class = np.where(
            good, anew[np.where(good, by_class, 0)], parquet_rows.NO_LABEL
        )
        mine &= by_class >= 0
        if not mine.any():
            raise UserError(f"no image of {base} is of the classes chosen")
        numbers[name] = by_class
        sets[name] = [sets[name][i] for i in kept]
    usable = np.flatnonzero(mine)
    chosen = selection.examples(
        len(usable),
        labels=None if by_class is None else by_class[usable],
        max_samples=max_samples,
        max_samples_per_class=max_samples_per_class,
        subset_seed=subset_seed,
    )
    return Parquet(base, scanned, usable[chosen], numbers, sets, problems)


class Parquet:
    """See `clipjax.types.Source`; `problems` says what was left out.

    chosen: int64, which of all rows of the files. numbers: label set -> int32 of all
    rows.
    """

    def __init__(
        self,
        base: pathlib.Path,
        scanned: tuple[parquet_rows.Rows, ...],
        chosen: np.ndarray,
        numbers: dict[str, np.ndarray],
        class_names: dict[str, list[str]],
        problems: list[str],
    ):
        # Without what is needed once, so that little goes to a worker process.
        self._rows = [
            dataclasses.replace(
                found,
                labels={},
                label_texts={},
                columns=dataclasses.replace(found.columns, labels={}),
            )
            for found in scanned
        ]
        self._ends = list(
            itertools.accumulate(len(found.captions) for found in scanned)
        )
        self._chosen = chosen
        self._groups = parquet_rows.RowGroups()
        self._labels = {name: numbers[name][chosen] for name in class_names}
        counts = np.concatenate([found.captions for found in scanned])
        self.caption_counts = counts[chosen]
        self.max_captions = int(self.caption_counts.max())
        self.class_names = class_names
        self.templates = {name: ("a photo of a {}.",) for name in class_names}
        self.problems = problems
        if failed := sum(found.failed for found in scanned):
            problems.append(f"{failed} rows without an image, left out")
        if (largest := max(found.largest for found in scanned)) > parquet_rows.MEMORY:
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
        rows, i = self._place(index)
        found, key = self._values(rows, i, (rows.columns.image, *rows.columns.captions))
        image, *captions = found
        if not image:
            raise BadExample(self._no_image(rows, i, key), key)
        return Example(
            image=image,
            captions=self._parse(rows.columns, captions, key),
            labels=self._labels_of(index, key),
            key=key,
        )

    def captions_of(self, index: int) -> list[str]:
        """The captions of an example, without its image; raises as that does."""
        rows, i = self._place(index)
        return self._parse(rows.columns, *self._values(rows, i, rows.columns.captions))

    def key_of(self, index: int) -> str:
        """The key of an example, without its image."""
        return self._values(*self._place(index), ())[1]

    def _place(self, index: int) -> tuple[parquet_rows.Rows, int]:
        """The file of an example and its number there."""
        position = int(self._chosen[local.position(index, len(self))])
        shard, i = local.part_and_offset(self._ends, position)
        return self._rows[shard], i

    def _values(
        self, rows: parquet_rows.Rows, i: int, columns: tuple[str, ...]
    ) -> tuple[list[Any], str]:
        """The values of a row, b"" if there is none, and its key."""
        place = f"{rows.name}:{rows.group[i]}/{rows.row[i]}"
        key = rows.columns.key
        wanted = (*columns, key) if key else columns
        try:
            found = self._groups.values(rows, i, wanted) if wanted else []
        except BadExample as error:
            raise BadExample(error.reason, place) from error
        if key and (name := found.pop()):
            place = f"{rows.name}:{name.decode('utf-8', 'backslashreplace')}"
        return found, place

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
    """The files that the option names, and which part of them the split is."""
    found = shard_files.find(shard_files.LocalFolder(base), shards, split)
    names = [n for n in found if not pathlib.PurePath(n).name.startswith((".", "_"))]
    if not names:
        raise UserError(f"no shard of {base} matches {shards}: only hidden files do")
    if "{split}" in shards:
        return names, "all"
    if split not in PARTS:
        raise UserError(
            f"with shards={shards} there is no split {split!r}; use "
            f"{', '.join(PARTS)}, or write {{split}} in the option shards"
        )
    return names, split


def _of_split(
    base: pathlib.Path, split: str, by_rows: bool, problems: list[str]
) -> tuple[list[str], str]:
    """The files of a split, and which part of them it is."""
    found = parquet_splits.find(base)
    if split == "all" or by_rows:
        return sorted(itertools.chain.from_iterable(found.values())), "all"
    own = parquet_splits.canonical(split)
    if own in found:
        names, part = found[own], "all"
    elif list(found) == [""] and own in PARTS:
        names, part = found[""], own
    elif own == "val" and "train" in found:
        names, part = found["train"], "val"
    else:
        held = ["val"] if "train" in found or "" in found else []
        known = [*(sorted(n for n in found if n) or ["train"]), *held, "all"]
        raise parquet_splits.unknown(base, split, list(dict.fromkeys(known)))
    if own == "train" and "train" in found and "val" not in found:
        part = "train"
    if "" in found and found[""] is not names:
        problems.append(
            f"{len(found[''])} files whose names say no split, left out "
            f"({found[''][0]})"
        )
    return names, part


def _all_files(base: pathlib.Path) -> list[str]:
    """The files of all splits."""
    return sorted(itertools.chain.from_iterable(parquet_splits.find(base).values()))


def _numbers(found: parquet_rows.Rows, label: str, names: list[str]) -> np.ndarray:
    """The classes of a file's rows, int32; of text, by the place of each name."""
    if label not in found.label_texts:
        return found.labels[label]
    places = {name: i for i, name in reversed(list(enumerate(names)))}
    anew = [
        places.get(word, parquet_rows.NO_LABEL) for word in found.label_texts[label]
    ]
    return np.array([*anew, parquet_rows.NO_LABEL], np.int32)[found.labels[label]]


def _class_names(
    base: pathlib.Path,
    scanned: tuple[parquet_rows.Rows, ...],
    inside: list[str],
    classes: str,
    problems: list[str],
) -> dict[str, list[str]]:
    """Label set -> names in order; raises UserError if files differ in them.

    inside: the files of all splits, whose texts are the names of a label set of text.
    """
    first = scanned[0]
    for found in scanned[1:]:
        if (found.columns.labels, found.columns.text_labels) != (
            first.columns.labels,
            first.columns.text_labels,
        ):
            raise UserError(
                f"{found.path} has other labels or class names than {first.path}: read "
                f"them apart, by the option shards"
            )
    sets = {name: list(names) for name, names in first.columns.labels.items()}
    if classes:
        if len(sets) != 1:
            raise UserError(
                f"classes={classes} names one label set, and {base} has "
                f"{', '.join(sets) or 'none'}: choose it by the option labels"
            )
        return dict.fromkeys(
            sets, local.read_lines(local.inside(base, classes, "classes"))
        )
    for name in first.columns.text_labels:
        read = {base / one for one in inside} - {found.path for found in scanned}
        texts = {word for found in scanned for word in found.label_texts[name]}
        texts.update(*(parquet_rows.label_texts(path, name) for path in sorted(read)))
        sets[name] = sorted(texts)
    for name, names in list(sets.items()):
        if not names:
            top = max(int(f.labels[name].max(initial=-1)) for f in scanned)
            if top < 0:
                del sets[name]
                problems.append(f"the column {name} holds no class at all, left out")
                continue
            if top > 10**6:
                raise UserError(
                    f"{first.path}: the column {name} holds {top}, no number of a "
                    f"class; choose another by the option labels"
                )
            sets[name] = [str(i) for i in range(top + 1)]
            problems.append(
                f"the column {name} does not say what its classes are called: they are "
                f"called by their numbers; the option classes names them"
            )
    return sets
