"""Reads Winoground: pairs of images and captions of the same words (arXiv 2204.03162).

PATH/examples.jsonl with PATH/images/*.png, as `images.zip` of the Hugging Face data set
facebook/winoground has them, or both in PATH/data; or parquet files of the same fields,
as the library `datasets` writes them. An image with its own caption is an example;
`pairs` says which two form a pair, for evals=pair_choice.

    python -m clipjax.evaluate --model X --evals=pair_choice \\
        --data=winoground --data.path=FOLDER --data.split=test
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from clipjax.data.annotations import caption_entries, image_list, image_pairs
from clipjax.data.annotations.caption_entries import Counts, Entry
from clipjax.data.annotations.image_pairs import ImagePair, ListedPair
from clipjax.data.containers import parquet_splits
from clipjax.data.images import image_files
from clipjax.data.sources import parquet
from clipjax.data.storage import file_contents, local
from clipjax.types import BadExample, Example, UserError

FILE, ARCHIVE = "examples.jsonl", "images.zip"
FOLDERS = ("images", ".")


def make(
    split: str, *, path: str = "", images: str = ""
) -> PairedImages | ParquetPairs:
    """Reads the list of the pairs; images are read on access.

    The examples are the first image of the first pair, its second, and so on.

    Options:
      path: the folder of `examples.jsonl` and the images, or the one that has it as
        `data`; or a folder of parquet files.
      images: folder of the images, relative to the list's; "" finds `images`.

    Raises UserError for another split than "test", missing files and a list of another
    form.
    """
    local.check_split("winoground", split, "test")
    base = local.folder(path, "Winoground's pairs")
    table = _find(base)
    if table is None:
        return _of_parquet(base)
    base = table.parent
    listed = image_pairs.read(table)
    folders = image_list.image_folders(base, images, FOLDERS)
    if not images and not (base / "images").exists() and (base / ARCHIVE).exists():
        raise UserError(f"{base / ARCHIVE} is not unpacked: unzip it in {base}")
    named = _files(folders)
    counts = Counts()
    entries: dict[str, Entry] = {}
    for pair in listed:
        for image, caption in zip(pair.images, pair.captions, strict=True):
            entry = entries[named.get(image, image)] = Entry()
            entry.add(caption, counts)
    problems = caption_entries.problems(counts, entries)
    folder = image_list.find_images(base, images, list(entries), table, FOLDERS)
    local.report(f"winoground {table}", problems)
    return PairedImages(folder, entries, problems, listed)


class PairedImages(image_list.ImageList):
    """A `clipjax.types.Source` of pairs of images.

    pairs: of its examples. listed: the pairs of `entries`, two after another.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        entries: dict[str, Entry],
        problems: list[str],
        listed: Sequence[ListedPair],
    ):
        super().__init__(folder, entries, problems)
        self.pairs = [
            ImagePair(pair.id, 2 * n, 2 * n + 1, pair.tags)
            for n, pair in enumerate(listed)
        ]


class ParquetPairs:
    """A `clipjax.types.Source` of the pairs in the rows of parquet files.

    sides: the first images with their captions, and the second. rows: each pair's other
    fields.
    """

    def __init__(
        self, sides: Sequence[parquet.Parquet], rows: Sequence[dict[str, Any]]
    ):
        self._sides = sides
        self.pairs = [
            ImagePair(
                image_pairs.id_of(row, str(n)),
                2 * n,
                2 * n + 1,
                image_pairs.tags_of(row),
            )
            for n, row in enumerate(rows)
        ]
        counts = [side.caption_counts for side in sides]
        self.caption_counts = np.stack(counts, axis=1).reshape(-1)
        self.max_captions = int(self.caption_counts.max())
        self.class_names: dict[str, list[str]] = {}
        self.templates: dict[str, tuple[str, ...]] = {}
        self.problems = [problem for side in sides for problem in side.problems]

    def __len__(self) -> int:
        return len(self.caption_counts)

    def __getitem__(self, index: int) -> Example:
        """Reads one image; raises BadExample, naming it, if it is broken."""
        side, n = self._locate(index)
        key = self.key_of(index)
        try:
            return dataclasses.replace(side[n], key=key)
        except BadExample as error:
            raise BadExample(error.reason, key) from error

    def captions_of(self, index: int) -> list[str]:
        """Returns an example's caption without its image; raises BadExample."""
        side, n = self._locate(index)
        return side.captions_of(n)

    def key_of(self, index: int) -> str:
        """Returns an example's key without reading its image."""
        side, n = self._locate(index)
        return f"{side.key_of(n)}/{image_pairs.IMAGES[index % 2]}"

    def _locate(self, index: int) -> tuple[parquet.Parquet, int]:
        n, side = divmod(local.position(index, len(self)), 2)
        return self._sides[side], n


def _of_parquet(base: pathlib.Path) -> ParquetPairs:
    import pyarrow.parquet  # here: its import takes long

    sides = [
        parquet.make("all", path=str(base), image_column=image, caption_column=caption)
        for image, caption in zip(image_pairs.IMAGES, image_pairs.CAPTIONS, strict=True)
    ]
    rows: list[dict[str, Any]] = []
    files = parquet_splits.find(base).values()
    for name in sorted(itertools.chain.from_iterable(files)):  # as split "all" has them
        file = pyarrow.parquet.ParquetFile(base / name)
        known = ["id", *image_pairs.TAGS]
        columns = [column for column in known if column in file.schema_arrow.names]
        rows += file.read(columns).to_pylist()
    return ParquetPairs(sides, rows)


def _find(base: pathlib.Path) -> pathlib.Path | None:
    """The list of the pairs; None if there are parquet files."""
    for place in (base, base / "data"):
        if (place / FILE).is_file():
            return place / FILE
    if any(base.rglob(f"*{parquet_splits.SUFFIX}")):
        return None
    raise UserError(
        f"{base} has no {FILE} ({file_contents.summary(base)}): put there {FILE} and "
        f"the images of {ARCHIVE}, from the data set facebook/winoground"
    )


def _files(folders: Sequence[pathlib.Path]) -> dict[str, str]:
    """Name without suffix, and with it -> the file's name, of the images in folders."""
    found: dict[str, str] = {}
    for folder in folders:
        for name in sorted(os.listdir(folder)):
            if not name.startswith(".") and image_files.is_image(folder / name):
                found.setdefault(os.path.splitext(name)[0], name)
    return found
