"""Indexes the examples of a webdataset tar shard: their positions, built once, cached.

`cached(shard, folder)` reads a shard's headers and caption files in one pass and saves
the index in the cache folder. The index is valid until the shard's size or time
changes. Images are then read by position, without unpacking.
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import json
import logging
import os
import pathlib
import sys
import tarfile
import zlib
from typing import BinaryIO

import numpy as np

from clipjax import atomic_files, paths
from clipjax.data.annotations import caption_files
from clipjax.data.containers import tar_members
from clipjax.data.storage import file_contents, local
from clipjax.data.storage.shard_files import Shard
from clipjax.types import UserError

FORMAT = 4  # raise it when an index changes its meaning, so that old caches are ignored
IMAGES = frozenset(suffix[1:] for suffix in local.IMAGE_SUFFIXES)
NO_LABEL, BAD_LABEL = -1, -2

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class ShardIndex:
    """One shard's examples (keys with an image), in the order of their first file.

    keys: uint8, the keys' UTF-8 bytes joined; key_end: int64 [n], each key's end in it.
    image_start, image_size, text_start, text_size: int64 [n], bytes within the shard.
    text_kind: uint8 [n], a kind of caption_files.
    captions: int32 [n], how many captions; 1 if they cannot be read.
    label: int32 [n], from `.cls`; NO_LABEL if there is none, BAD_LABEL if broken.
    problems: messages about ignored and damaged parts, without the shard's name.
    """

    keys: np.ndarray
    key_end: np.ndarray
    image_start: np.ndarray
    image_size: np.ndarray
    text_start: np.ndarray
    text_size: np.ndarray
    text_kind: np.ndarray
    captions: np.ndarray
    label: np.ndarray
    problems: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.captions)

    def key(self, i: int) -> str:
        """Returns example i's key; bytes that are not UTF-8 become escapes."""
        start = int(self.key_end[i - 1]) if i else 0
        raw = self.keys[start : int(self.key_end[i])].tobytes()
        return raw.decode("utf-8", "backslashreplace")


ARRAYS = tuple(f.name for f in dataclasses.fields(ShardIndex) if f.name != "problems")


def load_or_build(shard: Shard, cache: pathlib.Path) -> ShardIndex:
    """Returns a shard's index, from the cache folder if it is still valid.

    Raises UserError for a file that is not a readable tar, such as a compressed one.
    """
    stamp = json.dumps([FORMAT, shard.address, *shard.stamp])
    name = hashlib.sha256(os.fsencode(shard.address)).hexdigest()[:32] + ".index"
    index = load(cache / name, stamp)
    if index is None:
        index = build(shard)
        save(cache / name, stamp, index)
    return index


def save(path: pathlib.Path, stamp: str, index: ShardIndex) -> None:
    """Writes a cached index, atomically; logs a failure instead of raising it."""
    data = b"".join(getattr(index, name).tobytes() for name in ARRAYS)
    header = {
        "stamp": stamp,
        "problems": index.problems,
        "arrays": [
            (getattr(index, n).dtype.str, len(getattr(index, n))) for n in ARRAYS
        ],
        "crc": zlib.crc32(data),
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # No sync: the checksum detects damage, and 10,000 syncs take long.
        with atomic_files.open_to_write(path, "wb", sync=False) as file:
            file.write(json.dumps(header).encode() + b"\n" + data)
    except OSError as error:
        logger.warning("cannot keep a shard's index in %s: %s", path.parent, error)


def load(path: pathlib.Path, stamp: str) -> ShardIndex | None:
    """Reads a cached index; returns None if it is missing, outdated or damaged."""
    try:
        first_line, _, data = path.read_bytes().partition(b"\n")
        header = json.loads(first_line)
        if header["stamp"] != stamp:
            return None
        if header["crc"] != zlib.crc32(data):
            raise ValueError("its checksum is wrong")
        arrays, start = [], 0
        for kind, length in header["arrays"]:
            arrays.append(np.frombuffer(data, kind, length, start))
            start += arrays[-1].nbytes
        return ShardIndex(*arrays, problems=tuple(header["problems"]))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        logger.info("the cached index %s is damaged and is built again", path)
        return None


@dataclasses.dataclass
class _Entry:
    """One key's files."""

    image: tuple[int, int] | None = None  # (start, size) in the shard
    texts: list[caption_files.Text] = dataclasses.field(default_factory=list)
    label: int = NO_LABEL
    kinds: set[str] = dataclasses.field(default_factory=set)
    unread: list[str] = dataclasses.field(default_factory=list)  # suffixes


def build(shard: Shard) -> ShardIndex:
    """Builds a shard's index from the shard itself, in one pass."""
    entries: dict[tuple[int, str], _Entry] = {}
    counts: collections.Counter[str] = collections.Counter()
    problems: list[str] = []
    try:
        with shard.open() as file:
            for part, member in tar_members.each(file, shard, problems):
                _note(part, member, file, entries, counts)
    except OSError as error:
        raise UserError(f"cannot read the shard {shard.address}: {error}") from error
    examples = {key: entry for key, entry in entries.items() if entry.image is not None}
    problems += _dotted(entries) + _no_images(entries)
    return _pack(examples, problems, counts)


def _note(
    part: int,
    member: tarfile.TarInfo,
    file: BinaryIO,
    entries: dict[tuple[int, str], _Entry],
    counts: collections.Counter[str],
) -> None:
    """Adds a member to its key's entry. The key is the path up to the first dot in the
    file's name.

    part: the archive's number in the shard; archives joined into one share no keys.
    """
    if member.isdir():
        return
    if not member.isreg() or member.issparse():
        counts["members that are links or special files, left out"] += 1
        return
    name = member.name.removeprefix("./")
    if name.startswith("/") or ".." in name.split("/"):
        counts["members with an unsafe name, left out"] += 1
        return
    folder, slash, last = name.rpartition("/")
    stem, _, suffix = last.partition(".")
    if not stem:  # hidden files, as macOS adds them
        return
    suffix = suffix.lower()
    kind = "image" if suffix in IMAGES else suffix
    entry = entries.setdefault((part, folder + slash + stem), _Entry())
    if kind not in ("image", "txt", "json", "cls"):
        entry.unread.append(sys.intern(suffix))
        return
    if kind in entry.kinds:
        counts["files of a key that has such a file already, left out"] += 1
        return
    entry.kinds.add(kind)
    span = (member.offset_data, member.size)
    if kind == "image":
        entry.image = span
        return
    file.seek(member.offset_data)
    data = file.read(member.size)
    if kind == "cls":
        entry.label = _label(data)
        return
    entry.texts.append(_text(kind, data, span))


def _no_images(entries: dict[tuple[int, str], _Entry]) -> list[str]:
    """Returns the message that counts keys without an image, and their files."""
    without_image = [entry for entry in entries.values() if entry.image is None]
    suffixes = collections.Counter(
        f".{suffix}" if suffix else "without a suffix"
        for entry in without_image
        for suffix in (*sorted(entry.kinds), *entry.unread)
    )
    if not without_image:
        return []
    suffix_counts = file_contents.tally(suffixes)
    return [f"{len(without_image)} keys without an image, left out ({suffix_counts})"]


def _dotted(entries: dict[tuple[int, str], _Entry]) -> list[str]:
    """Returns the message that counts images ignored for a dot within their names."""
    count, example = 0, ""
    for (_, key), entry in entries.items():
        for suffix in entry.unread:
            if suffix.rpartition(".")[2] in IMAGES:
                count += 1
                example = example or (
                    f"{key}.{suffix}' is read as the file '{suffix}' of the key "
                    f"'{key.rpartition('/')[2]}'"
                )
    if not count:
        return []
    return [
        f"{count} images with a further dot in their names, left out: keys end at the "
        f"first dot, so that '{paths.readable(example)}"
    ]


def _label(data: bytes) -> int:
    try:
        label = int(data)
    except ValueError:
        return BAD_LABEL
    return label if 0 <= label < 2**31 else BAD_LABEL


def _text(kind: str, data: bytes, span: tuple[int, int]) -> caption_files.Text:
    """Describes a caption file with the suffix txt or json; it may be truncated."""
    file_kind = caption_files.TXT if kind == "txt" else caption_files.JSON
    text = caption_files.inspect(file_kind, data, span)
    return text if len(data) == span[1] else dataclasses.replace(text, captions=-1)


def _pack(
    entries: dict[tuple[int, str], _Entry],
    problems: list[str],
    counts: collections.Counter[str],
) -> ShardIndex:
    """Returns the index of these examples; its problems include `counts`."""
    names = [key.encode("utf-8", "surrogateescape") for _, key in entries]
    values = list(entries.values())
    chosen = caption_files.choose_each((entry.texts for entry in values), counts)
    counted = [f"{n} {problem}" for problem, n in sorted(counts.items()) if n]
    images = np.array([entry.image for entry in values], np.int64).reshape(-1, 2)
    texts = np.array([text.span for text in chosen], np.int64).reshape(-1, 2)
    return ShardIndex(
        keys=np.frombuffer(b"".join(names), np.uint8).copy(),
        key_end=np.cumsum([len(name) for name in names], dtype=np.int64),
        image_start=images[:, 0].copy(),
        image_size=images[:, 1].copy(),
        text_start=texts[:, 0].copy(),
        text_size=texts[:, 1].copy(),
        text_kind=np.array([text.kind for text in chosen], np.uint8),
        # An unreadable one counts as a caption, so that reading it reports its fault.
        captions=np.array([abs(text.captions) for text in chosen], np.int32),
        label=np.array([entry.label for entry in values], np.int32),
        problems=(*problems, *counted),
    )
