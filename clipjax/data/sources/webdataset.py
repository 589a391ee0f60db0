"""Image-text pairs in webdataset tar shards, read in any order without unpacking.

A shard holds `KEY.jpg` (or jpeg, png, webp) with `KEY.json`, `KEY.txt` and `KEY.cls`
as there are; KEY is the path up to the first dot of the file name. Captions come from
the JSON list `captions`, else the text file, else the JSON string `caption`. That is
what img2dataset and the webdataset library write.

    --config configs/x.py:data=webdataset --config.data.train.path=FOLDER
"""

from __future__ import annotations

import bisect
import itertools
import pathlib
import re

import numpy as np

from clipjax.data import files, tar_index
from clipjax.types import BadExample, Example, UserError

RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")


def make(
    split: str,
    *,
    path: str = "",
    shards: str = "*{split}*.tar",
    classes: str = "",
    max_samples: int = 0,
) -> WebDataset:
    """Opens the shards of a split; the first time, each is read once to be indexed.

    Options:
      path: folder of the shards.
      shards: which files are of this split: a pattern below `path` in which {split}
        stands for the split's name, or numbered shards: "cc3m-{00000..00331}.tar".
      classes: text file of class names, one a line, in the order of the numbers in
        `.cls` files; relative to `path`. Without it labels are left aside.
      max_samples: use the first so many images (0: all).

    Raises UserError for a missing folder, shard or class file, and for no images.
    """
    base = files.folder(path, "webdataset shards (.tar)")
    found = _find(base, shards, split)
    return WebDataset(base, found, classes, files.limit("max_samples", max_samples))


class WebDataset:
    """See `clipjax.types.Source`; `problems` says what in the shards was ignored."""

    def __init__(
        self,
        base: pathlib.Path,
        paths: list[pathlib.Path],
        classes: str,
        limit: int | None,
    ):
        cache = files.cache_folder("index")
        self._paths = [str(path) for path in paths]
        self._names = [str(path.relative_to(base)) for path in paths]
        self._indexes = [tar_index.cached(path, cache) for path in paths]
        self._ends = list(itertools.accumulate(len(found) for found in self._indexes))
        self._pool = files.FilePool()
        self.problems = [
            f"{name}: {problem}"
            for name, found in zip(self._names, self._indexes, strict=True)
            for problem in found.problems
        ]
        files.report(f"webdataset {base}", self.problems)
        if not self._ends[-1]:
            hint = self.problems[0] if self.problems else f"first: {self._names[0]}"
            raise UserError(
                f"no images (.jpg, .jpeg, .png, .webp) in the {len(paths)} shard(s) "
                f"of {base} ({hint})"
            )
        self.caption_counts = np.concatenate([f.captions for f in self._indexes])[
            :limit
        ]
        self.max_captions = int(self.caption_counts.max())
        self.class_names: dict[str, list[str]] = {}
        self.templates: dict[str, tuple[str, ...]] = {}
        if classes:
            self.class_names["class"] = self._class_names(base, classes)

    def __len__(self) -> int:
        return len(self.caption_counts)

    def __getitem__(self, index: int) -> Example:
        """Reads one example; raises BadExample, naming shard and key, if broken."""
        index = files.position(index, len(self))
        shard, i = self._place(index)
        found, key = self._indexes[shard], self.key_of(index)
        try:
            return Example(
                image=self._read(shard, found.image_start[i], found.image_size[i]),
                captions=self._captions(shard, i),
                labels=self._labels(int(found.label[i])),
                key=key,
            )
        except BadExample as error:
            raise BadExample(error.reason, key) from error

    def key_of(self, index: int) -> str:
        """The key of an example, without reading it."""
        shard, i = self._place(index)
        return f"{self._names[shard]}:{self._indexes[shard].key(i)}"

    def _place(self, index: int) -> tuple[int, int]:
        """The shard of an example, and its number there."""
        shard = bisect.bisect_right(self._ends, index)
        return shard, index - (self._ends[shard] - len(self._indexes[shard]))

    def _class_names(self, base: pathlib.Path, classes: str) -> list[str]:
        if all((f.label == tar_index.NO_LABEL).all() for f in self._indexes):
            raise UserError(
                f"classes={classes}: the shards of {base} hold no .cls files; drop it"
            )
        return files.read_lines(files.inside(base, classes, "classes"))

    def _captions(self, shard: int, i: int) -> list[str]:
        found = self._indexes[shard]
        kind = int(found.text_kind[i])
        if kind == tar_index.NO_TEXT:
            return []
        data = self._read(shard, found.text_start[i], found.text_size[i])
        return tar_index.parse_captions(kind, data)

    def _labels(self, label: int) -> dict[str, int]:
        names = self.class_names.get("class")
        if names is None or label == tar_index.NO_LABEL:
            return {}
        if label == tar_index.BAD_LABEL:
            raise BadExample("its .cls file does not hold a class number")
        if label >= len(names):
            raise BadExample(f"class {label}, but there are {len(names)} class names")
        return {"class": label}

    def _read(self, shard: int, start: np.int64, size: np.int64) -> bytes:
        try:
            data = self._pool.read(self._paths[shard], int(start), int(size))
        except OSError as error:
            raise BadExample(f"cannot read the shard: {error.strerror}") from error
        if len(data) < size:
            raise BadExample("the shard is cut off inside this example")
        return data


def _find(base: pathlib.Path, pattern: str, split: str) -> list[pathlib.Path]:
    """The shards that a pattern names, sorted; raises UserError for none."""
    wanted = pattern.replace("{split}", split)
    if pathlib.PurePath(wanted).is_absolute() or not wanted:
        raise UserError(f"shards={pattern}: give a pattern relative to path={base}")
    found: list[pathlib.Path] = []
    for name in _expand(wanted):
        try:
            here = sorted(p for p in base.glob(name) if p.is_file())
        except ValueError as error:
            raise UserError(f"shards={pattern}: {error}") from error
        if not here and name != wanted:
            raise files.missing(base / name, f"shards={pattern} names it")
        found += here
    if not found:
        others = sorted(p.relative_to(base).as_posix() for p in base.rglob("*.tar"))
        seen = f"it holds {', '.join(others[:3])}" if others else "it holds no .tar"
        seen += " ..." if len(others) > 3 else ""
        raise UserError(
            f"no shard of {base} matches {wanted}: {seen}; set the option shards"
        )
    return list(dict.fromkeys(found))


def _expand(pattern: str) -> list[str]:
    """`a{08..10}` -> a08, a09, a10; several ranges multiply."""
    match = RANGE.search(pattern)
    if match is None:
        return [pattern]
    first, last = match.groups()
    if int(last) < int(first):
        raise UserError(f"shards={pattern}: the range {match[0]} runs backwards")
    numbers = (str(n).zfill(len(first)) for n in range(int(first), int(last) + 1))
    head, tail = pattern[: match.start()], pattern[match.end() :]
    return [head + n + rest for n in numbers for rest in _expand(tail)]
