"""Whether a run can learn: one batch by heart, and what carries over to other data."""

from __future__ import annotations

import dataclasses
import math
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from clipjax.checkup.findings import Finding, error, ok, warning
from clipjax.data.batching import pipeline
from clipjax.engine import evaluation, first_state, sharding
from clipjax.engine import run as runs
from clipjax.engine.progress import ACCURACIES
from clipjax.engine.run import Run
from clipjax.engine.step import make_eval_step
from clipjax.types import Config

BATCH = 16  # small, so that a few steps on a few cores tell
STEPS, WANTED = 100, 0.9
EVAL_BATCHES = 16
_OTHER_RATES = (0.1, 0.01, 0.001, 10.0, 100.0)  # times the config's
_SURE = 4.0  # standard deviations from chance


@dataclasses.dataclass(frozen=True)
class Learnt:
    """How a repeated batch went. accuracy: the best; None: the loss has none.
    steps: until it was reached. first, loss: the first and the last value of the loss.
    """

    accuracy: float | None
    steps: int
    first: float
    loss: float


def checks(config: Config, workdir: pathlib.Path) -> Iterator[Finding]:
    """Trains small runs of the config, which leave nothing behind."""
    run = runs.prepare(small(config), workdir, True)
    batch, local = _first_batch(run)
    rate, most = float(config.optim.lr), ceiling(local)
    step = runs.jit_step(run)
    once = by_heart(run, step, batch, most)
    yield judged(once, most, rate, lambda factor: _again(config, workdir, factor, most))
    if once.accuracy is not None and once.accuracy >= WANTED * most:
        yield from carries_over(run, step)


def small(config: Config, factor: float = 1.0) -> Config:
    """The config with small batches and a constant learning rate.

    factor: of the learning rate.
    """
    made = config.copy_and_resolve_references()
    devices = jax.device_count()
    with made.unlocked():
        made.data.batch_size = -(-BATCH // devices) * devices
        made.data.workers = 0
        made.data.text_buckets = ()
        made.train.micro_batches = 1
        made.train.steps, made.train.epochs = STEPS, 0.0
        made.optim.lr = config.optim.lr * factor
        constant = {"name": "constant", "warmup": 10.0, "warmup_start": 0.0}
        made.optim.schedule = ConfigDict(constant)
    return made.lock()


def by_heart(run: Run, step: Any, batch: Any, most: float) -> Learnt:
    """Trains on one batch until it is learnt, at most STEPS steps.

    step: of `jit_step`. most: the accuracy that is possible.
    """
    state, _ = first_state.make(run, lambda line: None)
    best, first, loss = None, math.nan, math.nan
    for count in range(1, STEPS + 1):
        state, metrics = step(state, batch)
        loss = float(metrics["loss"])
        first = loss if count == 1 else first
        if not math.isfinite(loss):
            return Learnt(best, count, first, loss)
        if (now := accuracy(metrics)) is not None:
            best = max(best or 0.0, now)
            if now >= WANTED * most:
                return Learnt(now, count, first, loss)
    return Learnt(best, STEPS, first, loss)


def judged(once: Learnt, most: float, rate: float, again: Any) -> Finding:
    """What a repeated batch says. again: trains anew with a factor of the rate."""
    if once.accuracy is None and math.isfinite(once.loss):
        told = (
            "one small batch by heart: the loss has no accuracy, and goes from "
            f"{once.first:.4g} to {once.loss:.4g} in {once.steps} steps"
        )
        if once.loss < once.first:
            return ok(told)
        return warning(
            told,
            "see the learning rate, and the loss (python -m clipjax.testing checks it)",
        )
    reached = once.accuracy or 0.0
    told = f"one small batch by heart: accuracy {reached:.0%} in {once.steps} steps"
    if most < 1:
        told += f" (like captions allow {most:.0%})"
    if math.isfinite(once.loss) and reached >= WANTED * most:
        return ok(told)
    told += f" at optim.lr={rate:g}" + (
        "" if math.isfinite(once.loss) else f", and the loss is {once.loss}"
    )
    for factor in _OTHER_RATES:
        other = again(factor)
        if other.accuracy is not None and other.accuracy >= WANTED * most:
            much = "high" if factor < 1 else "low"
            return error(
                told,
                f"the rate is too {much}: --config.optim.lr={rate * factor:g} learns "
                f"it in {other.steps} steps",
            )
    return error(
        told,
        "no rate from a thousandth to a hundred times learns it: see the model and "
        "the loss (python -m clipjax.testing checks components)",
    )


def carries_over(run: Run, step: Any) -> Iterator[Finding]:
    """Whether a few steps on many batches help with data that they did not have."""
    if run.eval_source is None:
        yield ok("what carries over is not checked: there are no evaluation data")
        return
    state, _ = first_state.make(run, lambda line: None)
    source = runs.batches(run, 0)
    try:
        for _ in range(STEPS):
            batch = sharding.put_batch(run.mesh, dict(next(source)))
            state, metrics = step(state, batch)
            # Of emulated devices two steps in flight could deadlock: see loop.py.
            jax.block_until_ready(metrics)
    finally:
        source.close()
    found, chance, count = _evaluated(run, state)
    if found is None:
        return
    told = (
        f"after {STEPS} steps of {run.config.data.batch_size} the accuracy in batches "
        f"of evaluation data is {found:.1%} (chance {chance:.1%})"
    )
    spread = math.sqrt(max(chance * (1 - chance), 1e-9) / count)
    if found > chance + _SURE * spread:
        yield ok(told)
    else:
        yield warning(
            told,
            "training data are learnt and nothing carries over: see that captions or "
            "labels belong to their images, and that evaluation data are of the kind",
        )


def _evaluated(run: Run, state: Any) -> tuple[float | None, float, int]:
    """The accuracy in batches of evaluation data, its chance, and the examples."""
    size, source = run.config.data.batch_size, run.eval_source
    assert source is not None
    count = min(EVAL_BATCHES, pipeline.epoch_size(source, "image") // size)
    if not count:
        return None, 0.0, 0

    measure = jax.jit(make_eval_step(run.model, run.loss))
    stream = evaluation.loss_batches(run, source, size, count)
    values, chances = [], []
    try:
        for _ in range(count):
            local = dict(next(stream))
            _, metrics = measure(state, sharding.put_batch(run.mesh, local))
            values.append(accuracy(metrics))
            chances.append(_chance(local, size))
    finally:
        stream.close()
    if values[0] is None:
        return None, 0.0, 0
    return float(np.mean(values)), float(np.mean(chances)), count * size


def accuracy(metrics: Mapping[str, Any]) -> float | None:
    """In-batch accuracy, the mean of both ways, or a classifier's; None without."""
    for names in (ACCURACIES, ("accuracy",)):
        if all(name in metrics for name in names):
            return float(np.mean([float(metrics[name]) for name in names]))
    return None


def ceiling(local: Mapping[str, np.ndarray]) -> float:
    """The accuracy that is possible if captions of a batch are alike."""
    if "text" not in local:
        return 1.0
    rows = np.asarray(local["text"])
    rows = rows.reshape(len(rows), -1)
    _, inverse, counts = np.unique(
        rows, axis=0, return_inverse=True, return_counts=True
    )
    return float((1 / counts[inverse.ravel()]).mean())


def _chance(local: Mapping[str, np.ndarray], size: int) -> float:
    """The accuracy of a guess: a pair of the batch, or the most frequent class."""
    if "text" in local:
        return 1 / size
    return float(np.unique(local["label"], return_counts=True)[1].max() / size)


def _first_batch(run: Run) -> tuple[Any, Mapping[str, np.ndarray]]:
    source = runs.batches(run, 0)
    try:
        local = dict(next(source))
    finally:
        source.close()
    return sharding.put_batch(run.mesh, local), local


def _again(config: Config, workdir: pathlib.Path, factor: float, most: float) -> Learnt:
    run = runs.prepare(small(config, factor), workdir, True)
    return by_heart(run, runs.jit_step(run), _first_batch(run)[0], most)
