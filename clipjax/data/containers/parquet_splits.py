"""Finds a folder's parquet files of each split, by their names and folders.

The Hugging Face hub names them `data/train-00000-of-00042.parquet`,
`train/0000.parquet` or `default/train/0000.parquet`, with validation, valid or dev for
val. Files without a split in their names form one set.
"""

from __future__ import annotations

import os
import pathlib
import re

from clipjax import registry
from clipjax.data.storage import file_contents, local
from clipjax.types import UserError

SUFFIX = ".parquet"
NUMBERED = re.compile(r"(.+)-(\d+)-of-(\d+)(?:-\w+)?")
ALIASES = {"training": "train", "testing": "test"} | dict.fromkeys(
    ("validation", "valid", "dev"), "val"
)
SPLITS = ("train", "val", "test")


def canonical(split: str) -> str:
    """Returns the canonical name of a split: "val" for "validation"."""
    return ALIASES.get(split.lower(), split)


def find(base: pathlib.Path) -> dict[str, list[str]]:
    """Returns split -> its files, relative to the folder, sorted; "" for files of none.

    Raises UserError if there are no files, if they are in several folders, which may
    hold different data, and if numbered ones are missing.
    """
    by_folder: dict[str, dict[str, list[str]]] = {}
    for name in _all(base):
        folder, split = _split(pathlib.PurePosixPath(name))
        by_folder.setdefault(folder, {}).setdefault(split, []).append(name)
    if not by_folder:
        content = file_contents.summary(base)
        raise UserError(
            f"{base} holds no {SUFFIX} files ({content}): {local.set_path()}"
        )
    if len(by_folder) > 1:
        raise UserError(
            f"{base} holds {SUFFIX} files in several folders ({', '.join(by_folder)}): "
            f"give one of them as path, or name files by the option shards"
        )
    (splits,) = by_folder.values()
    for names in splits.values():
        _complete(base, names)
    return splits


def unknown(base: pathlib.Path, split: str, known: list[str]) -> UserError:
    """Returns the error for a split that does not exist."""
    return UserError(
        f"{base} has no split {split!r}.{registry.suggest(split, known)} Its splits: "
        f"{', '.join(known)}"
    )


def _all(base: pathlib.Path) -> list[str]:
    """Returns all parquet files at any depth, except hidden files and folders."""
    files = []
    for folder, subfolders, names in os.walk(base):
        subfolders[:] = [name for name in subfolders if not name.startswith((".", "_"))]
        files += [
            (pathlib.Path(folder) / name).relative_to(base).as_posix()
            for name in names
            if name.endswith(SUFFIX) and not name.startswith((".", "_"))
        ]
    return sorted(files)


def _split(name: pathlib.PurePosixPath) -> tuple[str, str]:
    """Returns (the folder of the file's data set, the file's split)."""
    stem = name.name.removesuffix(SUFFIX)
    numbered = NUMBERED.fullmatch(stem)
    word = canonical(numbered[1] if numbered else re.split(r"[-_.]", stem)[0])
    if word in SPLITS:
        return str(name.parent), word
    # The hub names the folder partial-SPLIT if it converted only a part of the data.
    parent_split = canonical(name.parent.name.removeprefix("partial-"))
    if parent_split in SPLITS:
        return str(name.parent.parent), parent_split
    return str(name.parent), word if numbered else ""


def _complete(base: pathlib.Path, names: list[str]) -> None:
    """Raises UserError if a numbered file (-00003-of-00042) is missing."""
    groups: dict[tuple[str, int], set[int]] = {}
    for name in names:
        if match := NUMBERED.fullmatch(name.removesuffix(SUFFIX)):
            groups.setdefault((match[1], int(match[3])), set()).add(int(match[2]))
    for (stem, total), present in groups.items():
        missing = sorted(set(range(total)) - present)
        if len(present) < total:  # numbers may start at 1
            raise UserError(
                f"{base / stem}-{missing[0]:05}-of-{total:05}{SUFFIX} is missing, one "
                f"of {len(missing)}: get all, or name those to use by the option shards"
            )
