"""Reads ArrayRecord files that `python -m clipjax.prepare convert` wrote.

Random access takes one small read per example, for any number of shards. Captions,
labels, class names, keys and other modalities are the original source's.
clipjax/data/containers/record_shards.py describes the format.

    --config configs/x.py:data=arrayrecord --config.data.train.path=FOLDER
"""

from __future__ import annotations

import itertools
import json
import pathlib
from collections.abc import Sequence

import numpy as np

from clipjax import registry
from clipjax.data.containers import record_shards
from clipjax.data.storage import file_contents, local, selection
from clipjax.types import BadExample, Example, UserError


def make(
    split: str, *, path: str = "", max_samples: int = 0, subset_seed: int = -1
) -> ArrayRecord:
    """Reads a split's metadata, PATH/SPLIT.json; examples are read on access.

    Options:
      path: folder of the shards and their metadata.
      max_samples: use so many images (0: all).
      subset_seed: which images: -1 the first, else a choice by this seed.

    Raises UserError for a missing folder or split, for damaged metadata or metadata of
    another program, and for shards that are missing or truncated.
    """
    base = local.folder(path, "clipjax ArrayRecord files")
    metadata = base / f"{split}.json"
    if not split or not metadata.is_file():
        raise UserError(_no_split(base, split))
    split_data = record_shards.read_split(metadata)
    if not split_data.shards:
        raise UserError(f"{metadata} lists no examples: convert the data again")
    record_shards.check_files(base, split_data.shards)
    total = sum(shard.examples for shard in split_data.shards)
    chosen = selection.examples(total, max_samples=max_samples, subset_seed=subset_seed)
    return ArrayRecord(base, split_data, chosen)


class ArrayRecord:
    """A split of converted data as a `clipjax.types.Source`."""

    def __init__(
        self, base: pathlib.Path, split: record_shards.Split, chosen: np.ndarray
    ):
        self._ends = list(itertools.accumulate(s.examples for s in split.shards))
        self._names = [shard.file for shard in split.shards]
        self._readers = record_shards.Readers(base, split.shards)
        counts = [shard.counts() for shard in split.shards]
        self._chosen = chosen
        self.caption_counts = np.concatenate(counts)[chosen]
        self.max_captions = int(self.caption_counts.max())
        self.class_names = split.class_names
        self.templates = split.templates
        self.problems: list[str] = []

    def __len__(self) -> int:
        return len(self.caption_counts)

    def __getitem__(self, index: int) -> Example:
        """Reads one example; raises BadExample, naming shard and row, if broken."""
        index = local.position(index, len(self))
        shard, row = local.part_and_offset(self._ends, int(self._chosen[index]))
        key = f"{self._names[shard]}:{row}"
        try:
            example = record_shards.decode(self._readers.read(shard, row))
        except BadExample as error:
            raise BadExample(error.reason, key) from error
        if len(example.captions) != self.caption_counts[index]:
            raise BadExample("its captions do not fit the metadata", key)
        for name, label in example.labels.items():
            if not 0 <= label < len(self.class_names.get(name, ())):
                raise BadExample(f"its label {name}={label} has no class name", key)
        return example

    def captions_of(self, index: int) -> Sequence[str]:
        """Returns an example's captions; reads its whole record, image included."""
        return self[index].captions

    def key_of(self, index: int) -> str:
        """Returns an example's key; reads its whole record, image included."""
        return self[index].key


def _no_split(base: pathlib.Path, split: str) -> str:
    """Returns the message for a missing split: the known ones, or the content."""
    known = sorted(p.stem for p in base.glob("*.json") if _is_ours(p))
    if known:
        hint = registry.suggest(split, known)
        return f"{base} has no split {split!r}.{hint} Its splits: {', '.join(known)}"
    if (base / f".{split}.partial").is_dir():
        return (
            f"{base} holds an unfinished conversion of the split {split!r}: start the "
            f"same `python -m clipjax.prepare convert` again to finish it"
        )
    return (
        f"{base} holds no {split}.json ({file_contents.summary(base)}): `python -m "
        f"clipjax.prepare convert` did not write this folder; for data in another form "
        f"choose data=webdataset, captions, imagefolder or tfds"
    )


def _is_ours(path: pathlib.Path) -> bool:
    try:
        return json.loads(path.read_bytes()).get("format") == record_shards.FORMAT
    except (OSError, ValueError, AttributeError, RecursionError):
        return False
