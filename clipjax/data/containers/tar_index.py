"""Where each example lies inside a webdataset tar shard, found once and cached.

`cached(shard, folder)` reads a shard's headers and caption files in one pass and keeps
what it found in the cache folder; as long as size and time of the shard stay the same,
that index is used. Images are then read by position, without unpacking anything.
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

from clipjax import atomic_files
from clipjax.data.annotations import caption_files
from clipjax.data.containers import tar_members
from clipjax.data.storage import file_contents, local
from clipjax.data.storage.shard_files import Shard
from clipjax.types import UserError

FORMAT = 4  # raise it when the meaning of an index changes: old caches are then unread
IMAGES = frozenset(suffix[1:] for suffix in local.IMAGE_SUFFIXES)
NO_LABEL, BAD_LABEL = -1, -2

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class ShardIndex:
    """The examples (keys with an image) of one shard, in the order of their first file.

    keys: uint8, the keys' UTF-8 bytes joined; key_end: int64 [n], where each ends.
    image_start, image_size, text_start, text_size: int64 [n], bytes within the shard.
    text_kind: uint8 [n], of caption_files.
    captions: int32 [n], how many captions; 1 if they cannot be read.
    label: int32 [n], from `.cls`; NO_LABEL if there is none, BAD_LABEL if broken.
    problems: what was ignored or is damaged, in words, without the shard's name.
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
        """The key of example i, made printable."""
        start = int(self.key_end[i - 1]) if i else 0
        raw = self.keys[start : int(self.key_end[i])].tobytes()
        return raw.decode("utf-8", "backslashreplace")


ARRAYS = tuple(f.name for f in dataclasses.fields(ShardIndex) if f.name != "problems")


def cached(shard: Shard, cache: pathlib.Path) -> ShardIndex:
    """Returns the index of a shard, from the cache folder if it is still valid.

    Raises UserError for a file that is no readable tar (compressed, for one).
    """
    stamp = json.dumps([FORMAT, shard.address, *shard.stamp])
    name = hashlib.sha256(os.fsencode(shard.address)).hexdigest()[:32] + ".index"
    found = load(cache / name, stamp)
    if found is None:
        found = build(shard)
        save(cache / name, stamp, found)
    return found


def save(place: pathlib.Path, stamp: str, found: ShardIndex) -> None:
    """Writes a cached index, whole or not at all; a failure is logged and no more."""
    data = b"".join(getattr(found, name).tobytes() for name in ARRAYS)
    head = {
        "stamp": stamp,
        "problems": found.problems,
        "arrays": [
            (getattr(found, n).dtype.str, len(getattr(found, n))) for n in ARRAYS
        ],
        "crc": zlib.crc32(data),
    }
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        # Its sum tells a damaged one, and 10,000 waits for the disk are long.
        with atomic_files.opened(place, "wb", sync=False) as file:
            file.write(json.dumps(head).encode() + b"\n" + data)
    except OSError as error:
        logger.warning("cannot keep a shard's index in %s: %s", place.parent, error)


def load(place: pathlib.Path, stamp: str) -> ShardIndex | None:
    """Reads a cached index; None if it is absent, outdated or damaged."""
    try:
        line, _, data = place.read_bytes().partition(b"\n")
        head = json.loads(line)
        if head["stamp"] != stamp:
            return None
        if head["crc"] != zlib.crc32(data):
            raise ValueError("its checksum is wrong")
        arrays, start = [], 0
        for kind, length in head["arrays"]:
            arrays.append(np.frombuffer(data, kind, length, start))
            start += arrays[-1].nbytes
        return ShardIndex(*arrays, problems=tuple(head["problems"]))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        logger.info("the cached index %s is damaged and is made anew", place)
        return None


@dataclasses.dataclass
class _Entry:
    """What one key has gathered; places are (start, size) in the shard."""

    image: tuple[int, int] | None = None
    texts: list[caption_files.Text] = dataclasses.field(default_factory=list)
    label: int = NO_LABEL
    kinds: set[str] = dataclasses.field(default_factory=set)
    unread: list[str] = dataclasses.field(default_factory=list)  # suffixes


def build(shard: Shard) -> ShardIndex:
    """Reads a shard's index from the shard itself, in one pass."""
    entries: dict[tuple[int, str], _Entry] = {}
    counts: collections.Counter[str] = collections.Counter()
    problems: list[str] = []
    try:
        with shard.open() as file:
            for part, member in tar_members.each(file, shard, problems):
                _note(part, member, file, entries, counts)
    except OSError as error:
        raise UserError(f"cannot read the shard {shard.address}: {error}") from error
    found = {key: entry for key, entry in entries.items() if entry.image is not None}
    problems += _dotted(entries) + _no_images(entries)
    return _pack(found, problems, counts)


def _note(
    part: int,
    member: tarfile.TarInfo,
    file: BinaryIO,
    entries: dict[tuple[int, str], _Entry],
    counts: collections.Counter[str],
) -> None:
    """Files a member under its key: its path up to the first dot of its last part.

    part: of the shard; each of several archives joined into one has keys of its own.
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
    place = (member.offset_data, member.size)
    if kind == "image":
        entry.image = place
        return
    file.seek(member.offset_data)
    data = file.read(member.size)
    if kind == "cls":
        entry.label = _label(data)
        return
    entry.texts.append(_text(kind, data, place))


def _no_images(entries: dict[tuple[int, str], _Entry]) -> list[str]:
    """Says how many keys have no image, and which files they have."""
    lone = [entry for entry in entries.values() if entry.image is None]
    suffixes = collections.Counter(
        f".{suffix}" if suffix else "without a suffix"
        for entry in lone
        for suffix in (*sorted(entry.kinds), *entry.unread)
    )
    if not lone:
        return []
    return [
        f"{len(lone)} keys without an image, left out ({file_contents.tally(suffixes)})"
    ]


def _dotted(entries: dict[tuple[int, str], _Entry]) -> list[str]:
    """Says how many images are none because of a dot within their names."""
    count, first = 0, ""
    for (_, key), entry in entries.items():
        for suffix in entry.unread:
            if suffix.rpartition(".")[2] in IMAGES:
                count += 1
                first = first or (
                    f"{key}.{suffix}' is read as the file '{suffix}' of the key "
                    f"'{key.rpartition('/')[2]}'"
                )
    if not count:
        return []
    return [
        f"{count} images with a further dot in their names, left out: keys end at the "
        f"first dot, so that '{first.encode('utf-8', 'backslashreplace').decode()}"
    ]


def _label(data: bytes) -> int:
    try:
        label = int(data)
    except ValueError:
        return BAD_LABEL
    return label if 0 <= label < 2**31 else BAD_LABEL


def _text(kind: str, data: bytes, place: tuple[int, int]) -> caption_files.Text:
    """What a caption file holds, of the suffix txt or json; it may be cut off."""
    known = caption_files.TXT if kind == "txt" else caption_files.JSON
    found = caption_files.inspect(known, data, place)
    return found if len(data) == place[1] else dataclasses.replace(found, captions=-1)


def _pack(
    entries: dict[tuple[int, str], _Entry],
    problems: list[str],
    counts: collections.Counter[str],
) -> ShardIndex:
    """The index of these examples; what is amiss is said in its problems."""
    names = [key.encode("utf-8", "surrogateescape") for _, key in entries]
    found = list(entries.values())
    chosen = caption_files.choose_each((entry.texts for entry in found), counts)
    said = [f"{n} {what}" for what, n in sorted(counts.items()) if n]
    images = np.array([entry.image for entry in found], np.int64).reshape(-1, 2)
    texts = np.array([text.span for text in chosen], np.int64).reshape(-1, 2)
    return ShardIndex(
        keys=np.frombuffer(b"".join(names), np.uint8).copy(),
        key_end=np.cumsum([len(name) for name in names], dtype=np.int64),
        image_start=images[:, 0].copy(),
        image_size=images[:, 1].copy(),
        text_start=texts[:, 0].copy(),
        text_size=texts[:, 1].copy(),
        text_kind=np.array([text.kind for text in chosen], np.uint8),
        # One that cannot be read is an example too, so that its fault is met.
        captions=np.array([abs(text.captions) for text in chosen], np.int32),
        label=np.array([entry.label for entry in found], np.int32),
        problems=(*problems, *said),
    )
