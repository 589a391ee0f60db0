"""Images in folders, each with its text beside it, `a.jpg` with `a.txt` or `a.json`.

`Files` is the Source. img2dataset's downloads have this form, in many folders, and so
do folders of pictures that people caption themselves.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import pathlib
from collections.abc import Sequence

import numpy as np

from clipjax import paths
from clipjax.data.annotations import caption_files
from clipjax.data.annotations.caption_entries import Counts
from clipjax.data.containers import parquet_splits
from clipjax.data.images import image_files
from clipjax.data.storage import (
    file_contents,
    local,
    packed_strings,
    selection,
    shard_files,
)
from clipjax.types import BadExample, Example, UserError

TEXTS = (".txt", ".json")


def flat(
    split: str,
    folder: pathlib.Path,
    *,
    text_lines: bool = True,
    val_fraction: float,
    max_samples: int,
    subset_seed: int,
) -> Files:
    """Lists the images in one folder, each with its text beside it: a.jpg and a.txt.

    The options are those of data=captions. Raises UserError for another split than
    "train", "val" and "all", and if no example is left.
    """
    if split not in selection.SPLITS:
        raise UserError(
            f"split {split!r}: a folder of images with texts beside has the splits "
            f"{', '.join(selection.SPLITS)}, by val_fraction; or give one path for "
            "each split"
        )
    selection.check_fraction(val_fraction)
    return list_folders(
        folder,
        [""],
        split,
        text_lines=text_lines,
        val_fraction=val_fraction,
        max_samples=max_samples,
        subset_seed=subset_seed,
    )


def has_texts_beside(folder: pathlib.Path) -> bool:
    """Whether some image in the folder itself has a text of its name beside it."""
    names = {entry.name for entry in os.scandir(folder) if entry.is_file()}
    return any(
        not name.startswith(".")
        and not names.isdisjoint(os.path.splitext(name)[0] + s for s in TEXTS)
        and image_files.is_image(folder / name)
        for name in sorted(names)
    )


def list_folders(
    base: pathlib.Path,
    names: list[str],
    split: str,
    *,
    text_lines: bool,
    val_fraction: float,
    max_samples: int,
    subset_seed: int,
) -> Files:
    """Lists these subfolders; "" is the folder itself."""

    def scan(name: str) -> tuple[Listing, np.ndarray]:
        """Lists a shard, without keys, and whether each image is in the split."""
        listing = _list(base / name, f"{name}/" if name else "")
        belongs = [selection.in_split(k, split, val_fraction) for k in listing.keys]
        if not text_lines:
            kinds, captions, _ = caption_files.without_lines(
                listing.kinds, listing.captions, ()
            )
            counts = Counts({**listing.counts, caption_files.SEVERAL: 0})
            listing = dataclasses.replace(
                listing, kinds=kinds, captions=captions, counts=counts
            )
        return dataclasses.replace(listing, keys=[]), np.array(belongs, bool)

    scanned, in_split = zip(*shard_files.each(scan, names), strict=True)
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
    return Files(base, scanned, usable[chosen])


class Files:
    """Folders of images, each with its text, as a `clipjax.types.Source`."""

    def __init__(
        self, base: pathlib.Path, scanned: Sequence[Listing], chosen: np.ndarray
    ):
        self._ends = list(
            itertools.accumulate(len(listing.captions) for listing in scanned)
        )
        self._chosen = chosen
        caption_counts = np.concatenate([listing.captions for listing in scanned])
        self.caption_counts = caption_counts[chosen]
        self.max_captions = int(self.caption_counts.max())
        self.class_names: dict[str, list[str]] = {}
        self.templates: dict[str, tuple[str, ...]] = {}
        self.problems = image_files.describe_left_out(
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
        local.report(f"images with texts in {base}", self.problems)
        self._base = base
        self._prefixes = [listing.prefix for listing in scanned]
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
        name = f"{self._prefixes[shard]}{self._images[shard][i]}"
        return self._base / name, paths.readable(name)


@dataclasses.dataclass(frozen=True)
class Listing:
    """One folder's images, sorted; kinds: their texts' kinds of caption_files.

    prefix: of its images' keys. keys: the files' names up to the last dot. others: the
    suffixes of other files. repeated: how many images have the key of another.
    texts_only: how many keys have texts only.
    """

    prefix: str
    images: packed_strings.Strings
    keys: list[str]
    kinds: np.ndarray
    captions: np.ndarray
    others: image_files.Suffixes
    repeated: int
    texts_only: int
    counts: Counts


def _list(folder: pathlib.Path, prefix: str) -> Listing:
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
        if suffix.lower() in TEXTS:
            keys_of_texts.add(key)
        elif not image_files.is_image(folder / name):
            others[file_contents.suffix_of(name)] += 1
        elif images.setdefault(key, name) != name:
            repeated += 1
    counts = Counts()
    groups = (_texts(folder, key, names) for key in images)
    texts = caption_files.choose_each(groups, counts)
    return Listing(
        prefix=prefix,
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
