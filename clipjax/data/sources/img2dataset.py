"""Reads img2dataset's downloads: CC3M, CC12M, LAION and other lists of addresses.

It reads the output formats `files` (00000/000000012.jpg with .txt and .json) and
`parquet` (00000.parquet with columns key, caption, status, jpg and others, through
`data=parquet`); `data=webdataset` reads the format `webdataset` (00000.tar). Failed
downloads are left out. After github.com/rom1504/img2dataset.

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
THREADS = 16  # that list or scan shards concurrently


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
    """Lists the images, in the order of their shards; reads them on access.

    The split is "train", "val" or "all"; an example belongs to "val" by a hash of its
    key, see clipjax.data.storage.selection.held_out.

    Options:
      path: the folder that was img2dataset's `output_folder`.
      shards: names without suffix: a pattern, or numbered shards of which none may be
        missing, "{00000..00331}"; several are joined by "::".
      image_column, caption_column: of parquet files; "" finds the usual ones.
      text_lines: whether each line of a `.txt` with several lines is a caption.
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
                f"{pattern}{parquet_splits.SUFFIX}" for pattern in shards.split("::")
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
            f"folders of images: remove the options"
        )
    folder = shard_files.LocalFolder(base, subfolders=True)
    names = [
        name
        for name in shard_files.find(folder, shards, split)
        if not name.startswith((".", "_"))
    ]

    def scan(folder: pathlib.Path) -> tuple[Listing, np.ndarray]:
        """Lists a shard, without keys, and whether each image is in the split."""
        listing = _list(folder)
        in_split = np.ones(len(listing.keys), bool)
        if split != "all":
            in_val = [selection.held_out(key, val_fraction) for key in listing.keys]
            in_split = np.array(in_val, bool) == (split == "val")
        if not text_lines:
            kinds, captions, _ = caption_files.without_lines(
                listing.kinds, listing.captions, ()
            )
            counts = Counts({**listing.counts, caption_files.SEVERAL: 0})
            listing = dataclasses.replace(
                listing, kinds=kinds, captions=captions, counts=counts
            )
        return dataclasses.replace(listing, keys=[]), in_split

    scanned, in_split = zip(*_each(scan, base, names), strict=True)
    in_split = np.concatenate(in_split)
    usable = np.flatnonzero(in_split)
    if not len(in_split):
        has_parquet = any(base.glob(f"*/*{parquet_splits.SUFFIX}"))
        hint = ", but parquet files: read them with data=parquet"
        raise UserError(
            f"the {len(names)} shards of {base} hold no images"
            f"{hint if has_parquet else f': {file_contents.summary(base)}'}"
        )
    if not len(usable):
        raise UserError(
            f"none of the {len(in_split)} images of {base} falls into the split "
            f"{split!r} with val_fraction={val_fraction}; change it"
        )
    chosen = selection.examples(
        len(usable), max_samples=max_samples, subset_seed=subset_seed
    )
    return Files(scanned, usable[chosen])


def _each(
    scan: Callable[[pathlib.Path], Any], base: pathlib.Path, names: list[str]
) -> list[Any]:
    """Returns `scan` of each shard."""
    pool = concurrent.futures.ThreadPoolExecutor(THREADS)
    try:
        return list(pool.map(scan, [base / name for name in names]))
    finally:
        pool.shutdown(cancel_futures=True)  # after an error the rest is not needed


class Files:
    """Folders of images, each with its text, as a `clipjax.types.Source`."""

    def __init__(self, scanned: Sequence[Listing], chosen: np.ndarray):
        self._ends = list(
            itertools.accumulate(len(listing.captions) for listing in scanned)
        )
        self._chosen = chosen
        caption_counts = np.concatenate([listing.captions for listing in scanned])
        self.caption_counts = caption_counts[chosen]
        self.max_captions = int(self.caption_counts.max())
        self.class_names: dict[str, list[str]] = {}
        self.templates: dict[str, tuple[str, ...]] = {}
        self.problems = image_files.left_out(
            sum((listing.others for listing in scanned), image_files.Suffixes())
        )
        if repeated := sum(listing.repeated for listing in scanned):
            self.problems.append(f"{repeated} further images of a key, left out")
        if texts_only := sum(listing.texts_only for listing in scanned):
            self.problems.append(f"{texts_only} texts without an image, left out")
        counts = sum((listing.counts for listing in scanned), Counts())
        self.problems += [
            f"{n} {problem}" for problem, n in sorted(counts.items()) if n
        ]
        local.report(f"img2dataset {scanned[0].path.parent}", self.problems)
        self._folders = [listing.path for listing in scanned]
        self._images = [listing.images for listing in scanned]
        self._kinds = [listing.kinds for listing in scanned]

    def __len__(self) -> int:
        return len(self._chosen)

    def __getitem__(self, index: int) -> Example:
        """Reads one example; raises BadExample, naming its file, if broken."""
        image, key = self._image(*self._locate(index))
        return Example(
            image=local.read_bytes(image, key),
            captions=self.captions_of(index),
            key=key,
        )

    def captions_of(self, index: int) -> list[str]:
        """Returns an example's captions without its image; raises BadExample if they
        are broken.
        """
        shard, i = self._locate(index)
        image, key = self._image(shard, i)
        kind = int(self._kinds[shard][i])
        if not self.caption_counts[index]:
            return []
        suffix = ".json" if kind == caption_files.JSON else ".txt"
        text = image.with_name(image.stem + suffix)
        try:
            captions = caption_files.parse(kind, local.read_bytes(text, key))
        except BadExample as error:
            raise BadExample(error.reason, key) from error
        if len(captions) != self.caption_counts[index]:
            raise BadExample(
                f"{text.name} holds {len(captions)} captions and has changed", key
            )
        return captions

    def key_of(self, index: int) -> str:
        """Returns an example's key without reading the example."""
        return self._image(*self._locate(index))[1]

    def _locate(self, index: int) -> tuple[int, int]:
        """Returns an example's shard and its index in the shard."""
        position = int(self._chosen[local.position(index, len(self))])
        return local.part_and_offset(self._ends, position)

    def _image(self, shard: int, i: int) -> tuple[pathlib.Path, str]:
        """Returns an image's file, and its key."""
        folder = self._folders[shard]
        name = self._images[shard][i]
        key = f"{folder.name}/{name}".encode("utf-8", "backslashreplace").decode()
        return folder / name, key


@dataclasses.dataclass(frozen=True)
class Listing:
    """One folder's images, sorted; kinds: their texts' kinds of caption_files.

    keys: the files' names up to the last dot. others: the suffixes of other files.
    repeated: how many images have the key of another. texts_only: how many keys have
    texts only.
    """

    path: pathlib.Path
    images: packed_strings.Strings
    keys: list[str]
    kinds: np.ndarray
    captions: np.ndarray
    others: image_files.Suffixes
    repeated: int
    texts_only: int
    counts: Counts


def _list(folder: pathlib.Path) -> Listing:
    """Lists one folder and counts the captions in its texts."""
    try:
        names = {
            entry.name
            for entry in os.scandir(folder)
            if not entry.name.startswith(".") and entry.is_file()
        }
    except OSError as error:
        raise UserError(f"cannot list {folder}: {error.strerror}") from error
    images: dict[str, str] = {}
    keys_of_texts: set[str] = set()
    others, repeated = image_files.Suffixes(), 0
    for name in sorted(names):
        key, suffix = os.path.splitext(name)
        if suffix.lower() in (".txt", ".json"):
            keys_of_texts.add(key)
        elif not image_files.is_image(folder / name):
            others[file_contents.suffix_of(name)] += 1
        elif images.setdefault(key, name) != name:
            repeated += 1
    counts = Counts()
    groups = (_texts(folder, key, names) for key in images)
    texts = caption_files.choose_each(groups, counts)
    return Listing(
        path=folder,
        images=packed_strings.Strings(images.values()),
        keys=list(images),
        kinds=np.array([text.kind for text in texts], np.uint8),
        # An unreadable one counts as a caption, so that reading it reports its fault.
        captions=np.array([abs(text.captions) for text in texts], np.int32),
        others=others,
        repeated=repeated,
        texts_only=len(keys_of_texts - images.keys()),
        counts=counts,
    )


def _texts(folder: pathlib.Path, key: str, names: set[str]) -> list[caption_files.Text]:
    """Reads an image's text file, and its JSON if the text file has no single caption.

    img2dataset writes the same caption to both.
    """
    texts: list[caption_files.Text] = []
    for suffix, kind in ((".txt", caption_files.TXT), (".json", caption_files.JSON)):
        has_caption = (
            bool(texts) and texts[0].captions and texts[0].kind == caption_files.TXT
        )
        if has_caption or f"{key}{suffix}" not in names:
            continue
        try:
            data = local.read_bytes(folder / f"{key}{suffix}", "")
        except BadExample:
            texts.append(caption_files.Text(kind, captions=-1))
        else:
            texts.append(caption_files.inspect(kind, data))
    return texts


def _has_folders(base: pathlib.Path) -> bool:
    """Whether the folder has the format `files`; raises UserError if it has the format
    `webdataset`, or no output of img2dataset.
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
