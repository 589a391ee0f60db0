"""Reads images in a folder with a table of captions: Flickr8k, Flickr30k, own CSV.

annotations/caption_tables.py reads `captions.txt` (`image,caption`), any CSV or TSV,
Flickr30k's `results.csv`, the `.token` form, JSON lines and lists. All rows of an image
form one example. Without a table, each image has its text beside it: a.jpg and a.txt.

    --config configs/x.py:data=captions --config.data.train.path=FOLDER
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Container

from clipjax.data.annotations import caption_json, caption_tables, image_list
from clipjax.data.sources import image_texts
from clipjax.data.storage import file_contents, local, selection
from clipjax.types import UserError

TABLES = (
    *("captions.txt", "captions.csv", "captions.tsv", "captions.jsonl"),
    "captions.json",
    *("results.csv", "results_20130124.token", "Flickr8k.token.txt"),
    *("Flickr8k_text/Flickr8k.token.txt", "flickr30k_images/results.csv"),
    "metadata.jsonl",
)
OFFICIAL = {  # Flickr8k's distributed lists of images
    "train": "Flickr_8k.trainImages.txt",
    "val": "Flickr_8k.devImages.txt",
    "test": "Flickr_8k.testImages.txt",
}
SUFFIXES = (".csv", ".tsv", ".token", *caption_json.LINES)


def make(
    split: str,
    *,
    path: str = "",
    table: str = "",
    images: str = "",
    image_column: str = "",
    caption_column: str = "",
    val_fraction: float = 0.1,
    split_file: str = "",
    official: bool = True,
    max_samples: int = 0,
    subset_seed: int = -1,
) -> image_list.ImageList | image_texts.Files:
    """Reads the table; each image is read when it is accessed.

    The split is "all", or "train", "val" or "test" of Flickr8k's official lists
    (Flickr_8k.trainImages.txt, devImages, testImages), if they are in the table's
    folder or in one of its subfolders. Without them it is "train" or "val": an image
    belongs to "val" if the first 8 bytes of its name's SHA-256, as a number in [0, 1),
    are below `val_fraction`. So it is the same on every machine and for every table.

    Options (paths are relative to `path`, or absolute):
      path: folder of images and table.
      table: the table; "" finds captions.txt, results.csv and similar names, or, if
        there is none, texts beside the images (a.txt or a.json of a.jpg).
      images: folder of the images; "" finds Images, images and similar names.
      image_column, caption_column: names in the table's header, a pattern such as
        "caption_*" for several columns of captions; "" finds the usual ones.
      val_fraction: share of the images in "val", in [0, 1].
      split_file: list of this split's image names, one per line, with or without
        suffixes; it replaces the rules above, and the split may have any name.
      official: use the official lists if they exist.
      max_samples: use so many images (0: all).
      subset_seed: which images: -1 the first, else a choice by this seed.

    Raises UserError for missing folders or tables, and if no image is left.
    """
    base = local.folder(path, "images and captions")
    selection.check_fraction(val_fraction)
    if not table and (folder := _with_texts(base, images)):
        if split_file or image_column or caption_column:
            raise UserError(
                f"{folder} has texts beside its images and no table of captions, which "
                f"split_file, image_column and caption_column are for: remove them"
            )
        return image_texts.flat(
            split,
            folder,
            val_fraction=val_fraction,
            max_samples=max_samples,
            subset_seed=subset_seed,
        )
    table_path = local.inside(base, table, "table") if table else _find_table(base)
    entries, problems = caption_tables.read(table_path, image_column, caption_column)
    entries = image_list.portable(base, images, entries, table_path, problems)
    split_list = local.inside(base, split_file, "split_file") if split_file else None
    if official and not split_file and split != "all":
        split_list = _official(table_path.parent, split)
    if split_list:
        lines = local.read_lines(split_list)
        listed = {_as_in_table(line.strip(), entries) for line in lines if line.strip()}
        name_in_list = {name: os.path.splitext(name)[0] for name in entries}
        name_in_list |= {name: name for name in listed & entries.keys()}
        if missing := listed - set(name_in_list.values()):
            problems.append(
                f"{len(missing)} names of {split_list.name} are not in the table"
            )
        chosen = [name for name in entries if name_in_list[name] in listed]
        nothing_left = (
            f"none of the {len(listed)} names of {split_list} is in {table_path}"
        )
    else:
        chosen = [name for name in entries if _belongs(name, split, val_fraction)]
        nothing_left = (
            f"no image of {table_path} falls into the split {split!r} with "
            f"val_fraction={val_fraction} ({len(entries)} images); change it"
        )
    if not chosen:
        raise UserError(nothing_left)
    local.report(f"captions {table_path}", problems)
    return image_list.make(
        base,
        images,
        {name: entries[name] for name in chosen},
        table_path,
        problems,
        max_samples=max_samples,
        subset_seed=subset_seed,
    )


def _as_in_table(name: str, entries: Container[str]) -> str:
    """Returns a name of a split's list as in the table, also if Windows wrote it."""
    return name if name in entries else image_list.plain(name)


def _official(folder: pathlib.Path, split: str) -> pathlib.Path | None:
    """Returns a split's official list; None if there are no official lists.

    Raises UserError if there are official lists of other splits only.
    """
    subfolders = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())
    for candidate in (folder, *(folder / name for name in subfolders)):
        lists = [name for name in OFFICIAL.values() if (candidate / name).is_file()]
        if lists and OFFICIAL.get(split) in lists:
            return candidate / OFFICIAL[split]
        if lists:
            raise UserError(
                f"{candidate} has {', '.join(lists)}, which do not list the split "
                f"{split!r}; add {OFFICIAL.get(split, 'a split_file')}, or set "
                f"official=False to split by val_fraction"
            )
    return None


def _belongs(name: str, split: str, val_fraction: float) -> bool:
    if split not in selection.SPLITS:
        raise UserError(
            f"split {split!r}: a caption table has the splits train, val and all; for "
            f"another set the option split_file"
        )
    return selection.in_split(name, split, val_fraction)


def _with_texts(base: pathlib.Path, images: str) -> pathlib.Path | None:
    """Returns the folder of images with texts beside them; None if there is a table or
    no such folder.
    """
    if _tables(base):
        return None
    folders = image_list.image_folders(base, images, image_list.FOLDERS)
    return next(filter(image_texts.has_texts_beside, folders), None)


def _tables(base: pathlib.Path) -> list[pathlib.Path]:
    """Returns the table of a usual name, or else all that may be one."""
    for name in TABLES:
        if (base / name).is_file():
            return [base / name]
    return sorted(
        entry
        for entry in base.iterdir()
        if entry.suffix.lower() in SUFFIXES and entry.is_file()
    )


def _find_table(base: pathlib.Path) -> pathlib.Path:
    tables = _tables(base)
    if len(tables) == 1:
        return tables[0]
    content = ", ".join(entry.name for entry in tables[:5])
    content = f"it holds {content}" if content else file_contents.summary(base)
    raise UserError(
        f"{base} has no captions.txt, captions.csv or results.csv ({content}); name "
        f"the caption table by the option table, or put a text beside each image "
        f"(a.txt of a.jpg)"
    )
