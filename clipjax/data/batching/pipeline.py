"""Training batches whose order and random draws are a function of the step alone.

An epoch's unit is an image with one of its captions at random, or an image-caption
pair. The plan of unit n in the endless stream is a function of (seed, n) and needs no
reading: an example, a caption, and a 63-bit draw that seeds the augmentation. Epoch e
has the units [e N, (e + 1) N) in its own order. Step s has the units [s B, (s + 1) B),
so a batch may span two epochs, and a resumed run starts at s. Each process makes its
block of every global batch. The number of workers and threads changes only the speed.

A broken example's draw determines its replacement, so that no other example changes.
"""

from __future__ import annotations

import json
import operator
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

import grain
import numpy as np
from absl import flags

from clipjax.data.batching import buckets
from clipjax.data.batching import workers as worker_processes
from clipjax.data.batching.batches import NOTES, TrainBatches, copy_block
from clipjax.data.batching.order import Planned, Units, generator, plans_of
from clipjax.data.batching.prefetch import Ahead, name_of
from clipjax.data.class_lists import find_label_set
from clipjax.data.text.text_augment import TextAugment
from clipjax.types import BadExample, Example, Source, Tokenizer, UserError

ON_BROKEN = ("replace", "raise")
REPLACEMENTS = 20  # consecutive broken replacements before the data count as damaged
CAPTIONS_READ = 200_000  # examples that are enough to train a tokenizer
TEXT_DRAWS = 2**31  # seeds text draws; far above the attempts that seed replacements

Augment = Callable[[Any, np.random.Generator], np.ndarray]


def epoch_size(source: Source, unit: str) -> int:
    """How many units an epoch visits, each once."""
    return len(Units(source, unit))


def steps_per_epoch(source: Source, unit: str, global_batch: int) -> int:
    """The number of steps per epoch, rounded; no example is dropped between epochs.

    Raises UserError if a batch is larger than an epoch.
    """
    size = epoch_size(source, unit)
    if not 1 <= global_batch <= size:
        raise UserError(
            f"data.batch_size={global_batch}: an epoch has {size} {unit}s; use 1 to "
            f"{size}"
        )
    return (size + global_batch // 2) // global_batch


def plan(
    source: Source, *, seed: int, global_batch: int, step: int, unit: str = "image"
) -> list[Planned]:
    """The planned examples of step `step` (from 0); reads none of them."""
    plans: Any = plans_of(Units(source, unit), seed)
    return [plans[step * global_batch + row] for row in range(global_batch)]


def train_batches(
    source: Source,
    tokenizer: Tokenizer | None,
    augment: Augment,
    *,
    seed: int,
    global_batch: int,
    start_step: int,
    total_steps: int | None = None,
    unit: str = "image",
    label_set: str = "",
    text_buckets: buckets.Buckets | None = None,
    workers: int = 0,
    threads: int = 1,
    timeout: float = 0.0,
    process_index: int = 0,
    process_count: int = 1,
    on_broken: str = "replace",
    text_augment: TextAugment | None = None,
    shared_names: str = "",
) -> TrainBatches:
    """This process's blocks of the global batches start_step, start_step + 1, ...

    Args:
      tokenizer: None leaves the text out.
      augment: (encoded bytes or uint8 [h w 3], generator) -> uint8 [s s 3].
      total_steps: the step before which the batches end; None: they never end.
      unit: "image": an epoch visits every image once, with one caption drawn at random;
        "pair": every caption once, with its image. In a source with captions, examples
        without one are left out.
      label_set: the label set's name; "": the only set, if there is only one.
      text_buckets: lengths that batches' texts are padded to; None: one length.
      workers: processes that prefetch batches; each needs seconds to start.
      threads: threads that prefetch batches if workers is 0; 0: no prefetching.
      timeout: seconds to wait for a batch, 0 for no limit; ignored if both workers and
        threads are 0.
      on_broken: "replace" or "raise".
      text_augment: changes captions, with separate random draws.
      shared_names: prefix of the workers' shared memory names; "": grain's names.

    Raises:
      UserError: at once, for options that cannot work; later, for a broken example
        under on_broken="raise", for too many broken examples, for a worker that died,
        and for a batch that exceeds the timeout.
    """
    for name, value, least in (
        ("seed", seed, 0),
        ("global_batch", global_batch, 1),
        ("start_step", start_step, 0),
        ("workers", workers, 0),
        ("threads", threads, 0),
        ("timeout", timeout, 0),
    ):
        if value < least:
            raise UserError(f"data: {name}={value} is below {least}")
    if on_broken not in ON_BROKEN:
        raise UserError(f"data.on_broken={on_broken!r}: use {' or '.join(ON_BROKEN)}")
    if global_batch % process_count:
        raise UserError(
            f"data.batch_size={global_batch} is not divisible by the {process_count} "
            f"processes"
        )
    if tokenizer is not None and source.max_captions == 0:
        raise UserError("the training data have no captions; choose data with captions")
    units = Units(source, unit)
    size = global_batch // process_count
    maker = _BlockMaker(
        source,
        tokenizer,
        augment,
        units,
        plans_of(units, seed),
        label_set=find_label_set(source, label_set),
        text_buckets=text_buckets,
        global_batch=global_batch,
        rows=range(process_index * size, (process_index + 1) * size),
        on_broken=on_broken,
        text_augment=text_augment,
    )
    last = sys.maxsize if total_steps is None else max(total_steps, start_step)
    steps = range(start_step, last)
    if not workers:
        ahead = Ahead(maker, steps, threads=threads, depth=2 * threads)
        return TrainBatches(ahead, start_step, timeout, units.left_out, maker.reading)
    if not flags.FLAGS.is_parsed():  # grain's processes read absl flags
        flags.FLAGS.mark_as_parsed()
    dataset: Any = grain.MapDataset.range(start_step, last).map(maker)
    dataset = dataset.to_iter_dataset(
        grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)
    )
    if shared_names:
        dataset = dataset.map(worker_processes.Shared(shared_names))
    blocks = iter(
        dataset.mp_prefetch(
            grain.MultiprocessingOptions(num_workers=workers),
            worker_init_fn=worker_processes.begin,
        )
    )

    def take(step: int) -> dict[str, Any]:
        worker_processes.hold_signals()  # the first batch starts the workers
        return copy_block(next(blocks))

    # Only this one thread uses grain's iterator, because it waits without a timeout.
    ahead = Ahead(take, steps, threads=1, depth=1, finish=blocks.close)
    return TrainBatches(ahead, start_step, timeout, units.left_out, workers=workers)


def captions(source: Source, limit: int = CAPTIONS_READ) -> Iterator[str]:
    """Yields the captions of up to `limit` evenly spread, unbroken examples."""
    read = getattr(source, "captions_of", lambda index: source[index].captions)
    captioned = np.flatnonzero(source.caption_counts)
    for i in captioned[:: max(1, -(-len(captioned) // limit))]:
        try:
            texts = read(int(i))
        except BadExample:
            continue
        yield from texts


def _stack(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Stacks rows; raises UserError if `others` differ in names or shapes."""
    first = rows[0]
    for row in rows:
        for name in {*first, *row}:
            shapes = [np.shape(r[name]) if name in r else () for r in (first, row)]
            if (name in first) != (name in row) or shapes[0] != shapes[1]:
                raise UserError(
                    f"the data give examples with different {name!r} ({shapes[0]} and "
                    f"{shapes[1]}): give every example one of the same shape"
                )
    return {name: np.stack([row[name] for row in rows]) for name in first}


class _BlockMaker:
    """step -> this process's rows of the step's global batch; picklable."""

    def __init__(
        self,
        source: Source,
        tokenizer: Tokenizer | None,
        augment: Augment,
        units: Units,
        plans: grain.MapDataset,
        *,
        label_set: str | None,
        text_buckets: buckets.Buckets | None,
        global_batch: int,
        rows: range,
        on_broken: str,
        text_augment: TextAugment | None,
    ):
        self._source = source
        self._tokenizer = tokenizer
        self._augment = augment
        self._units = units
        self._plans: Any = plans
        self._label_set = label_set
        self._buckets = text_buckets
        self._global_batch = global_batch
        self._rows = rows
        self._on_broken = on_broken
        self._text_augment = text_augment
        self._at: dict[int, int] = {}  # step in progress -> the example it is reading

    def __call__(self, step: int) -> dict[str, Any]:
        step = operator.index(step)
        first = step * self._global_batch
        notes: list[tuple[str, str]] = []
        # The bucket depends on all processes' texts.
        needed = self._rows if self._buckets is None else range(self._global_batch)
        plans = {row: self._plans[first + row] for row in needed}
        rows = [self._row(plans[row], notes, step) for row in self._rows]
        del self._at[step]
        if self._buckets is not None:
            chosen = ((planned.index, planned.caption) for planned in plans.values())
            self._buckets.shorten(rows, chosen)
        block = _stack(rows)
        block["valid"] = np.ones(len(rows), bool)
        block[NOTES] = json.dumps([os.getpid(), notes])
        return block

    def reading(self, step: int) -> str:
        """Text for errors: which example a step's block is reading now."""
        index = self._at.get(step)
        if index is None:
            return "making it"
        return f"reading {name_of(self._source, index)}"

    def _row(self, planned: Planned, notes: list, step: int) -> dict[str, Any]:
        """One row, from the planned example or its replacement."""
        chosen = planned
        for attempt in range(REPLACEMENTS + 1):
            if attempt:
                chosen = self._units.other(planned, attempt)
            self._at[step] = chosen.index
            key = f"example {chosen.index}"
            try:
                example = self._source[chosen.index]
                key = example.key or key
                return self._read(example, chosen, replaced=attempt > 0)
            except BadExample as error:
                key = error.key or key
                if self._on_broken == "raise":
                    raise UserError(
                        f"{key} is broken: {error.reason}; mend or remove it, or set "
                        f"data.on_broken=replace"
                    ) from error
                notes.append((key, error.reason))
        raise UserError(
            f"{key} and {REPLACEMENTS} examples drawn to replace it are all broken: "
            f"{notes[-1][1]}; mend the data"
        )

    def _read(
        self, example: Example, chosen: Planned, *, replaced: bool
    ) -> dict[str, Any]:
        row: dict[str, Any] = {
            **example.others,
            "image": self._augment(example.image, generator(chosen.draw)),
            "image_id": np.int32(chosen.index),
            "replaced": np.bool_(replaced),
            "label": np.int32(example.labels.get(self._label_set or "", -1)),
        }
        if self._tokenizer is not None:
            if chosen.caption >= len(example.captions):
                raise BadExample(f"it has no caption number {chosen.caption}")
            caption = example.captions[chosen.caption]
            if self._text_augment is not None:
                rng = generator(chosen.draw, TEXT_DRAWS)
                caption = self._text_augment(caption, example, rng)
            ids, mask = self._tokenizer([caption])
            row["text"], row["text_mask"] = ids[0], mask[0]
            text_id = chosen.index * self._source.max_captions + chosen.caption
            row["text_id"] = np.int32(text_id)
        return row
