"""What img2dataset downloads: CC3M, CC12M, LAION and other lists of addresses.

Of its output formats, `files` (00000/000000012.jpg with .txt and .json) and `parquet`
(00000.parquet with columns key, caption, status, jpg and others, as `data=parquet` has
them) are read here; its `webdataset` (00000.tar) is read by `data=webdataset`.
Downloads that failed are left out. After github.com/rom1504/img2dataset.

    --config configs/x.py:data=img2dataset --config.data.train.path=FOLDER
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import itertools
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from clipjax.data.annotations import caption_files
from clipjax.data.annotations.caption_entries import Counts
from clipjax.data.containers import parquet_splits
from clipjax.data.images import image_files
from clipjax.data.sources import parquet
from clipjax.data.storage import (
    file_contents,
    local,
    packed_strings,
    selection,
    shard_files,
)
from clipjax.types import BadExample, Example, UserError

SPLITS = ("train", "val", "all")
THREADS = 16  # that list or scan shards at once


def make(
    split: str,
    *,
    path: str = "",
    shards: str = "*",
    image_column: str = "",
    caption_column: str = "",
    text_lines: bool = True,
    val_fraction: float = 0.01,
    max_samples: int = 0,
    subset_seed: int = -1,
) -> Files | parquet.Parquet:
    """Lists the images, in the order of their shards; reads them when asked for.

    The split is "train", "val" or "all"; an example belongs to "val" by a hash of its
    key, as clipjax.data.storage.selection.held_out says.

    Options:
      path: the folder that was img2dataset's `output_folder`.
      shards: which, without a suffix: a pattern, or numbered ones of which none may be
        missing, "{00000..00331}"; several are joined by "::".
      image_column, caption_column: of parquet files; "" finds the usual ones.
      text_lines: whether each line of a `.txt` of several is a caption.
      val_fraction: share of the examples in "val", in [0, 1].
      max_samples: use so many examples (0: all).
      subset_seed: which ones: -1 the first, else a choice by this seed.

    Raises UserError for missing folders and shards, for files of another form, and
    if no example is left.
    """
    if split not in SPLITS:
        raise UserError(
            f"data=img2dataset has no split {split!r}; use {', '.join(SPLITS)}, or one "
            f"path for each split"
        )
    selection.check_fraction(val_fraction)
    base = local.folder(path, "img2dataset's shards")
    if not _has_folders(base):
        return parquet.make(
            split,
            path=path,
            shards="::".join(
                f"{one}{parquet_splits.SUFFIX}" for one in shards.split("::")
            ),
            image_column=image_column,
            caption_column=caption_column,
            val_fraction=val_fraction,
            max_samples=max_samples,
            subset_seed=subset_seed,
        )
    if image_column or caption_column:
        raise UserError(
            f"image_column and caption_column are of parquet files; {base} holds "
            f"folders of images: drop them"
        )
    folder = shard_files.LocalFolder(base, subfolders=True)
    names = [
        name
        for name in shard_files.find(folder, shards, split)
        if not name.startswith((".", "_"))
    ]

    def one(place: pathlib.Path) -> tuple[Listing, np.ndarray]:
        """What is in a shard, and which of it belong to the split. No key is kept."""
        found = _list(place)
        mine = np.ones(len(found.keys), bool)
        if split != "all":
            held = [selection.held_out(key, val_fraction) for key in found.keys]
            mine = np.array(held, bool) == (split == "val")
        if not text_lines:
            kinds, captions, _ = caption_files.without_lines(
                found.kinds, found.captions, ()
            )
            counts = Counts({**found.counts, caption_files.SEVERAL: 0})
            found = dataclasses.replace(
                found, kinds=kinds, captions=captions, counts=counts
            )
        return dataclasses.replace(found, keys=[]), mine

    scanned, mine = zip(*_each(one, base, names), strict=True)
    mine = np.concatenate(mine)
    usable = np.flatnonzero(mine)
    if not len(mine):
        inside = any(base.glob(f"*/*{parquet_splits.SUFFIX}"))
        hint = ", but parquet files: read them with data=parquet"
        raise UserError(
            f"the {len(names)} shards of {base} hold no images"
            f"{hint if inside else f': {file_contents.summary(base)}'}"
        )
    if not len(usable):
        raise UserError(
            f"none of the {len(mine)} images of {base} falls into the split {split!r} "
            f"with val_fraction={val_fraction}; change it"
        )
    chosen = selection.examples(
        len(usable), max_samples=max_samples, subset_seed=subset_seed
    )
    return Files(scanned, usable[chosen])


def _each(
    scan: Callable[[pathlib.Path], Any], base: pathlib.Path, names: list[str]
) -> list[Any]:
    """What each shard gives."""
    pool = concurrent.futures.ThreadPoolExecutor(THREADS)
    try:
        return list(pool.map(scan, [base / name for name in names]))
    finally:
        pool.shutdown(cancel_futures=True)  # after an error, of no use


class Files:
    """Folders of images, each with its text; see `clipjax.types.Source`."""

    def __init__(self, scanned: Sequence[Listing], chosen: np.ndarray):
        self._ends = list(
            itertools.accumulate(len(found.captions) for found in scanned)
        )
        self._chosen = chosen
        counts = np.concatenate([found.captions for found in scanned])
        self.caption_counts = counts[chosen]
        self.max_captions = int(self.caption_counts.max())
        self.class_names: dict[str, list[str]] = {}
        self.templates: dict[str, tuple[str, ...]] = {}
        self.problems = image_files.left_out(
            sum((found.others for found in scanned), image_files.Suffixes())
        )
        if again := sum(found.again for found in scanned):
            self.problems.append(f"{again} further images of a key, left out")
        if lone := sum(found.lone for found in scanned):
            self.problems.append(f"{lone} texts without an image, left out")
        amiss = sum((found.counts for found in scanned), Counts())
        self.problems += [f"{n} {what}" for what, n in sorted(amiss.items()) if n]
        local.report(f"img2dataset {scanned[0].path.parent}", self.problems)
        self._folders = [found.path for found in scanned]
        self._images = [found.images for found in scanned]
        self._kinds = [found.kinds for found in scanned]

    def __len__(self) -> int:
        return len(self._chosen)

    def __getitem__(self, index: int) -> Example:
        """Reads one example; raises BadExample, naming its file, if broken."""
        image, key = self._image(*self._place(index))
        return Example(
            image=local.read_bytes(image, key),
            captions=self.captions_of(index),
            key=key,
        )

    def captions_of(self, index: int) -> list[str]:
        """The caption of an example, without its image; raises as that does."""
        shard, i = self._place(index)
        image, key = self._image(shard, i)
        kind = int(self._kinds[shard][i])
        if not self.caption_counts[index]:
            return []
        suffix = ".json" if kind == caption_files.JSON else ".txt"
        text = image.with_name(image.stem + suffix)
        try:
            found = caption_files.parse(kind, local.read_bytes(text, key))
        except BadExample as error:
            raise BadExample(error.reason, key) from error
        if len(found) != self.caption_counts[index]:
            raise BadExample(
                f"{text.name} holds {len(found)} captions, not as before", key
            )
        return found

    def key_of(self, index: int) -> str:
        """The key of an example, without reading it."""
        return self._image(*self._place(index))[1]

    def _place(self, index: int) -> tuple[int, int]:
        """The shard of an example and its number there."""
        position = int(self._chosen[local.position(index, len(self))])
        return local.part_and_offset(self._ends, position)

    def _image(self, shard: int, i: int) -> tuple[pathlib.Path, str]:
        """The file of an image, and what it is called in messages."""
        folder = self._folders[shard]
        name = self._images[shard][i]
        key = f"{folder.name}/{name}".encode("utf-8", "backslashreplace").decode()
        return folder / name, key


@dataclasses.dataclass(frozen=True)
class Listing:
    """The images of one folder, sorted; kinds: of their texts, as in caption_files.

    keys: as their files are called up to the last dot. others: the suffixes of files
    that are none of this form; again: how many images have the key of another; lone:
    how many keys have texts only.
    """

    path: pathlib.Path
    images: packed_strings.Strings
    keys: list[str]
    kinds: np.ndarray
    captions: np.ndarray
    others: image_files.Suffixes
    again: int
    lone: int
    counts: Counts


def _list(folder: pathlib.Path) -> Listing:
    """Lists one folder and reads how many captions its texts hold."""
    try:
        there = {
            entry.name
            for entry in os.scandir(folder)
            if not entry.name.startswith(".") and entry.is_file()
        }
    except OSError as error:
        raise UserError(f"cannot list {folder}: {error.strerror}") from error
    images: dict[str, str] = {}
    lone: set[str] = set()
    others, again = image_files.Suffixes(), 0
    for name in sorted(there):
        key, suffix = os.path.splitext(name)
        if suffix.lower() in (".txt", ".json"):
            lone.add(key)
        elif not image_files.is_image(folder / name):
            others[file_contents.suffix_of(name)] += 1
        elif images.setdefault(key, name) != name:
            again += 1
    counts = Counts()
    groups = (_texts(folder, key, there) for key in images)
    texts = caption_files.choose_each(groups, counts)
    return Listing(
        path=folder,
        images=packed_strings.Strings(images.values()),
        keys=list(images),
        kinds=np.array([text.kind for text in texts], np.uint8),
        # One that cannot be read is an example too, so that its fault is met.
        captions=np.array([abs(text.captions) for text in texts], np.int32),
        others=others,
        again=again,
        lone=len(lone - images.keys()),
        counts=counts,
    )


def _texts(folder: pathlib.Path, key: str, there: set[str]) -> list[caption_files.Text]:
    """What the text file of an image holds, and the JSON beside it.

    img2dataset has the same caption in both, so the JSON is read only if need be.
    """
    texts: list[caption_files.Text] = []
    for suffix, kind in ((".txt", caption_files.TXT), (".json", caption_files.JSON)):
        said = bool(texts) and texts[0].captions and texts[0].kind == caption_files.TXT
        if said or f"{key}{suffix}" not in there:
            continue
        try:
            data = local.read_bytes(folder / f"{key}{suffix}", "")
        except BadExample:
            texts.append(caption_files.Text(kind, captions=-1))
        else:
            texts.append(caption_files.inspect(kind, data))
    return texts


def _has_folders(base: pathlib.Path) -> bool:
    """Whether this is the form `files`; raises UserError if it is `webdataset`, or
    holds nothing of img2dataset.
    """
    entries = sorted(
        (entry for entry in os.scandir(base) if not entry.name.startswith((".", "_"))),
        key=lambda entry: entry.name,
    )
    tars = [entry.name for entry in entries if entry.name.endswith(".tar")]
    if tars:
        raise UserError(
            f"{base} holds img2dataset's tar shards ({tars[0]}, ...): read them with "
            f"data=webdataset and the option shards='*.tar'"
        )
    if any(entry.is_dir() for entry in entries):
        return True
    tables = [entry.name for entry in entries if entry.name.endswith(".parquet")]
    if not tables:
        raise UserError(
            f"{base} holds neither folders (00000/) nor parquet files (00000.parquet) "
            f"of img2dataset: {file_contents.summary(base)}; {local.set_path()}"
        )
    return False
