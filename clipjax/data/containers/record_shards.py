"""clipjax's ArrayRecord files: examples as bytes, a split's metadata, shard readers.

A split is `SPLIT.json` and, in the same folder, its shards: ArrayRecord files with one
record per example. A record is the magic, the length of a JSON header, the header, the
encoded image, and the raw arrays of other modalities in the header's order:

    {"key": ..., "captions": [...], "labels": {...}, "image": bytes,
     "others": [[name, dtype, shape], ...]}

Reading executes nothing in it. `clipjax.prepare` writes such data.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
import json
import math
import pathlib
import struct
import threading
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from array_record.python import array_record_module  # pyright: ignore

from clipjax import atomic_files
from clipjax.types import BadExample, Example, UserError

FORMAT = "clipjax-arrayrecord"
VERSION = 1  # raise it when records or metadata change their meaning
SUFFIX = ".arrayrecord"
MAGIC = b"cjx1"
HEAD = struct.Struct("<4sI")
KINDS = "biuf"  # dtype kinds that arrays of others may have: no objects, no text

# One record per block, so that reading one does not read its neighbours. Uncompressed,
# because images do not compress.
WRITING = "group_size:1,uncompressed"
READING = "readahead_buffer_size:0,max_parallelism:0"


def encode(example: Example) -> bytes:
    """Returns an example's record; raises TypeError unless its image is bytes."""
    if not isinstance(example.image, bytes):
        raise TypeError("a record holds an encoded image, not an array")
    arrays = {
        name: np.ascontiguousarray(array, np.asarray(array).dtype.newbyteorder("<"))
        for name, array in example.others.items()
    }
    header = {
        "key": example.key,
        "captions": list(example.captions),
        "labels": {name: int(label) for name, label in example.labels.items()},
        "image": len(example.image),
    }
    if arrays:
        header["others"] = [[n, a.dtype.str, list(a.shape)] for n, a in arrays.items()]
    text = json.dumps(header, ensure_ascii=False).encode("utf-8", "backslashreplace")
    parts = (a.tobytes() for a in arrays.values())
    return b"".join([HEAD.pack(MAGIC, len(text)), text, example.image, *parts])


def decode(record: bytes) -> Example:
    """Returns a record's example; raises BadExample for other or damaged bytes."""
    if len(record) < HEAD.size or not record.startswith(MAGIC):
        raise BadExample("clipjax.prepare did not write this record")
    start = HEAD.size + HEAD.unpack_from(record)[1]
    try:
        header = json.loads(record[HEAD.size : start].decode("utf-8"))
        key, captions, labels = header["key"], header["captions"], header["labels"]
        arrays = [
            (str(name), _dtype(dtype), tuple(map(int, shape)))
            for name, dtype, shape in header.get("others", ())
        ]
        sizes = [int(header["image"])]
        sizes += [dtype.itemsize * math.prod(shape) for _, dtype, shape in arrays]
        valid = isinstance(key, str) and all(isinstance(c, str) for c in captions)
        valid = valid and all(side >= 0 for _, _, shape in arrays for side in shape)
        labels = {str(name): int(label) for name, label in labels.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BadExample("the record's header is damaged") from error
    if not valid or min(sizes) < 0 or start + sum(sizes) != len(record):
        raise BadExample("the record's header does not fit its contents")
    ends = list(itertools.accumulate(sizes, initial=start))
    others = {
        name: np.frombuffer(record, dtype, math.prod(shape), ends[1 + i]).reshape(shape)
        for i, (name, dtype, shape) in enumerate(arrays)
    }
    return Example(record[start : ends[1]], tuple(captions), labels, key, others)


def _dtype(text: Any) -> np.dtype:
    dtype = np.dtype(str(text))
    if dtype.kind not in KINDS:
        raise ValueError(f"dtype {text!r}")
    return dtype


@dataclasses.dataclass(frozen=True)
class Shard:
    """One file of a split.

    captions: (caption count, how many successive examples have it) for all examples.
    """

    file: str
    examples: int
    captions: Sequence[tuple[int, int]]
    bytes: int
    sha256: str

    def counts(self) -> np.ndarray:
        """Returns each example's caption count, int32 [examples]."""
        pairs = np.array(self.captions, np.int32).reshape(-1, 2)
        return np.repeat(pairs[:, 0], pairs[:, 1])


def runs(counts: Iterable[int]) -> list[tuple[int, int]]:
    """Run-length encodes counts for `Shard.captions`: [3, 3, 1] -> [(3, 2), (1, 1)]."""
    return [(value, len(list(group))) for value, group in itertools.groupby(counts)]


@dataclasses.dataclass(frozen=True)
class Split:
    """A split's metadata; `made` records how it was written, for users."""

    shards: Sequence[Shard]
    class_names: dict[str, list[str]]
    templates: dict[str, list[str]]
    made: dict[str, Any]

    def to_json(self, form: str) -> dict[str, Any]:
        return {
            "format": form,
            "version": VERSION,
            "examples": sum(shard.examples for shard in self.shards),
            "captions": sum(int(shard.counts().sum()) for shard in self.shards),
            "class_names": self.class_names,
            "templates": self.templates,
            "made": self.made,
            "shards": [dataclasses.asdict(shard) for shard in self.shards],
        }


def read_split(path: pathlib.Path) -> Split:
    """Reads SPLIT.json; raises UserError for a file of another form or version."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{path} is damaged ({error}): restore it, or convert the data again"
        ) from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(
            f"{path} was not written for data=arrayrecord: see docs/data.md"
        )
    if content.get("version") != VERSION:
        raise UserError(
            f"{path} has version {content.get('version')!r} of the format, and this "
            f"clipjax reads version {VERSION}: convert the data again"
        )
    try:
        shards = [_shard(entry) for entry in content["shards"]]
        names = {str(k): [str(n) for n in v] for k, v in content["class_names"].items()}
        prompts = {str(k): [str(t) for t in v] for k, v in content["templates"].items()}
        made = dict(content["made"])
        if sum(shard.examples for shard in shards) != content["examples"]:
            raise ValueError("the examples of its shards do not add up")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{path} is damaged ({type(error).__name__}: {error}): restore it, or "
            f"convert the data again"
        ) from error
    return Split(shards, names, prompts, made)


def _shard(entry: Any) -> Shard:
    pairs = [(int(count), int(times)) for count, times in entry["captions"]]
    shard = Shard(**{**entry, "captions": pairs})
    if sum(times for _, times in pairs) != shard.examples or shard.examples < 1:
        raise ValueError(f"the captions of {shard.file} do not fit its examples")
    if pathlib.PurePath(shard.file).name != shard.file:
        raise ValueError(f"{shard.file!r} is not a file name")
    return shard


def check_files(base: pathlib.Path, shards: Sequence[Shard]) -> None:
    """Raises UserError for the first shard that is missing or has another size."""
    for shard in shards:
        path = base / shard.file
        try:
            size = path.stat().st_size
        except FileNotFoundError as error:
            raise UserError(
                f"the shard {path} is missing: restore it, or convert the data again"
            ) from error
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror}") from error
        if size != shard.bytes:
            raise UserError(
                f"the shard {path} has {size} bytes, not {shard.bytes}: it is "
                f"truncated or another file; restore it, or convert the data again"
            )


def altered_shards(base: pathlib.Path, shards: Sequence[Shard]) -> list[str]:
    """Returns the shards whose SHA-256 differs from the one in the metadata."""
    return [s.file for s in shards if atomic_files.digest(base / s.file) != s.sha256]


class Readers:
    """Reads records of many shards through a bounded number of open readers.

    Thread-safe; pickling leaves out the open readers.
    """

    def __init__(self, base: pathlib.Path, shards: Sequence[Shard], limit: int = 64):
        self._paths = [str(base / shard.file) for shard in shards]
        self._sizes = [shard.examples for shard in shards]
        self._limit = limit
        self._lock = threading.Lock()
        self._open: collections.OrderedDict[int, Any] = collections.OrderedDict()

    def read(self, shard: int, index: int) -> bytes:
        """Returns a record; raises BadExample if the shard is missing or damaged."""
        try:
            return self._reader(shard).read([index])[0]
        except (RuntimeError, OSError, IndexError) as error:
            reason = str(error).partition(";")[0]
            raise BadExample(f"cannot read the shard: {reason}") from error

    def __getstate__(self) -> dict[str, Any]:
        closed = {"_lock": None, "_open": None}
        return {**self.__dict__, **closed}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()
        self._open = collections.OrderedDict()

    def _reader(self, shard: int) -> Any:
        with self._lock:
            reader = self._open.get(shard)
            if reader is None:
                reader = _open(self._paths[shard], self._sizes[shard])
                self._open[shard] = reader
                if len(self._open) > self._limit:
                    self._open.popitem(last=False)  # closes with its last user
            self._open.move_to_end(shard)
            return reader


def _open(path: str, size: int) -> Any:
    with open(path, "rb"):  # raises the system's message if it cannot be read
        pass
    reader = array_record_module.ArrayRecordReader(
        path, READING, file_reader_buffer_size=1 << 15
    )
    count = reader.num_records()
    if not reader.ok() or count != size:
        reader.read([0])  # raises the reason if it is not an ArrayRecord file
        raise OSError(f"it holds {count} records, not {size}")
    return reader


def writer(path: pathlib.Path) -> Any:
    """Returns an ArrayRecord writer: `write(bytes)`, `close()`."""
    return array_record_module.ArrayRecordWriter(str(path), WRITING)
