"""Reads Winoground: pairs of images and captions of the same words (arXiv 2204.03162).

PATH/examples.jsonl with PATH/images/*.png, as `images.zip` of the Hugging Face data set
facebook/winoground has them, or both in PATH/data. An image with its own caption is an
example; `pairs` says which two form a pair, for evals=pair_choice.

    python -m clipjax.evaluate --model X --evals=pair_choice \\
        --data=winoground --data.path=FOLDER --data.split=test
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Sequence

from clipjax.data.annotations import caption_entries, image_list, image_pairs
from clipjax.data.annotations.caption_entries import Counts, Entry
from clipjax.data.annotations.image_pairs import ImagePair, ListedPair
from clipjax.data.images import image_files
from clipjax.data.storage import file_contents, local
from clipjax.types import UserError

FILE, ARCHIVE = "examples.jsonl", "images.zip"
FOLDERS = ("images", ".")


def make(split: str, *, path: str = "", images: str = "") -> PairedImages:
    """Reads the list of the pairs; images are read on access.

    The examples are the first image of the first pair, its second, and so on.

    Options:
      path: the folder of `examples.jsonl` and the images, or the one that has it as
        `data`.
      images: folder of the images, relative to the list's; "" finds `images`.

    Raises UserError for another split than "test", missing files and a list of another
    form.
    """
    if split != "test":
        raise UserError(
            f"data=winoground has the split test only, not {split!r}: set "
            f"{local.set_by('split', 'test')}"
        )
    base = _find(local.folder(path, "Winoground's pairs"))
    table = base / FILE
    listed = image_pairs.read(table)
    folders = image_list.image_folders(base, images, FOLDERS)
    if not images and not (base / "images").exists() and (base / ARCHIVE).exists():
        raise UserError(f"{base / ARCHIVE} is not unpacked: unzip it in {base}")
    named = _files(folders)
    counts = Counts()
    entries: dict[str, Entry] = {}
    for pair in listed:
        for image, caption in zip(pair.images, pair.captions, strict=True):
            entry = entries[named.get(image, image)] = Entry()
            entry.add(caption, counts)
    problems = caption_entries.problems(counts, entries)
    folder = image_list.find_images(base, images, list(entries), table, FOLDERS)
    local.report(f"winoground {table}", problems)
    return PairedImages(folder, entries, problems, listed)


class PairedImages(image_list.ImageList):
    """A `clipjax.types.Source` of pairs of images.

    pairs: of its examples. listed: the pairs of `entries`, two after another.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        entries: dict[str, Entry],
        problems: list[str],
        listed: Sequence[ListedPair],
    ):
        super().__init__(folder, entries, problems)
        self.pairs = [
            ImagePair(pair.id, 2 * n, 2 * n + 1, pair.tags)
            for n, pair in enumerate(listed)
        ]


def _find(base: pathlib.Path) -> pathlib.Path:
    """The folder of the list."""
    for place in (base, base / "data"):
        if (place / FILE).is_file():
            return place
    raise UserError(
        f"{base} has no {FILE} ({file_contents.summary(base)}): put there {FILE} and "
        f"the images of {ARCHIVE}, from the data set facebook/winoground"
    )


def _files(folders: Sequence[pathlib.Path]) -> dict[str, str]:
    """Name without suffix, and with it -> the file's name, of the images in folders."""
    found: dict[str, str] = {}
    for folder in folders:
        for name in sorted(os.listdir(folder)):
            if not name.startswith(".") and image_files.is_image(folder / name):
                found.setdefault(os.path.splitext(name)[0], name)
    return found
