"""The checks of one run's config, in order: a later one needs what an earlier finds."""

from __future__ import annotations

import contextlib
import math
import pathlib
from collections.abc import Iterator

import jax

from clipjax.checkup import data_checks, learning, speed, system
from clipjax.checkup.findings import ERROR, Finding, found, ok
from clipjax.checkup.system import Machine
from clipjax.engine import architecture, assemble, datasets, resume, writers
from clipjax.engine.checkpoint import layout
from clipjax.engine.run import Run, prepare, size
from clipjax.types import Config, UserError


def checks(
    config: Config,
    folder: pathlib.Path,
    scratch: pathlib.Path,
    machine: Machine,
    place: pathlib.Path,
    quick: bool,
) -> Iterator[Finding]:
    """folder: the run's, which may not exist. scratch: an empty one. place: where the
    folder will be, of which `machine` tells. quick: compiles and trains nothing.
    """
    try:
        config = datasets.resolve(architecture.with_released_settings(config, folder))
        writers.check(config)
        run = prepare(config, scratch, True)
    except UserError as failure:
        yield from _problems(config)
        yield Finding(ERROR, str(failure))
        yield from system.checks(machine, place)
        return
    yield ok(f"config: {size(run)}")
    yield from found(lambda: _folder(config, folder))
    saves, batches = _bytes_of_saves(run), _bytes_of_batches(run)
    yield from system.checks(machine, place, saves=saves, batches=batches)
    sections = {"data.train": run.source, "data.eval": run.eval_source}
    for flag, source in sections.items():
        if source is not None:
            yield from data_checks.first_examples(
                source, flag, config.data.image_size, config.data.threads
            )
    if quick:
        return
    fine = True
    for one in found(lambda: speed.checks(run, machine)):
        fine &= one.state != ERROR
        yield one
    if fine:
        yield from found(lambda: learning.checks(config, scratch))


def _problems(config: Config) -> Iterator[Finding]:
    """What the training data leave out, which may be why a run cannot be made."""
    with contextlib.suppress(UserError):  # which is told already
        source = assemble.source(config.data.train, "--config.data.train.")
        yield from data_checks.problems(source, "data.train")


def _folder(config: Config, folder: pathlib.Path) -> Iterator[Finding]:
    """What is in the run's folder; raises UserError if it would be refused."""
    lines: list[str] = []
    anew = resume.check(folder, config, True, lines.append)
    yield ok(f"{folder}: {'a new run' if anew else 'the run there would be resumed'}")
    for line in lines:
        yield ok(line)


def _bytes_of_saves(run: Run) -> int:
    """About the bytes of all checkpoints that are there at once."""
    keep, total = run.config.checkpoint, run.total_steps
    every = keep.every or run.steps_per_epoch
    kept = keep.keep + keep.keep_best + 1  # the next comes before an old one is deleted
    kept += total // keep.keep_every if keep.keep_every else 0
    return layout.size(run.template) * min(kept, math.ceil(total / every))


def _bytes_of_batches(run: Run) -> int:
    """About the bytes of the batches that workers have in shared memory."""
    data = run.config.data
    images = data.batch_size // jax.process_count()
    return data.workers * _AHEAD * images * data.image_size**2 * 3


_AHEAD = 2  # batches per worker: one that waits, one that is made
