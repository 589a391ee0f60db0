"""Lists the images of class folders, PATH/SPLIT/CLASS/*.jpg or PATH/CLASS/*.jpg.

Without split folders, a share of each class's images is held out.
"""

from __future__ import annotations

import hashlib
import os
import pathlib
from collections.abc import Mapping, Sequence

from clipjax.data.images import image_files
from clipjax.data.storage import file_contents, local, selection
from clipjax.types import UserError

# Folders of these names are splits, even if the asked one is not among them.
SPLITS = frozenset(
    ("train", "training", "val", "valid", "validation", "dev", "test", "testing")
)


def is_plain(base: pathlib.Path, split: str) -> bool:
    """Whether the folder's own subfolders are classes, not splits.

    They are if one of them directly holds images, and none with a split's name holds
    folders. A class may be called "train" if another class has no split's name.
    """
    folders = names_in(base)
    if any(names_in(base / name) for name in folders if name in SPLITS | {split}):
        return False
    return any(name not in SPLITS | {split} for name in folders) and any(
        direct_images(base / name) for name in folders
    )


def in_split(
    images_of: Mapping[str, Sequence[str]], split: str, val_fraction: float, seed: int
) -> dict[str, list[str]]:
    """Returns each class's images in the split "train", "val" or "all".

    images_of: class -> its images' paths relative to the data folder. Of a class's n
    images, n * val_fraction (rounded, and at least one on each side if n > 1) are in
    "val": those whose SHA-256 of seed and path is lowest. So an image's split hardly
    depends on which others are there, and not on the machine.

    Raises UserError for another split or a number out of range.
    """
    selection.check_fraction(val_fraction)
    if split not in selection.SPLITS:
        raise UserError(
            f"split {split!r}: a folder of classes without split folders has the "
            f"splits {', '.join(selection.SPLITS)}, by val_fraction"
        )
    if seed < 0:
        raise UserError(f"split_seed={seed}: use a number from 0 on")
    if split == "all":
        return {name: list(images) for name, images in images_of.items()}
    chosen: dict[str, list[str]] = {}
    for name, images in images_of.items():
        held = round(len(images) * val_fraction)
        if 0 < val_fraction < 1 and len(images) > 1:
            held = min(max(held, 1), len(images) - 1)
        in_val = set(sorted(images, key=lambda path: _draw(path, seed))[:held])
        chosen[name] = [path for path in images if (path in in_val) == (split == "val")]
    return chosen


def _draw(path: str, seed: int) -> bytes:
    place = path.replace(os.sep, "/").encode("utf-8", "surrogateescape")
    return hashlib.sha256(b"%d/%s" % (seed, place)).digest()


def names_in(folder: pathlib.Path) -> list[str]:
    """Returns the subfolders' names, sorted, without hidden ones and those that macOS
    adds to archives.
    """
    if not folder.is_dir():
        return []
    return sorted(
        entry.name
        for entry in os.scandir(folder)
        if entry.is_dir() and not entry.name.startswith((".", "__MACOSX"))
    )


def direct_images(folder: pathlib.Path) -> int:
    """Counts the images in the folder itself."""
    return sum(
        not entry.name.startswith(".")
        and entry.is_file()
        and image_files.is_image(entry.path)
        for entry in os.scandir(folder)
    )


def no_split(base: pathlib.Path, split: str) -> str:
    """Returns the message for a missing split."""
    inner = names_in(base)
    splits = [name for name in inner if names_in(base / name)]
    if splits:
        return (
            f"{base} has no split {split!r}; its splits: {', '.join(splits)} (give "
            f"{base / splits[0]} as path to hold out a part of it)"
        )
    return (
        f"{base / split} does not exist, and {base} has no SPLIT/CLASS/*.jpg or "
        f"CLASS/*.jpg: {file_contents.summary(base)}. {local.set_path()}"
    )
