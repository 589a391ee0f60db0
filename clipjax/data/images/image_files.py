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
    folders. Adds the suffixes of files that are not images to `others`, with those of
    pipes, sockets and devices, which are not opened.

    also: further suffixes of images. excluded: whether to leave out a folder, by its
    path. unreadable: called with the error of each folder that cannot be listed, and of
    each link that leads nowhere, which is left out then.
    """
    images, seen = [], set()
    waiting = [os.fspath(place)]
    while waiting:
        folder = waiting.pop()
        real = os.path.realpath(folder)
        if real in seen:  # a link to a parent, or a second link to one folder
            continue
        seen.add(real)
        inner = []
        for entry in _entries(folder, unreadable):
            if entry.name.startswith("."):
                continue
            path = entry.path
            try:
                if entry.is_dir():
                    if excluded is None or not excluded(path):
                        inner.append(path)
                    continue
                mode = 0 if entry.is_file() else os.stat(path).st_mode
            except OSError as error:
                mode = 0
                if unreadable is not None:
                    unreadable(error)
                    continue
            suffix = file_contents.suffix_of(entry.name)
            # Reading a pipe would wait for ever.
            if not mode and (suffix in also or is_image(path)):
                images.append(path)
            else:
                others[suffix] += 1
        waiting += reversed(inner)
    return sorted(images)


def _entries(
    folder: str, unreadable: Callable[[OSError], None] | None
) -> list[os.DirEntry[str]]:
    """What is in a folder, by name; nothing if it cannot be listed."""
    try:
        with os.scandir(folder) as found:
            return sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        if unreadable is not None:
            unreadable(error)
        return []


def describe_left_out(others: Suffixes) -> list[str]:
    """A message that says how many files were left out; empty if none were."""
    if not others:
        return []
    seen = file_contents.tally(others)
    return [f"{others.total()} files that are no images, left out ({seen})"]
