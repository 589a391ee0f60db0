"""Reads image-text pairs in webdataset tar shards in any order, without unpacking.

A shard holds `KEY.jpg` (or png, webp, ...) and optionally `KEY.json`, `KEY.txt` and
`KEY.cls`; KEY is the path up to the first dot of the file name. Captions come from a
JSON list, else the text file, else a single JSON field, whichever has text
(annotations/caption_files.py). img2dataset, CLIP_benchmark and the webdataset library
write such shards. CLIP_benchmark's folders are read as published: `SPLIT/0.tar` with
`SPLIT/nshards.txt`, and beside them `classnames.txt` and
`zeroshot_classification_templates.txt`. The folder may be remote (gs://, s3://, hf://
or https://); it is read in place.

    --config configs/x.py:data=webdataset --config.data.train.path=FOLDER
"""

from __future__ import annotations

import dataclasses
import functools
import itertools

import numpy as np

from clipjax import cache
from clipjax.data.annotations import (
    caption_files,
    class_naming,
    known_classes,
    prompt_templates,
)
from clipjax.data.containers import tar_index
from clipjax.data.storage import local, remote, selection, shard_files
from clipjax.types import BadExample, Example, UserError

CLASS_NAMES = "classnames.txt"  # as CLIP_benchmark publishes them
TEMPLATES = "zeroshot_classification_templates.txt"


def make(
    split: str,
    *,
    path: str = "",
    shards: str = "",
    classes: str = "",
    class_names: str = class_naming.AUTO,
    text_lines: bool = True,
    max_samples: int = 0,
    max_classes: int = 0,
    max_samples_per_class: int = 0,
    subset_seed: int = -1,
) -> WebDataset:
    """Opens a split's shards; the first time, it reads each shard once to index it.

    Options:
      path: folder of the shards, local or an address such as gs://BUCKET/FOLDER.
      shards: this split's files, relative to `path`: a pattern in which {split}
        stands for the split's name, or numbered shards: "cc3m-{00000..00331}.tar";
        several are joined by "::". "" finds *SPLIT*.tar, or SPLIT/*.tar.
      classes: text file of class names, one per line, in the order of the numbers in
        `.cls` files; relative to `path`. "" is classnames.txt, if there is one.
      class_names: the name of a data set of tensorflow-datasets, whose names are taken
        in the order of its numbers, in place of a file; "auto" for the file. Without
        names labels are ignored.
      text_lines: whether each line of a `.txt` with several lines is a caption.
      max_samples: use so many images (0: all).
      max_classes, max_samples_per_class: with `classes`, use so many classes,
        renumbered from 0, and so many images per class (0: all).
      subset_seed: which ones: -1 the first, else a choice by this seed.

    Raises UserError for a missing folder, shard or class file, for classes without a
    name, and for no images.
    """
    class_naming.check_one(classes, class_names)
    if "://" in path:
        folder = remote.RemoteFolder(path)
    else:
        folder = shard_files.LocalFolder(local.folder(path, "webdataset shards (.tar)"))
    found = (
        shard_files.find(folder, shards, split)
        if shards
        else shard_files.usual(folder, split)
    )
    return WebDataset(
        folder,
        found,
        classes,
        class_names,
        text_lines=text_lines,
        max_samples=max_samples,
        max_classes=max_classes,
        max_samples_per_class=max_samples_per_class,
        subset_seed=subset_seed,
    )


class WebDataset:
    """A `clipjax.types.Source`; `problems` lists what was ignored in the shards."""

    def __init__(
        self,
        folder: shard_files.Folder,
        names: list[str],
        classes: str,
        class_names: str,
        *,
        text_lines: bool,
        max_samples: int,
        max_classes: int,
        max_samples_per_class: int,
        subset_seed: int,
    ):
        self._folder = folder
        self._names = names
        self._stamps, self._indexes = _index(folder, names)
        if not text_lines:
            self._indexes = [_without_lines(index) for index in self._indexes]
        self._ends = list(itertools.accumulate(len(index) for index in self._indexes))
        self.problems = [
            f"{name}: {problem}"
            for name, index in zip(self._names, self._indexes, strict=True)
            for problem in index.problems
        ]
        if not self._ends[-1]:
            hint = "; ".join(self.problems[:2]) or f"first: {self._names[0]}"
            raise UserError(
                f"no images (KEY.jpg, .png, .webp, ...) in the {len(names)} shard(s) "
                f"of {folder.address} ({hint})"
            )
        self.class_names: dict[str, list[str]] = {}
        self.templates: dict[str, tuple[str, ...]] = {}
        kept_classes = None
        if listed := self._class_names(classes, class_names):
            kept_classes = selection.classes(len(listed), max_classes, subset_seed)
            self.class_names["class"] = [listed[i] for i in kept_classes]
            if self._has(TEMPLATES):
                self.templates["class"] = prompt_templates.parse(
                    folder.read_lines(TEMPLATES, "templates"),
                    f"{folder.address}/{TEMPLATES}",
                )
            self._renumbered = np.full(len(listed), -1)
            self._renumbered[kept_classes] = np.arange(len(kept_classes))
        elif max_classes or max_samples_per_class:
            raise UserError(
                "max_classes and max_samples_per_class need the names of classes: set "
                "the option classes or class_names"
            )
        by_class = bool(max_classes or max_samples_per_class)
        self._chosen = self._choose(
            kept_classes if by_class else None,
            max_samples=max_samples,
            max_samples_per_class=max_samples_per_class,
            subset_seed=subset_seed,
        )
        local.report(f"webdataset {folder.address}", self.problems)
        counts = np.concatenate([index.captions for index in self._indexes])
        self.caption_counts = counts if self._chosen is None else counts[self._chosen]
        self.max_captions = int(self.caption_counts.max())

    def __len__(self) -> int:
        return len(self.caption_counts)

    def __getitem__(self, index: int) -> Example:
        """Reads one example; raises BadExample, naming shard and key, if broken."""
        shard, i, key = self._locate(index)
        shard_index = self._indexes[shard]
        try:
            return Example(
                image=self._read(
                    shard, shard_index.image_start[i], shard_index.image_size[i]
                ),
                captions=self._captions(shard, i),
                labels=self._labels(int(shard_index.label[i])),
                key=key,
            )
        except BadExample as error:
            raise BadExample(error.reason, key) from error

    def captions_of(self, index: int) -> list[str]:
        """Returns an example's captions without reading its image."""
        shard, i, key = self._locate(index)
        try:
            return self._captions(shard, i)
        except BadExample as error:
            raise BadExample(error.reason, key) from error

    def key_of(self, index: int) -> str:
        """Returns an example's key without reading the example."""
        return self._locate(index)[2]

    def _locate(self, index: int) -> tuple[int, int, str]:
        """Returns an example's shard, its index in the shard, and its key."""
        index = local.position(index, len(self))
        if self._chosen is not None:
            index = int(self._chosen[index])
        shard, i = local.part_and_offset(self._ends, index)
        return shard, i, f"{self._names[shard]}:{self._indexes[shard].key(i)}"

    def _has(self, name: str) -> bool:
        return bool(self._folder.matching([name])[0])

    def _class_names(self, classes: str, dataset: str) -> list[str]:
        """Returns the classes' names by number; [] to ignore labels."""
        largest = max(
            (int(index.label.max()) for index in self._indexes if len(index)),
            default=tar_index.NO_LABEL,
        )
        labelled = any(
            (index.label != tar_index.NO_LABEL).any() for index in self._indexes
        )
        named = dataset != class_naming.AUTO
        if (classes or named) and not labelled:
            option = f"class_names={dataset}" if named else f"classes={classes}"
            raise UserError(
                f"{option}: the shards of {self._folder.address} hold no .cls files; "
                f"remove the option"
            )
        if named:
            origin, names = f"class_names={dataset}", known_classes.find(dataset).names
        elif classes or (labelled and self._has(CLASS_NAMES)):
            classes = classes or CLASS_NAMES
            origin = f"{self._folder.address}/{classes}"
            names = self._folder.read_lines(classes, "classes")
        else:
            return []
        names = [name.strip() for name in names]
        if "" in names:
            raise UserError(
                f"{origin}, line {names.index('') + 1}: the class has no name"
            )
        if largest >= len(names):
            raise UserError(
                f"{origin} names {len(names)} classes, and the shards of "
                f"{self._folder.address} have classes up to the number {largest}: name "
                f"{largest + 1}, from 0 on"
            )
        return names

    def _choose(
        self, classes: np.ndarray | None, *, subset_seed: int, **limits: int
    ) -> np.ndarray | None:
        """Returns the indices of the examples to use; None for all.

        classes: use only these classes' examples; None for all examples.
        """
        if classes is None and subset_seed == -1 and not any(limits.values()):
            return None  # no array, because there may be very many examples
        labels = np.concatenate([index.label for index in self._indexes])
        usable = np.arange(len(labels))
        if classes is not None:
            usable = np.flatnonzero(np.isin(labels, classes))
            class_count = len(self._renumbered)
            if without_class := int(((labels < 0) | (labels >= class_count)).sum()):
                self.problems.append(
                    f"{without_class} images without one of the {class_count} classes, "
                    f"left out"
                )
            if not len(usable):
                raise UserError("no image of the shards is of the classes chosen")
        chosen = selection.examples(
            len(usable), labels=labels[usable], subset_seed=subset_seed, **limits
        )
        return None if len(chosen) == len(labels) else usable[chosen]

    def _captions(self, shard: int, i: int) -> list[str]:
        shard_index = self._indexes[shard]
        kind = int(shard_index.text_kind[i])
        if kind == caption_files.NO_TEXT:
            return []
        data = self._read(shard, shard_index.text_start[i], shard_index.text_size[i])
        return caption_files.parse(kind, data)

    def _labels(self, label: int) -> dict[str, int]:
        if not self.class_names or label == tar_index.NO_LABEL:
            return {}
        if label == tar_index.BAD_LABEL:
            raise BadExample("its .cls file does not hold a class number")
        return {"class": int(self._renumbered[label])}

    def _read(self, shard: int, start: np.int64, size: np.int64) -> bytes:
        try:
            data = self._folder.read(
                self._names[shard], int(start), int(size), self._stamps[shard]
            )
        except OSError as error:
            raise BadExample(f"cannot read the shard: {error.strerror}") from error
        if len(data) < size:
            raise BadExample("the shard is truncated inside this example")
        return data


def _without_lines(index: tar_index.ShardIndex) -> tar_index.ShardIndex:
    """Returns an index in which each text is one caption, with all its lines."""
    kinds, captions, problems = caption_files.without_lines(
        index.text_kind, index.captions, index.problems
    )
    return dataclasses.replace(
        index, text_kind=kinds, captions=captions, problems=tuple(problems)
    )


def _index(
    folder: shard_files.Folder, names: list[str]
) -> tuple[list[tuple[int, str]], list[tar_index.ShardIndex]]:
    """Returns each shard's stamp and index; reads the shards that are not cached."""
    cache_folder = cache.folder("index")
    shards = shard_files.each(folder.shard, names)
    index = functools.partial(tar_index.load_or_build, cache=cache_folder)
    return [shard.stamp for shard in shards], shard_files.each(index, shards)
