"""Which files of a folder are images: those that `images` can open.

A usual suffix (`files.IMAGE_SUFFIXES`) is enough. Of any other file the header is read,
unless its suffix is one of what usually lies beside images; what is left aside is
counted by its suffix.
"""

from __future__ import annotations

import collections
import os

from clipjax.data.images import decoding
from clipjax.data.storage import file_contents, local

# Never opened: there may be one for every image.
BESIDE = (
    *(".txt", ".json", ".jsonl", ".xml", ".csv", ".tsv", ".cls", ".caption"),
    *(".npy", ".npz", ".pt", ".yaml", ".yml", ".md", ".html"),
)

Suffixes = collections.Counter[str]


def is_image(place: str | os.PathLike[str]) -> bool:
    """Whether a file is an image by its suffix, or else by its header."""
    suffix = file_contents.suffix_of(os.path.basename(place))
    if suffix in local.IMAGE_SUFFIXES:
        return True
    if suffix in BESIDE:
        return False
    try:
        with open(place, "rb") as file:
            return decoding.is_known(file)
    except OSError:
        return False


def find(place: str | os.PathLike[str], others: Suffixes) -> list[str]:
    """Paths of the images at any depth, sorted, through links too; hidden files and
    folders left out. others: gets the suffixes of the files that are no images.
    """
    found, seen = [], set()
    for folder, inner, names in os.walk(place, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:  # a link to a folder above, or to one twice
            inner.clear()
            continue
        seen.add(real)
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        for name in names:
            if name.startswith("."):
                continue
            path = os.path.join(folder, name)
            if is_image(path):
                found.append(path)
            else:
                others[file_contents.suffix_of(name)] += 1
    return sorted(found)


def left_out(others: Suffixes) -> list[str]:
    """The problem that files were left out, in words; none if none were."""
    if not others:
        return []
    seen = file_contents.tally(others)
    return [f"{others.total()} files that are no images, left out ({seen})"]
