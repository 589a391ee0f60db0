"""What a file or a folder holds, in words, for a complaint that something is not there.

Nothing is opened beyond its first bytes.
"""

from __future__ import annotations

import collections
import os
import pathlib
import re
from collections.abc import Iterable

# How a file begins -> its form.
SIGNATURES = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\0": "xz",
    b"\x5d\0\0\x80\0": "lzma",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\x04\x22\x4d\x18": "lz4",
    b"\x1f\x9d": "compress",
    b"PK\x03\x04": "zip",
    b"7z\xbc\xaf\x27\x1c": "7z",
    b"Rar!\x1a\x07": "rar",
    b"PAR1": "parquet",
    b"\xff\xff\xff\xff": "arrow stream",
    b"ARROW1": "arrow",
    b"version https://": "git lfs",
}
UNPACK = "compressed: unpack it to a plain .tar"
# Form -> what a file is that should be a tar shard, and what to do about it.
AS_SHARD = {
    "gzip": f"{UNPACK} (gunzip)",
    "bzip2": f"{UNPACK} (bunzip2)",
    "xz": f"{UNPACK} (unxz)",
    "lzma": f"{UNPACK} (unlzma)",
    "zstd": f"{UNPACK} (unzstd)",
    "lz4": f"{UNPACK} (unlz4)",
    "compress": f"{UNPACK} (uncompress)",
    "zip": "a zip archive: unpack it, and pack a plain .tar",
    "7z": "a 7z archive: unpack it, and pack a plain .tar",
    "rar": "a rar archive: unpack it, and pack a plain .tar",
    "parquet": "a parquet file: read it by data=parquet",
    "arrow stream": "an Arrow stream: write it as parquet, and read that",
    "arrow": "an Arrow file: write it as parquet, and read that by data=parquet",
    "git lfs": "a pointer of Git LFS, not the file: run git lfs pull",
}
PACKED = re.compile(
    r"\.(tar\.\w+|tgz|tbz2?|txz|tzst|taz|zip|7z|rar|gz|bz2|xz|zst|lz4)$", re.IGNORECASE
)
ARROW = (
    "an Arrow data set of datasets' save_to_disk: write each split as parquet, "
    "load_from_disk(PATH).to_parquet('train.parquet'), and read that by data=parquet"
)
MOST = 10_000  # files looked at, of a folder that may hold millions


def form_of(head: bytes) -> str:
    """The form of a file that starts so, if it is one of SIGNATURES; else ""."""
    fitting = (form for sign, form in SIGNATURES.items() if head.startswith(sign))
    return next(fitting, "")


def held(folder: pathlib.Path) -> str:
    """What a folder holds at any depth: "it holds 3 files train-*.tar.gz (...)"."""
    if not folder.is_dir():
        return "there is no such folder"
    names: list[str] = []
    for place, inner, found in os.walk(folder):
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        where = os.path.relpath(place, folder)
        names += [
            os.path.normpath(os.path.join(where, name)).replace(os.sep, "/")
            for name in sorted(found)
            if not name.startswith(".")
        ]
        if len(names) > MOST:
            break
    return in_words(names, more=len(names) > MOST)


def in_words(names: Iterable[str], more: bool = False) -> str:
    """As `held`, of files' names; more: whether there are more than these.

    Names that differ in their numbers are one.
    """
    names = sorted(names)
    if any(name.endswith(".arrow") for name in names):
        return f"it holds {ARROW}"
    alike: dict[str, list[str]] = collections.defaultdict(list)
    for name in names:
        stem, suffix = os.path.splitext(name)  # which may be .lz4
        alike[re.sub(r"\d+", "*", stem) + suffix].append(name)
    if len(alike) > 8:  # of no pattern: their suffixes
        alike = collections.defaultdict(list)
        for name in names:
            alike[f"*{suffix_of(name)}"].append(name)
    largest = sorted(alike.items(), key=lambda item: -len(item[1]))
    words = [
        found[0] if len(found) == 1 else f"{len(found)} files {pattern}"
        for pattern, found in largest[:4]
    ]
    if len(largest) > 4 or more:
        words.append("others")
    seen = f"it holds {', '.join(words)}" if words else "it is empty"
    if any(PACKED.search(name) for name in names):
        seen += " (compressed: unpack them, tar shards to plain .tar)"
    return seen


def suffix_of(name: str) -> str:
    """A file's suffix in small letters: what stands after the last dot."""
    return os.path.splitext(name)[1].lower() or " without a suffix"


def tally(suffixes: collections.Counter[str]) -> str:
    """Counts of suffixes in words: ".txt 5, .json 2"."""
    listed = sorted(suffixes.items(), key=lambda item: (-item[1], item[0]))
    words = [f"{suffix.strip()} {n}" for suffix, n in listed[:6]]
    return ", ".join([*words, "..."] if len(suffixes) > 6 else words)
