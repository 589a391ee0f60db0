"""Image files with captions from a list: what the caption sources have in common.

`Listed` is the Source; the sources of this form differ only in how they read their
lists (tables, MS-COCO's and Karpathy's JSON).
"""

from __future__ import annotations

import itertools
import os
import pathlib
import re
import unicodedata

import numpy as np

from clipjax import paths
from clipjax.data.annotations.caption_entries import Entry
from clipjax.data.storage import local, packed_strings, selection
from clipjax.types import BadExample, Example, UserError

# Where the images of the usual data sets lie below their folder.
FOLDERS = (
    *("Images", "images", "flickr30k_images/flickr30k_images", "flickr30k_images"),
    *("flickr30k-images", "Flicker8k_Dataset"),  # [sic]: its name as distributed
    *("Flickr8k_Dataset/Flicker8k_Dataset", "Flickr8k_Dataset"),
    ".",
)


# C:\\data\\a.jpg, C:/data/a.jpg and \\\\server\\data\\a.jpg
WINDOWS = re.compile(r"[A-Za-z]:[\\/]|\\\\")
# What may be left out of a path between two names, or before the first.
IDLE = re.compile(r"(?:(?<=/)|^)(?:\./+)+|(?<=(?<!:)/)/+")


def plain(name: str) -> str:
    """A path as this machine writes it, wherever it was written, without idle parts."""
    return IDLE.sub("", name.replace("\\", "/"))


class Listed:
    """See `clipjax.types.Source`; `problems` says what of the list was ignored.

    folder: of the images; entries: name below it -> its captions, in order.
    """

    def __init__(
        self, folder: pathlib.Path, entries: dict[str, Entry], problems: list[str]
    ):
        self._folder = folder
        found = entries.values()
        self._names = packed_strings.Strings(entries)
        self._faults = {i: e.fault for i, e in enumerate(found) if e.fault}
        good = [() if entry.fault else entry.captions for entry in found]
        self._captions = packed_strings.Strings(itertools.chain.from_iterable(good))
        # Where the captions of each begin, and of the last end.
        self._starts = np.cumsum([0, *map(len, good)], dtype=np.int64)
        self.problems = problems
        self.caption_counts = np.array([entry.rows for entry in found], np.int32)
        self.max_captions = int(self.caption_counts.max())
        self.class_names: dict[str, list[str]] = {}
        self.templates: dict[str, tuple[str, ...]] = {}

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> Example:
        """Reads one image; raises BadExample, naming it, if it is broken."""
        captions = self.captions_of(index)
        key = self.key_of(index)
        image = local.read_bytes(_file(self._folder, self._names[index]), key)
        return Example(image=image, captions=captions, key=key)

    def captions_of(self, index: int) -> tuple[str, ...]:
        """The captions of an example, without its image; raises as that does."""
        index = local.position(index, len(self))
        if index in self._faults:
            raise BadExample(self._faults[index], self.key_of(index))
        first, end = self._starts[index : index + 2].tolist()
        return tuple(self._captions[i] for i in range(first, end))

    def key_of(self, index: int) -> str:
        """The key of an example, without reading it."""
        name = self._names[local.position(index, len(self))]
        return name.encode("utf-8", "backslashreplace").decode()


def make(
    base: pathlib.Path,
    images: str,
    entries: dict[str, Entry],
    table: pathlib.Path,
    problems: list[str],
    *,
    max_samples: int,
    subset_seed: int,
    folders: tuple[str, ...] = FOLDERS,
) -> Listed:
    """The source of these entries, in part if the limits say so.

    images: the option that names the images' folder; "" finds it among `folders`.
    table: the file that lists them, for messages. Raises UserError if no image of
    the list is found.
    """
    names = list(entries)
    chosen = selection.examples(
        len(names), max_samples=max_samples, subset_seed=subset_seed
    )
    kept = [names[i] for i in chosen]
    folder = _find_images(base, images, kept, table, folders)
    return Listed(folder, {name: entries[name] for name in kept}, problems)


def portable(
    base: pathlib.Path,
    images: str,
    entries: dict[str, Entry],
    table: pathlib.Path,
    problems: list[str],
    folders: tuple[str, ...] = FOLDERS,
) -> dict[str, Entry]:
    """The entries with names as they are on this machine: images\\a.jpg, as Windows
    writes it, becomes images/a.jpg unless a file has the backslash in its name, and so
    do ./images/a.jpg and images//a.jpg.

    Names that are one then are one entry. Absolute paths of Windows break their image,
    and `problems` counts them; raises UserError if all are such. Other arguments as of
    `make`.
    """
    if not any(
        "\\" in name or IDLE.search(name) or WINDOWS.match(name) for name in entries
    ):
        return entries
    places = _folders(base, images, folders)
    literal = {name for place in places for name in os.listdir(place) if "\\" in name}
    found: dict[str, Entry] = {}
    absolute: list[str] = []
    for name, entry in entries.items():
        foreign = WINDOWS.match(name)
        if (foreign or "\\" in name) and not _held(places, name, literal):
            if foreign:
                absolute.append(name)
                entry.fault = f"the list names it by a path of Windows, {name}"
            else:
                name = name.replace("\\", "/")
        name = IDLE.sub("", name)
        if name in found:
            found[name].join(entry)
        else:
            found[name] = entry
    if len(absolute) == len(entries):
        raise UserError(
            f"{table} names its images by absolute paths of Windows, such as "
            f"{absolute[0]}: write them relative to the folder of the images"
        )
    if absolute:
        problems.append(
            f"{len(absolute)} images named by absolute paths of Windows, such as "
            f"{absolute[0]}: write them relative to the folder of the images"
        )
    return found


def _held(places: list[pathlib.Path], name: str, literal: set[str]) -> bool:
    """Whether a file has this very name; literal: those at the top of the folders."""
    if name in literal:
        return True
    return "/" in name and any((place / name).is_file() for place in places)


def _folders(
    base: pathlib.Path, images: str, usual: tuple[str, ...]
) -> list[pathlib.Path]:
    """Folders in which the images may lie; raises UserError for a missing option."""
    if not images:
        return [base / name for name in usual if (base / name).is_dir()]
    place = base / paths.given(images)
    if not place.is_dir():
        raise local.missing(place, f"It is named by the option images={images}")
    return [place]


def _file(folder: pathlib.Path, name: str) -> pathlib.Path:
    """The file of an image, also if its name's accents are characters of their own
    in the list and not on the disk, or the other way (macOS unpacks so).
    """
    place = folder / name
    if name.isascii() or place.is_file():
        return place
    others = [folder / unicodedata.normalize(form, name) for form in ("NFC", "NFD")]
    return next((other for other in others if other.is_file()), place)


def _find_images(
    base: pathlib.Path,
    images: str,
    names: list[str],
    table: pathlib.Path,
    usual: tuple[str, ...],
) -> pathlib.Path:
    """The folder that holds images of the list; raises UserError without one."""
    folders = _folders(base, images, usual)
    # Name by name, since the first may be the one that is missing in every folder.
    for name, folder in itertools.product(names, folders):
        if _file(folder, name).is_file():
            return folder
    tried = ", ".join(str(folder) for folder in folders[:4]) or str(base)
    held = [
        name
        for folder in folders
        for name in sorted(os.listdir(folder))
        if name.lower().endswith(local.IMAGE_SUFFIXES)
    ]
    seen = f" (there is {held[0]!r})" if held else ""
    raise UserError(
        f"no image of {table} (such as {names[0]!r}) is in {tried}{seen}; set the "
        f"option images to their folder"
    )
