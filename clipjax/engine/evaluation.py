"""Validation loss and evaluators inside training, and what is kept of an evaluation."""

from __future__ import annotations

import pathlib
import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from clipjax import (
    config_check,
    config_parts,
    identity,
    paths,
    result_tables,
    results,
)
from clipjax.data.batching import pipeline
from clipjax.data.batching.batches import TrainBatches
from clipjax.engine import assemble, sharding
from clipjax.engine import state as states
from clipjax.engine.activity import Task, duration
from clipjax.engine.progress import Progress
from clipjax.engine.run import Run
from clipjax.engine.step import make_loss_step
from clipjax.types import Config, EvalResult, Metric, Source, UserError


def facts(config: Config, step: int, ema: bool, **more: Any) -> dict[str, Any]:
    """What an evaluation is of, as `results.Evaluation.meta` holds it.

    config: with its evaluators and evaluation data. ema: whether of a moving average.
    """
    plain = config_check.to_dict(config)
    data = plain["data"]["eval"]
    return {**more, "step": step, "ema": ema, "evals": plain["evals"], "data": data}


def keep(folder: pathlib.Path, parts: Mapping[str, results.Part]) -> str:
    """Writes results as `results.save` does, and returns a line that says where.

    Raises UserError if they cannot be written.
    """
    try:
        place, new = results.save(folder, parts)
    except OSError as error:  # the disk may be full by now
        raise unwritten(folder, error) from error
    if new:
        return f"results, with a row per query or example: {place}"
    return f"the same results are there already: {place}"


def unwritten(folder: pathlib.Path, error: OSError) -> UserError:
    """The error of results that cannot be written."""
    return UserError(
        f"the results cannot be written to {folder} ({error.strerror}): free space, or "
        "name another folder by --out DIR of clipjax.evaluate"
    )


def best_metric(
    config: Config, results: dict[str, EvalResult], metrics: dict[str, Metric]
) -> tuple[str, str]:
    """The metric that chooses the best checkpoint, and its mode ("": unknown).

    results, metrics: an evaluation's.
    """
    best = config.checkpoint.best or config.early_stop.metric
    if not best and results:
        # By its full name, because a resumed run may add evaluators before it.
        label, first = next(iter(results.items()))
        best = f"{label}/{first.primary}"
    best = best or "val_loss"
    mode = metrics[best].mode if best in metrics else ""
    return best, config.checkpoint.best_mode or mode


def describe_missing(run: Run, step: int) -> str:
    """A line on a complete run without the results of its end; "" if they are there.

    A run may be killed, or its disk be full, after its last checkpoint is whole.
    """
    place = _last_folder(run, step)
    if place.exists() or not config_parts.labels(run.config.evals, "evals"):
        return ""
    flag = " --noema" if place.name.endswith("noema") else ""
    return (
        f"the evaluation of its end is not in {place}: python -m clipjax.evaluate "
        f"--workdir {paths.shell(run.workdir)} --checkpoint {step}{flag} writes it"
    )


def _last_folder(run: Run, step: int) -> pathlib.Path:
    """Where the results of a run's end go."""
    plain = states.has_averages(run.config) and not run.config.train.eval_ema
    name = results.folder_name(step, "noema" if plain else "")
    return run.workdir / results.FOLDER / name


def loss_batches(run: Run, source: Source, size: int, count: int) -> TrainBatches:
    """So many batches of a source in a fixed order, as a validation loss takes them.

    size: images per global batch.
    """
    data = run.config.data
    return pipeline.train_batches(
        source,
        run.tokenizer,
        assemble.EvalPreprocess(assemble.preprocess(run.config)),
        seed=0,
        global_batch=size,
        start_step=0,
        total_steps=count,
        unit="image",
        label_set=data.label_set,
        workers=0,
        threads=data.threads,
        timeout=data.timeout,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        on_broken="replace",
    )


class Evaluation:
    """A run's validation loss and evaluators; compiles at the first use."""

    def __init__(self, run: Run, progress: Progress):
        self._run = run
        self._progress = progress
        self._loss_step = jax.jit(make_loss_step(run.model, run.loss))
        self._checked = False

    def run(
        self, state: states.TrainState
    ) -> tuple[dict[str, EvalResult], dict[str, Metric]]:
        """Returns (results by evaluator, metrics by name).

        The metrics also hold "val_loss" and "primary", the first evaluator's primary
        metric. Both are empty if the config has neither loss nor evaluators.

        Raises UserError at the first call before the run's end for rows that `keep`
        could not write.
        """
        begin = time.monotonic()
        metrics: dict[str, Metric] = {}
        config = self._run.config
        what = f"evaluating step {int(state.step)}"
        with self._progress.activity.doing(what) as task:
            if config.train.val_batches:
                task.part("validation loss")
                metrics["val_loss"] = self._val_loss(state, task)
            variables = states.eval_variables(state, config.train.eval_ema)
            found = self._run.evaluators.run(variables, task.part)
            # At the end `keep` checks them, after the last save.
            if not self._checked and int(state.step) < self._run.total_steps:
                results.check(found)
                self._checked = True
        for label, result in found.items():
            for name, metric in result.metrics.items():
                metrics[f"{label}/{name}"] = metric
            metrics.setdefault("primary", result.metrics[result.primary])
        seconds = time.monotonic() - begin
        self._progress.pause(seconds)
        if metrics:
            self._report(int(state.step), found, metrics, seconds)
        return found, metrics

    def keep(self, state: states.TrainState, found: dict[str, EvalResult]) -> None:
        """Writes the results of the run's last evaluation; the first process does."""
        if not found:
            return
        run, config, step = self._run, self._run.config, int(state.step)
        variables = states.eval_variables(state, config.train.eval_ema)
        variables = sharding.on_host(run.mesh, variables)
        if jax.process_index() > 0:
            return
        averaged = states.has_averages(config) and config.train.eval_ema
        of = identity.identity(config, run.model, variables, run.tokenizer)
        meta = facts(config, step, averaged, workdir=str(run.workdir), identity=of)
        place = _last_folder(run, step)
        self._progress.say(keep(place, {"": (found, meta)}))

    def _report(
        self,
        step: int,
        found: dict[str, EvalResult],
        metrics: dict[str, Metric],
        seconds: float,
    ) -> None:
        parts = []
        if "val_loss" in metrics:
            parts.append(f"validation loss {metrics['val_loss'].value:.4f}")
        parts += [result_tables.main_metric(*pair) for pair in found.items()]
        self._progress.say(
            f"evaluated step {step} in {duration(seconds)}: {', '.join(parts)}"
        )

    def _val_loss(self, state: states.TrainState, task: Task) -> Metric:
        """The mean loss over full batches of `data.eval`, in a fixed order."""
        run, data = self._run, self._run.config.data
        source = run.eval_source
        assert source is not None  # train.val_batches is above 0
        if run.config.train.eval_ema and state.ema:
            state = state.replace(**state.ema)
        usable = pipeline.epoch_size(source, "image")
        size = min(data.batch_size, usable // run.mesh.size * run.mesh.size)
        if size == 0:
            return Metric(float("nan"), higher_is_better=False, n=0)
        count = min(run.config.train.val_batches, usable // size)
        batches = loss_batches(run, source, size, count)
        try:
            values = []
            for done in range(count):
                task(done, count)
                batch = sharding.put_batch(run.mesh, next(batches))
                values.append(float(self._loss_step(state, batch)))
        finally:
            batches.close()
        loss = float(np.mean(values))
        return Metric(loss, higher_is_better=False, n=count * size)
