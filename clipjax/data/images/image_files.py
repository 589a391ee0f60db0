"""Finds a folder's images: the files that decoding.py can open.

A usual suffix (`local.IMAGE_SUFFIXES`) is enough. For other files the header decides,
except for suffixes of files that often accompany images. Skipped files are counted by
suffix.
"""

from __future__ import annotations

import collections
import os
from collections.abc import Callable, Collection

from clipjax.data.images import decoding
from clipjax.data.storage import file_contents, local

# Never opened, because a folder may have one per image.
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


def find(
    place: str | os.PathLike[str],
    others: Suffixes,
    *,
    also: Collection[str] = (),
    excluded: Callable[[str], bool] | None = None,
    unreadable: Callable[[OSError], None] | None = None,
) -> list[str]:
    """Sorted paths of the images at any depth; follows links, skips hidden files and
    folders. Adds the suffixes of files that are not images to `others`.

    also: further suffixes of images. excluded: whether to leave out a folder, by its
    path. unreadable: called with the error of each folder that cannot be listed.
    """
    images, seen = [], set()
    for folder, inner, names in os.walk(place, onerror=unreadable, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:  # a link to a parent, or a second link to one folder
            inner.clear()
            continue
        seen.add(real)
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        if excluded is not None:
            inner[:] = [n for n in inner if not excluded(os.path.join(folder, n))]
        for name in names:
            if name.startswith("."):
                continue
            path = os.path.join(folder, name)
            suffix = file_contents.suffix_of(name)
            if suffix in also or is_image(path):
                images.append(path)
            else:
                others[suffix] += 1
    return sorted(images)


def describe_left_out(others: Suffixes) -> list[str]:
    """A message that says how many files were left out; empty if none were."""
    if not others:
        return []
    seen = file_contents.tally(others)
    return [f"{others.total()} files that are no images, left out ({seen})"]
