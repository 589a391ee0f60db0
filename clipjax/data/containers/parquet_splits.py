"""Which parquet files of a folder are of a split, by their names and folders.

As the Hugging Face hub distributes data: `data/train-00000-of-00042.parquet`,
`train/0000.parquet`, `default/train/0000.parquet`, with validation, valid or dev for
val. Files without a split in their names are all of one set.
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
    """One name for those that mean the same: "val" for "validation"."""
    return ALIASES.get(split.lower(), split)


def find(base: pathlib.Path) -> dict[str, list[str]]:
    """Split -> its files, relative to the folder, sorted; "" for files of no split.

    Raises UserError if there are none, if they lie in several folders, which may
    be different data, and if numbered ones are missing.
    """
    found: dict[str, dict[str, list[str]]] = {}
    for name in _all(base):
        folder, split = _split(pathlib.PurePosixPath(name))
        found.setdefault(folder, {}).setdefault(split, []).append(name)
    if not found:
        seen = file_contents.summary(base)
        raise UserError(f"{base} holds no {SUFFIX} files ({seen}): {local.set_path()}")
    if len(found) > 1:
        raise UserError(
            f"{base} holds {SUFFIX} files in several folders ({', '.join(found)}): "
            f"give one of them as path, or name files by the option shards"
        )
    (splits,) = found.values()
    for names in splits.values():
        _complete(base, names)
    return splits


def unknown(base: pathlib.Path, split: str, known: list[str]) -> UserError:
    """The complaint about a split that is not there."""
    return UserError(
        f"{base} has no split {split!r}.{registry.suggest(split, known)} Its splits: "
        f"{', '.join(known)}"
    )


def _all(base: pathlib.Path) -> list[str]:
    """All such files at any depth, hidden ones and folders left out."""
    found = []
    for folder, inner, names in os.walk(base):
        inner[:] = [name for name in inner if not name.startswith((".", "_"))]
        found += [
            (pathlib.Path(folder) / name).relative_to(base).as_posix()
            for name in names
            if name.endswith(SUFFIX) and not name.startswith((".", "_"))
        ]
    return sorted(found)


def _split(name: pathlib.PurePosixPath) -> tuple[str, str]:
    """The folder that holds the data set of a file, and the file's split."""
    stem = name.name.removesuffix(SUFFIX)
    numbered = NUMBERED.fullmatch(stem)
    word = canonical(numbered[1] if numbered else re.split(r"[-_.]", stem)[0])
    if word in SPLITS:
        return str(name.parent), word
    above = canonical(name.parent.name.removeprefix("partial-"))  # cut by the hub
    if above in SPLITS:
        return str(name.parent.parent), above
    return str(name.parent), word if numbered else ""


def _complete(base: pathlib.Path, names: list[str]) -> None:
    """Raises UserError if `-00003-of-00042` is missing among its like."""
    groups: dict[tuple[str, int], set[int]] = {}
    for name in names:
        if match := NUMBERED.fullmatch(name.removesuffix(SUFFIX)):
            groups.setdefault((match[1], int(match[3])), set()).add(int(match[2]))
    for (stem, total), there in groups.items():
        gone = sorted(set(range(total)) - there)
        if len(there) < total:  # which may be counted from 1
            raise UserError(
                f"{base / stem}-{gone[0]:05}-of-{total:05}{SUFFIX} is missing, one of "
                f"{len(gone)}: get all, or name those to use by the option shards"
            )
