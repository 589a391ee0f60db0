"""Describes a file's or folder's content, for messages about missing data.

No more than a file's first bytes is read.
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
    b"\x02\x21\x4c\x18": "lz4",  # its older form
    b"\x1f\x9d": "compress",
    b"LZIP": "lzip",
    b"\x89LZO\0": "lzop",
    b"\xff\x06\0\0sNaPpY": "snappy",
    b"PK\x03\x04": "zip",
    b"PK\x05\x06": "zip",  # an empty one
    b"PK\x07\x08": "zip",  # of several volumes
    b"7z\xbc\xaf\x27\x1c": "7z",
    b"Rar!\x1a\x07": "rar",
    b"PAR1": "parquet",
    b"\xff\xff\xff\xff": "arrow stream",
    b"ARROW1": "arrow",
    b"version https://": "git lfs",
    **dict.fromkeys((b"<!DOCTYPE", b"<!doctype", b"<html", b"<HTML"), "web page"),
    b"<?xml": "web page",
    b"\xd0\xcf\x11\xe0": "office",
}
SIGNATURES |= {
    bytes((n, 0x2A, 0x4D, 0x18)): "zstd" for n in range(0x50, 0x60)
}  # framed
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
    "lzip": f"{UNPACK} (lzip -d)",
    "lzop": f"{UNPACK} (lzop -d)",
    "snappy": f"{UNPACK} (snzip -d)",
    "zip": "a zip archive: unpack it, and pack a plain .tar",
    "7z": "a 7z archive: unpack it, and pack a plain .tar",
    "rar": "a rar archive: unpack it, and pack a plain .tar",
    "parquet": "a parquet file: read it by data=parquet",
    "arrow stream": "an Arrow stream: write it as parquet, and read that",
    "arrow": "an Arrow file: write it as parquet, and read that by data=parquet",
    "git lfs": "a pointer of Git LFS, not the file: run git lfs pull",
    "web page": "a web page, which a failed download leaves: download the file again",
    "office": "an Office document: read another file",
}
# Form -> what any other file is; forms not listed are "compressed by FORM".
AS_OTHER = {
    "zip": "a zip archive, or a spreadsheet",
    "7z": "a 7z archive: unpack it",
    "rar": "a rar archive: unpack it",
    "parquet": "a parquet file: read those with data=parquet",
    **{form: AS_SHARD[form] for form in ("arrow stream", "arrow", "git lfs")},
    **{form: AS_SHARD[form] for form in ("web page", "office")},
}
COMPRESSED = re.compile(
    r"\.(t(gz|bz2?|b2|xz|zst|az|lz|lzma|zo|z)|zip|7z|rar|gz|bz2?|xz|zstd?|lz4|lz|lzma|"
    r"lzo|br|sz|z)$",
    re.IGNORECASE,
)
ARROW = (
    "an Arrow data set of datasets' save_to_disk: write each split as parquet, "
    "load_from_disk(PATH).to_parquet('train.parquet'), and read that by data=parquet"
)
MAX_FILES = 10_000  # names to collect from a folder, which may hold millions


def form_of(head: bytes) -> str:
    """Returns the form in SIGNATURES of a file's first bytes; "" if there is none."""
    matches = (form for sign, form in SIGNATURES.items() if head.startswith(sign))
    return next(matches, "")


def other(head: bytes) -> str:
    """Describes a file that is not the expected text or parquet, by its first bytes;
    returns "" if they are unknown.
    """
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return "UTF-16 text: save it as UTF-8"
    form = form_of(head[:16])
    return AS_OTHER.get(form, f"compressed by {form}: unpack it" if form else "")


def summary(folder: pathlib.Path) -> str:
    """Lists a folder's files at any depth: "it holds 3 files train-*.tar.gz (...)"."""
    if not folder.is_dir():
        return "there is no such folder"
    names: list[str] = []
    for directory, subfolders, files in os.walk(folder):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        relative = os.path.relpath(directory, folder)
        names += [
            os.path.normpath(os.path.join(relative, name)).replace(os.sep, "/")
            for name in sorted(files)
            if not name.startswith(".")
        ]
        if len(names) > MAX_FILES:
            break
    return summary_of(names, more=len(names) > MAX_FILES)


def summary_of(names: Iterable[str], more: bool = False) -> str:
    """Lists file names as `summary` does; more: whether there are more than these.

    Names that differ only in their numbers form one pattern.
    """
    names = sorted(names)
    if any(name.endswith(".arrow") for name in names):
        return f"it holds {ARROW}"
    by_pattern: dict[str, list[str]] = collections.defaultdict(list)
    for name in names:
        stem, suffix = os.path.splitext(name)  # the suffix may be .lz4
        by_pattern[re.sub(r"\d+", "*", stem) + suffix].append(name)
    if len(by_pattern) > 8:  # too many patterns: suffixes instead
        by_pattern = collections.defaultdict(list)
        for name in names:
            by_pattern[f"*{suffix_of(name)}"].append(name)
    largest = sorted(by_pattern.items(), key=lambda item: -len(item[1]))
    parts = [
        files[0] if len(files) == 1 else f"{len(files)} files {pattern}"
        for pattern, files in largest[:4]
    ]
    if len(largest) > 4 or more:
        parts.append("others")
    text = f"it holds {', '.join(parts)}" if parts else "it is empty"
    if any(COMPRESSED.search(name) for name in names):
        text += " (compressed: unpack them, tar shards to plain .tar)"
    return text


def suffix_of(name: str) -> str:
    """Returns a file's suffix in lower case: its last dot and what follows."""
    return os.path.splitext(name)[1].lower() or " without a suffix"


def tally(suffixes: collections.Counter[str]) -> str:
    """Formats counts of suffixes: ".txt 5, .json 2"."""
    largest = sorted(suffixes.items(), key=lambda item: (-item[1], item[0]))
    parts = [f"{suffix.strip()} {n}" for suffix, n in largest[:6]]
    return ", ".join([*parts, "..."] if len(suffixes) > 6 else parts)
