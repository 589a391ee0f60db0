"""Images in a folder with a table of captions: Flickr8k, Flickr30k, your own CSV.

`captions.txt` (`image,caption`), any CSV or TSV, Flickr30k's `results.csv`, the
`.token` form, JSON lines and lists are read; see annotations/caption_tables.py. All
rows of an image make one example.

    --config configs/x.py:data=captions --config.data.train.path=FOLDER
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Container

from clipjax.data.annotations import caption_json, caption_tables, image_list
from clipjax.data.storage import file_contents, local, selection
from clipjax.types import UserError

TABLES = (
    *("captions.txt", "captions.csv", "captions.tsv", "captions.jsonl"),
    "captions.json",
    *("results.csv", "results_20130124.token", "Flickr8k.token.txt"),
    *("Flickr8k_text/Flickr8k.token.txt", "flickr30k_images/results.csv"),
    "metadata.jsonl",
)
OFFICIAL = {  # Flickr8k's lists of images, as distributed
    "train": "Flickr_8k.trainImages.txt",
    "val": "Flickr_8k.devImages.txt",
    "test": "Flickr_8k.testImages.txt",
}
SPLITS = ("train", "val", "all")
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
) -> image_list.ImageList:
    """Reads the table; images are read one by one when asked for.

    The split is "all", or "train", "val" or "test" of Flickr8k's official lists
    (Flickr_8k.trainImages.txt, devImages, testImages) where they lie beside the table
    or in a folder beside it. Without them it is "train" or "val": an image belongs to
    "val" if the first 8 bytes of its name's SHA-256, as a number in [0, 1), are
    below `val_fraction`: the same on every machine, whatever else the table holds.

    Options (paths are relative to `path`, or absolute):
      path: folder of images and table.
      table: the table; "" finds captions.txt, results.csv and their like.
      images: folder of the images; "" finds Images, images and their like.
      image_column, caption_column: names in the table's header, a pattern such as
        "caption_*" for several columns of captions; "" finds the usual ones.
      val_fraction: share of the images in "val", in [0, 1].
      split_file: image names of this split, one a line, with their suffixes or
        without, instead of all this; the split may then have any name.
      official: use the official lists if there are some.
      max_samples: use so many images (0: all).
      subset_seed: which ones: -1 the first, else a choice by this seed.

    Raises UserError for missing folders or tables, and if no image is left.
    """
    base = local.folder(path, "images and captions")
    selection.check_fraction(val_fraction)
    found = local.inside(base, table, "table") if table else _find_table(base)
    entries, problems = caption_tables.read(found, image_column, caption_column)
    entries = image_list.portable(base, images, entries, found, problems)
    names = local.inside(base, split_file, "split_file") if split_file else None
    if official and not split_file and split != "all":
        names = _official(found.parent, split)
    if names:
        lines = local.read_lines(names)
        wanted = {_listed(line.strip(), entries) for line in lines if line.strip()}
        listed_as = {name: os.path.splitext(name)[0] for name in entries}
        listed_as |= {name: name for name in wanted & entries.keys()}
        if absent := wanted - set(listed_as.values()):
            problems.append(f"{len(absent)} names of {names.name} are not in the table")
        chosen = [name for name in entries if listed_as[name] in wanted]
        empty = f"none of the {len(wanted)} names of {names} is in {found}"
    else:
        chosen = [name for name in entries if _belongs(name, split, val_fraction)]
        empty = (
            f"no image of {found} falls into the split {split!r} with "
            f"val_fraction={val_fraction} ({len(entries)} images); change it"
        )
    if not chosen:
        raise UserError(empty)
    local.report(f"captions {found}", problems)
    return image_list.make(
        base,
        images,
        {name: entries[name] for name in chosen},
        found,
        problems,
        max_samples=max_samples,
        subset_seed=subset_seed,
    )


def _listed(name: str, entries: Container[str]) -> str:
    """A name of a split's list as the table has it, also if Windows wrote it."""
    return name if name in entries else image_list.plain(name)


def _official(folder: pathlib.Path, split: str) -> pathlib.Path | None:
    """The official list of a split, None if there are no such lists.

    Raises UserError if there are some, but not of this split.
    """
    inner = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())
    for place in (folder, *(folder / name for name in inner)):
        there = [name for name in OFFICIAL.values() if (place / name).is_file()]
        if there and OFFICIAL.get(split) in there:
            return place / OFFICIAL[split]
        if there:
            raise UserError(
                f"{place} has {', '.join(there)}, which say nothing of the split "
                f"{split!r}; add {OFFICIAL.get(split, 'a split_file')}, or set "
                f"official=False to split by val_fraction"
            )
    return None


def _belongs(name: str, split: str, val_fraction: float) -> bool:
    if split not in SPLITS:
        raise UserError(
            f"split {split!r}: a caption table has the splits train, val and all; for "
            f"another set the option split_file"
        )
    if split == "all":
        return True
    return selection.held_out(name, val_fraction) == (split == "val")


def _find_table(base: pathlib.Path) -> pathlib.Path:
    for name in TABLES:
        if (base / name).is_file():
            return base / name
    others = sorted(
        entry
        for entry in base.iterdir()
        if entry.suffix.lower() in SUFFIXES and entry.is_file()
    )
    if len(others) == 1:
        return others[0]
    seen = ", ".join(entry.name for entry in others[:5])
    seen = f"it holds {seen}" if seen else file_contents.summary(base)
    raise UserError(
        f"{base} has no captions.txt, captions.csv or results.csv ({seen}); name the "
        f"caption table by the option table"
    )
