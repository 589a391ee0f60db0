"""Images in a folder with a table of captions: Flickr8k, Flickr30k, your own CSV.

`captions.txt` (`image,caption`), any CSV or TSV, Flickr30k's `results.csv` and the
`.token` form are read; see clipjax/data/tables.py. All rows of an image make one
example.

    --config configs/x.py:data=captions --config.data.train.path=FOLDER
"""

from __future__ import annotations

import hashlib
import itertools
import pathlib

import numpy as np

from clipjax.data import files, tables
from clipjax.types import BadExample, Example, UserError

TABLES = (
    *("captions.txt", "captions.csv", "captions.tsv", "results.csv"),
    *("results_20130124.token", "Flickr8k.token.txt"),
    "flickr30k_images/results.csv",
)
FOLDERS = (
    *("Images", "images", "flickr30k_images/flickr30k_images", "flickr30k_images"),
    *("flickr30k-images", "Flicker8k_Dataset"),  # [sic]: its name as distributed
    ".",
)
SPLITS = ("train", "val", "all")


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
    max_samples: int = 0,
) -> Captions:
    """Reads the table; images are read one by one when asked for.

    The split is "train", "val" or "all". An image belongs to "val" where the first 8
    bytes of its name's SHA-256, as a number in [0, 1), are below `val_fraction`: the
    same on every machine, whatever else the table holds.

    Options (paths are relative to `path`, or absolute):
      path: folder of images and table.
      table: the table; "" finds captions.txt, results.csv and their like.
      images: folder of the images; "" finds Images, images and their like.
      image_column, caption_column: names in the table's header; "" finds the usual.
      val_fraction: share of the images in "val", in [0, 1].
      split_file: image names of this split, one a line, instead of the hash; the split
        may then have any name.
      max_samples: use the first so many images (0: all).

    Raises UserError for missing folders or tables, and where no image is left.
    """
    base = files.folder(path, "images and captions")
    if not 0 <= val_fraction <= 1:
        raise UserError(f"val_fraction={val_fraction}: use a share from 0 to 1")
    limit = files.limit("max_samples", max_samples)
    found = files.inside(base, table, "table") if table else _find_table(base)
    entries, problems = tables.read(found, image_column, caption_column)
    if split_file:
        listed = files.read_lines(files.inside(base, split_file, "split_file"))
        wanted = {line.strip() for line in listed if line.strip()}
        if absent := wanted - entries.keys():
            problems.append(f"{len(absent)} names of {split_file} are not in the table")
        chosen = [name for name in entries if name in wanted]
        empty = f"none of the {len(wanted)} names of {split_file} is in {found}"
    else:
        chosen = [name for name in entries if _belongs(name, split, val_fraction)]
        empty = (
            f"no image of {found} falls into the split {split!r} with "
            f"val_fraction={val_fraction} ({len(entries)} images); change it"
        )
    if not chosen:
        raise UserError(empty)
    chosen = chosen[:limit]
    folder = _find_images(base, images, chosen, found)
    files.report(f"captions {found}", problems)
    return Captions(folder, {name: entries[name] for name in chosen}, problems)


class Captions:
    """See `clipjax.types.Source`; `problems` says what of the table was ignored."""

    def __init__(
        self,
        folder: pathlib.Path,
        entries: dict[str, tables.Entry],
        problems: list[str],
    ):
        self._folder = folder
        self._names = list(entries)
        self._entries = list(entries.values())
        self.problems = problems
        self.caption_counts = np.array([e.rows for e in self._entries], np.int32)
        self.max_captions = int(self.caption_counts.max())
        self.class_names: dict[str, list[str]] = {}
        self.templates: dict[str, tuple[str, ...]] = {}

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> Example:
        """Reads one image; raises BadExample, naming it, where it is broken."""
        index = files.position(index, len(self))
        name, entry = self._names[index], self._entries[index]
        key = self.key_of(index)
        if entry.fault:
            raise BadExample(entry.fault, key)
        image = files.read_bytes(self._folder / name, key)
        return Example(image=image, captions=tuple(entry.captions), key=key)

    def key_of(self, index: int) -> str:
        """The key of an example, without reading it."""
        return self._names[index].encode("utf-8", "backslashreplace").decode()


def _belongs(name: str, split: str, val_fraction: float) -> bool:
    if split not in SPLITS:
        raise UserError(
            f"split {split!r}: a caption table has the splits train, val and all; for "
            f"another set the option split_file"
        )
    if split == "all":
        return True
    digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()
    return (int.from_bytes(digest[:8], "big") < val_fraction * 2**64) == (
        split == "val"
    )


def _find_table(base: pathlib.Path) -> pathlib.Path:
    for name in TABLES:
        if (base / name).is_file():
            return base / name
    others = sorted(
        entry
        for entry in base.iterdir()
        if entry.suffix.lower() in (".csv", ".tsv", ".token") and entry.is_file()
    )
    if len(others) == 1:
        return others[0]
    seen = ", ".join(entry.name for entry in others[:5]) or "no .csv, .tsv or .token"
    raise UserError(
        f"{base} has no captions.txt, captions.csv or results.csv (it holds {seen}); "
        f"name the caption table by the option table"
    )


def _find_images(
    base: pathlib.Path, images: str, names: list[str], table: pathlib.Path
) -> pathlib.Path:
    """The folder that holds images of the table; raises UserError without one."""
    if images:
        folders = [base / pathlib.Path(images).expanduser()]
        if not folders[0].is_dir():
            raise files.missing(
                folders[0], f"It is named by the option images={images}"
            )
    else:
        folders = [base / name for name in FOLDERS if (base / name).is_dir()]
    # Name by name, since the first may be the one that is missing in every folder.
    for name, folder in itertools.product(names, folders):
        if (folder / name).is_file():
            return folder
    tried = ", ".join(str(folder) for folder in folders[:4])
    raise UserError(
        f"no image of {table} (such as {names[0]!r}) is in {tried}; set the option "
        f"images to their folder"
    )
