"""Converts any source into our shards: resumable, atomic, broken examples counted.

Shard k of a split has the source's examples [k n, (k + 1) n), except broken and
repeated ones. A running conversion writes finished shards, each with a note about its
content, into OUT/.SPLIT.partial. A killed conversion that is started again keeps them.
At the end the shards move to OUT, and OUT/SPLIT.json is written last.
"""

from __future__ import annotations

import dataclasses
import fcntl
import functools
import hashlib
import json
import pathlib
import re
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from clipjax import atomic_files
from clipjax.data.containers import record_shards
from clipjax.data.prepare import reading, writing
from clipjax.data.prepare.reading import Broken
from clipjax.types import Example, Source, UserError

# Each form's format name in the metadata, and its file suffix.
FORMS = {
    "arrayrecord": (record_shards.FORMAT, record_shards.SUFFIX),
    "tar": ("clipjax-tar", ".tar"),
}
CLASSES = "classes.txt"
Progress = Callable[[int, int], None]


@dataclasses.dataclass(frozen=True)
class Options:
    """The options of a conversion.

    to: "arrayrecord" or "tar". resize, quality, decode: see `writing.Fit`. dedup:
    leave out images whose bytes repeat an earlier one's. shard_size: source examples
    per shard. threads: number of threads that read and decode.
    """

    to: str = "arrayrecord"
    resize: int = 0
    quality: int = 95
    decode: bool = True
    dedup: bool = False
    shard_size: int = 1000
    threads: int = 2

    def __post_init__(self):
        if self.to not in FORMS:
            raise UserError(f"--to={self.to}: use {' or '.join(FORMS)}")
        if self.shard_size < 1:
            raise UserError(f"--shard_size={self.shard_size}: use 1 or more")
        self.fit()

    def fit(self) -> writing.Fit:
        """How images are written; raises UserError for bad values."""
        everywhere = self.to != "arrayrecord"
        return writing.Fit(self.resize, self.quality, self.decode, everywhere)

    def plan(self) -> dict[str, Any]:
        """The options that must stay the same for a conversion to resume."""
        plan = dataclasses.asdict(self)
        return {name: plan[name] for name in plan if name != "threads"}


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The result of a conversion.

    repeated: (key of an example left out for its image, key of the example it repeats).
    kept_shards: number of shards from an earlier, interrupted conversion. read: image
    bytes read from the source. done_before: whether there was nothing to do.
    """

    split: record_shards.Split
    broken: list[Broken]
    repeated: list[tuple[str, str]]
    kept_shards: int = 0
    read: int = 0
    done_before: bool = False


def convert(
    source: Source,
    split: str,
    out: pathlib.Path,
    options: Options,
    described: dict[str, Any],
    progress: Progress | None = None,
) -> Outcome:
    """Writes a source's usable examples as the split `split` into the folder `out`.

    Args:
      described: a description of the source as JSON values, kept in the metadata.
      progress: called with (examples done, examples in all).

    Raises UserError if the folder has something else, and if no example is usable.
    """
    if not re.fullmatch(r"\w[\w.-]*", split):
        raise UserError(
            f"split {split!r} cannot be a file's name: give --out_split=NAME"
        )
    plan = {"source": described, **options.plan(), "examples": len(source)}
    counts = hashlib.sha256(np.asarray(source.caption_counts).tobytes()).hexdigest()
    plan = json.loads(json.dumps({**plan, "captions": counts}))
    final, part = out / f"{split}.json", out / f".{split}.partial"
    if final.exists():
        outcome = _finished(final, plan)
        shutil.rmtree(part, ignore_errors=True)  # from a call killed at its very end
        return outcome
    if not part.is_dir():
        shards = [p.name for p in out.glob(f"{split}-[0-9]*{FORMS[options.to][1]}")]
        if shards:
            raise UserError(
                f"{out} already holds {sorted(shards)[0]}, of another origin: choose "
                f"another --out"
            )
    part.mkdir(parents=True, exist_ok=True)
    with open(part / "lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"another process is converting into {out}: wait for it"
            ) from error
        _same_plan(part, plan)
        _class_file(source, out, options)
        job = _Conversion(source, split, out, part, options, progress)
        outcome = job.run(plan)
    shutil.rmtree(part)
    return outcome


def _finished(final: pathlib.Path, plan: dict) -> Outcome:
    """The outcome of an earlier call; raises UserError unless it had the same plan."""
    fix = "choose another --out, or delete that split's files"
    try:
        metadata = json.loads(final.read_bytes())
        record = metadata["made"]
        shards = [record_shards.Shard(**entry) for entry in metadata["shards"]]
        same = record["plan"] == plan
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{final} already exists, of another origin: {fix}") from error
    if not same:
        raise UserError(f"{final} already exists, of other data or options: {fix}")
    try:
        record_shards.check_files(final.parent, shards)
    except UserError as error:
        raise UserError(f"{error}; to do so, delete {final} and its shards") from error
    split = record_shards.Split(
        shards, metadata["class_names"], metadata["templates"], record
    )
    return Outcome(
        split,
        [Broken(*pair) for pair in record["broken"]],
        [(key, first) for key, first in record["repeated"]],
        kept_shards=len(shards),
        done_before=True,
    )


def _same_plan(part: pathlib.Path, plan: dict) -> None:
    """Saves the plan; raises UserError if an interrupted conversion has another."""
    place = part / "plan.json"
    if not place.exists():
        atomic_files.write_json(place, plan)
        return
    try:
        before = dict(atomic_files.parse_json(place.read_bytes()))
    except (ValueError, TypeError) as error:
        raise UserError(f"{place} is damaged ({error}): delete {part}") from error
    changed = [name for name in plan if before.get(name) != plan[name]]
    if changed:
        name = changed[0]
        raise UserError(
            f"{part} is an unfinished conversion with another {name} "
            f"({before.get(name)!r}, not {plan[name]!r}): give the same options to "
            f"finish it, or delete it"
        )


def _class_file(source: Source, out: pathlib.Path, options: Options) -> None:
    """Writes the class names for data=webdataset next to tar shards."""
    if options.to != "tar" or len(source.class_names) != 1:
        return
    (names,) = source.class_names.values()
    if bad := [name for name in names if "\n" in name or not name.strip()]:
        raise UserError(
            f"the class name {bad[0]!r} does not fit on a line: use --to=arrayrecord"
        )
    text = "".join(f"{name}\n" for name in names)
    place = out / CLASSES
    if place.exists() and place.read_text(encoding="utf-8") != text:
        raise UserError(
            f"{place} has other classes than this split: choose another --out"
        )
    place.write_text(text, encoding="utf-8")


class _Conversion:
    """One split's running conversion; `part` is its folder until it is finished."""

    def __init__(
        self,
        source: Source,
        split: str,
        out: pathlib.Path,
        part: pathlib.Path,
        options: Options,
        progress: Progress | None,
    ):
        self.source = source
        self.split = split
        self.out = out
        self.part = part
        self.options = options
        self.progress = progress
        self.seen: dict[str, str] = {}  # digest of an image -> key of the first
        self.note: dict[str, Any] = {}  # about the shard being written
        self.fit = options.fit()
        self.writer: Callable[[pathlib.Path], writing.Writer] = writing.RecordWriter
        if options.to == "tar":
            sets = list(source.class_names) if len(source.class_names) == 1 else [""]
            self.writer = functools.partial(writing.TarWriter, label_set=sets[0])

    def run(self, plan: dict[str, Any]) -> Outcome:
        size = self.options.shard_size
        starts = range(0, len(self.source), size)
        notes, kept = [], 0
        for number, start in enumerate(starts):
            stop = min(start + size, len(self.source))
            note = self._note_of(number)
            if note is None:
                note = self._write(number, range(start, stop))
            else:
                kept += 1
            self.seen.update(note["hashes"])
            notes.append(note)
            self._tell(stop)
        broken = [Broken(*pair) for note in notes for pair in note["broken"]]
        repeated = [(k, first) for note in notes for k, first in note["repeated"]]
        shards = [record_shards.Shard(**n["shard"]) for n in notes if n["shard"]]
        if not shards:
            raise UserError(
                f"none of the {len(self.source)} examples can be used; the first: "
                f"{broken[0].key}: {broken[0].reason}"
            )
        split = record_shards.Split(
            shards,
            {name: list(names) for name, names in self.source.class_names.items()},
            {name: list(texts) for name, texts in self.source.templates.items()},
            {
                "plan": plan,
                "broken": [[bad.key, bad.reason] for bad in broken],
                "repeated": repeated,
            },
        )
        for shard in shards:
            if (self.part / shard.file).exists():
                (self.part / shard.file).replace(self.out / shard.file)
        atomic_files.sync(self.out)
        form = FORMS[self.options.to][0]
        atomic_files.write_json(self.out / f"{self.split}.json", split.to_json(form))
        read = sum(note["read"] for note in notes)
        return Outcome(split, broken, repeated, kept, read)

    def _name(self, number: int) -> str:
        return f"{self.split}-{number:05d}{FORMS[self.options.to][1]}"

    def _note_of(self, number: int) -> dict[str, Any] | None:
        """The note about a finished shard, moved or not; None if it is not finished."""
        try:
            note = atomic_files.parse_json(
                (self.part / f"{number:05d}.json").read_bytes()
            )
        except (OSError, ValueError):
            return None
        if note["shard"] is None:
            return note
        for folder in (self.part, self.out):
            place = folder / note["shard"]["file"]
            if place.exists() and place.stat().st_size == note["shard"]["bytes"]:
                return note
        return None

    def _write(self, number: int, indices: range) -> dict[str, Any]:
        self.note = {"broken": [], "repeated": [], "hashes": {}, "read": 0}
        path = self.part / self._name(number)
        shard = writing.write_shard(path, self.writer, self._examples(indices))
        self.note["shard"] = None if shard is None else dataclasses.asdict(shard)
        atomic_files.write_json(self.part / f"{number:05d}.json", self.note)
        return self.note

    def _examples(self, indices: range) -> Iterator[tuple[int, Example]]:
        """Yields the usable examples; adds the others to the note."""
        for index, result in reading.each(
            self.source, indices, self._fitted, self.options.threads
        ):
            self._tell(index + 1)
            if isinstance(result, Broken):
                self.note["broken"].append([result.key, result.reason])
                continue
            example, digest, size = result
            self.note["read"] += size
            key = example.key or f"example {index}"
            if self.options.dedup:
                first = self.note["hashes"].get(digest, self.seen.get(digest))
                if first is not None:
                    self.note["repeated"].append([key, first])
                    continue
                self.note["hashes"][digest] = key
            yield index, example

    def _fitted(self, index: int, example: Example) -> tuple[Example, str, int]:
        """(example with its image encoded, image's digest, image's bytes)."""
        image = example.image
        data = image if isinstance(image, bytes) else image.tobytes()
        digest = ""
        if self.options.dedup:
            shape = b"" if isinstance(image, bytes) else str(image.shape).encode()
            digest = hashlib.sha256(shape + data).hexdigest()[:32]
        if self.options.to == "tar" and example.others:
            raise UserError(
                f"tar shards have no place for {', '.join(example.others)}: use "
                f"--to=arrayrecord"
            )
        return self.fit(example), digest, len(data)

    def _tell(self, done: int) -> None:
        if self.progress is not None:
            self.progress(done, len(self.source))
