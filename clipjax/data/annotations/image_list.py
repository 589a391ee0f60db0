"""A source of image files whose captions come from a list.

`ImageList` is the Source. Sources of this form differ only in how they read their
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

# The folders of the usual data sets' images.
FOLDERS = (
    *("Images", "images", "flickr30k_images/flickr30k_images", "flickr30k_images"),
    *("flickr30k-images", "Flicker8k_Dataset"),  # [sic]: its name as distributed
    *("Flickr8k_Dataset/Flicker8k_Dataset", "Flickr8k_Dataset"),
    ".",
)


# C:\\data\\a.jpg, C:/data/a.jpg and \\\\server\\data\\a.jpg
WINDOWS = re.compile(r"[A-Za-z]:[\\/]|\\\\")
# Parts of a path that have no meaning: ./ and doubled slashes.
IDLE = re.compile(r"(?:(?<=/)|^)(?:\./+)+|(?<=(?<!:)/)/+")


def plain(name: str) -> str:
    """Returns a path with `/` in place of `\\`, without `./` and doubled slashes."""
    return IDLE.sub("", name.replace("\\", "/"))


class ImageList:
    """A `clipjax.types.Source`; `problems` lists what was ignored in the list.

    folder: the images' folder; entries: name in it -> captions, in order.
    """

    def __init__(
        self, folder: pathlib.Path, entries: dict[str, Entry], problems: list[str]
    ):
        self._folder = folder
        listed = entries.values()
        self._names = packed_strings.Strings(entries)
        self._faults = {i: e.fault for i, e in enumerate(listed) if e.fault}
        valid = [() if entry.fault else entry.captions for entry in listed]
        self._captions = packed_strings.Strings(itertools.chain.from_iterable(valid))
        # Each image's first caption, and the number of all captions.
        self._starts = np.cumsum([0, *map(len, valid)], dtype=np.int64)
        self.problems = problems
        self.caption_counts = np.array([entry.rows for entry in listed], np.int32)
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
        """Returns an example's captions without reading its image; raises BadExample if
        its entry has a fault.
        """
        index = local.position(index, len(self))
        if index in self._faults:
            raise BadExample(self._faults[index], self.key_of(index))
        first, end = self._starts[index : index + 2].tolist()
        return tuple(self._captions[i] for i in range(first, end))

    def key_of(self, index: int) -> str:
        """Returns an example's key without reading its image."""
        return paths.readable(self._names[local.position(index, len(self))])


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
) -> ImageList:
    """Returns the source of these entries, or of a selection if the limits are set.

    images: the option that names the images' folder; "" searches `folders`. table: the
    list's file, for messages. Raises UserError if no listed image is found.
    """
    names = list(entries)
    chosen = selection.examples(
        len(names), max_samples=max_samples, subset_seed=subset_seed
    )
    selected = [names[i] for i in chosen]
    folder = find_images(base, images, selected, table, folders)
    return ImageList(folder, {name: entries[name] for name in selected}, problems)


def portable(
    base: pathlib.Path,
    images: str,
    entries: dict[str, Entry],
    table: pathlib.Path,
    problems: list[str],
    folders: tuple[str, ...] = FOLDERS,
) -> dict[str, Entry]:
    """Returns the entries with their names as this machine writes them.

    images\\a.jpg, as Windows writes it, becomes images/a.jpg unless a file has the
    backslash in its name. So do ./images/a.jpg and images//a.jpg. Entries whose names
    become equal are joined. Absolute paths of Windows break their image, and `problems`
    counts them; raises UserError if all are such. See `make` for the other arguments.
    """
    if not any(
        "\\" in name or IDLE.search(name) or WINDOWS.match(name) for name in entries
    ):
        return entries
    present = image_folders(base, images, folders)
    literal = {name for place in present for name in os.listdir(place) if "\\" in name}
    renamed: dict[str, Entry] = {}
    absolute: list[str] = []
    for name, entry in entries.items():
        is_windows = WINDOWS.match(name)
        if (is_windows or "\\" in name) and not _exists(present, name, literal):
            if is_windows:
                absolute.append(name)
                entry.fault = f"the list names it by a path of Windows, {name}"
            else:
                name = name.replace("\\", "/")
        name = IDLE.sub("", name)
        if name in renamed:
            renamed[name].join(entry)
        else:
            renamed[name] = entry
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
    return renamed


def _exists(folders: list[pathlib.Path], name: str, literal: set[str]) -> bool:
    """Whether a file has exactly this name; literal: names in the folders."""
    if name in literal:
        return True
    return "/" in name and any((folder / name).is_file() for folder in folders)


def image_folders(
    base: pathlib.Path, images: str, usual: tuple[str, ...]
) -> list[pathlib.Path]:
    """Returns the folders that may hold the images; raises UserError if the option's
    folder does not exist.
    """
    if not images:
        return [base / name for name in usual if (base / name).is_dir()]
    folder = base / paths.expand(images)
    if not folder.is_dir():
        raise local.missing(folder, f"It is named by the option images={images}")
    return [folder]


def _file(folder: pathlib.Path, name: str) -> pathlib.Path:
    """Returns an image's file, also if the list and the disk differ in whether accents
    are separate characters (macOS unpacks such names).
    """
    path = folder / name
    if name.isascii() or path.is_file():
        return path
    variants = [folder / unicodedata.normalize(form, name) for form in ("NFC", "NFD")]
    return next((variant for variant in variants if variant.is_file()), path)


def find_images(
    base: pathlib.Path,
    images: str,
    names: list[str],
    table: pathlib.Path,
    usual: tuple[str, ...],
) -> pathlib.Path:
    """Returns the folder that holds listed images; raises UserError without one.

    images: the option that names it; "" searches `usual`. table: the list's file.
    """
    folders = image_folders(base, images, usual)
    # Each name in all folders, because the first image may be missing from all.
    for name, folder in itertools.product(names, folders):
        if _file(folder, name).is_file():
            return folder
    tried = ", ".join(str(folder) for folder in folders[:4]) or str(base)
    present = [
        name
        for folder in folders
        for name in sorted(os.listdir(folder))
        if name.lower().endswith(local.IMAGE_SUFFIXES)
    ]
    hint = f" (there is {present[0]!r})" if present else ""
    raise UserError(
        f"no image of {table} (such as {names[0]!r}) is in {tried}{hint}; set the "
        f"option images to their folder"
    )
