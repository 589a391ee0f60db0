"""Reads right and wrong captions of images, in the form of SugarCrepe (2306.14610).

A file is one kind of wrong captions, `swap_att.json`:

    {"0": {"filename": "000000000001.jpg", "caption": "...", "negative_caption": "..."}}

It may also be a list of such objects, and `negative_caption` a list of texts.
"""

from __future__ import annotations

import pathlib
from typing import Any, NamedTuple

from clipjax.data.storage import file_contents, json_files, local
from clipjax.types import UserError

SUFFIX = ".json"
IMAGE, RIGHT, WRONG = "filename", "caption", "negative_caption"


class ListedChoice(NamedTuple):
    """An image's name, and its captions: the right one first."""

    image: str
    captions: tuple[str, ...]


class OwnChoice(NamedTuple):
    """A right and wrong captions that a source has of an example itself.

    kind: what is counted together. number: the choice's in its kind. image: the name of
    the picture, which several examples may be parts of. captions: the right one first.
    group: what it is of, "" if there are no groups. counted: whether the group counts
    in the mean over groups.
    """

    kind: str
    number: int
    image: str
    captions: tuple[str, ...]
    group: str = ""
    counted: bool = False


def read(path: pathlib.Path) -> dict[str, list[ListedChoice]]:
    """Returns the choices of a file, or of each JSON file in a folder, by the files'
    names without suffix, in their order.

    Raises UserError for a missing or empty place, a file of another form, and an entry
    without image or captions.
    """
    if path.is_dir():
        files = sorted(
            entry
            for entry in path.iterdir()
            if entry.suffix.lower() == SUFFIX and not entry.name.startswith(".")
        )
        if not files:
            raise UserError(
                f"{path} holds no JSON files of right and wrong captions, such as "
                f"swap_att.json: {file_contents.summary(path)}"
            )
    elif path.is_file():
        files = [path]
    else:
        raise local.missing(
            path, "Name a JSON file of right and wrong captions, or a folder of them"
        )
    return {file.stem: _choices(file) for file in files}


def _choices(path: pathlib.Path) -> list[ListedChoice]:
    content: Any = json_files.read(path)
    if isinstance(content, dict):
        items = list(content.items())
    elif isinstance(content, list):
        items = list(enumerate(content))
    else:
        items = []
    if not any(isinstance(item, dict) and WRONG in item for _, item in items):
        raise UserError(
            f"{path} does not have SugarCrepe's form, an object of objects with "
            f"{IMAGE!r}, {RIGHT!r} and {WRONG!r}, but is {json_files.describe(content)}"
        )
    return [_choice(path, name, item) for name, item in items]


def _choice(path: pathlib.Path, name: str | int, item: Any) -> ListedChoice:
    values = item if isinstance(item, dict) else {}
    wrong = values.get(WRONG)
    wrong = wrong if isinstance(wrong, list) else [wrong]
    texts = [values.get(IMAGE), values.get(RIGHT), *wrong]
    if not wrong or not all(isinstance(x, str) and x.strip() for x in texts):
        raise UserError(
            f"{path}: entry {name!r} needs texts as {IMAGE!r}, {RIGHT!r} and "
            f"{WRONG!r}: it is {json_files.short_json(item, 80)}"
        )
    image, *captions = map(str, texts)
    return ListedChoice(image, tuple(caption.strip() for caption in captions))
