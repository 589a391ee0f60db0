"""Validation loss and evaluators inside training."""

from __future__ import annotations

import time

import jax
import numpy as np

from clipjax import results as result_texts
from clipjax.data.batching import pipeline
from clipjax.engine import assemble, sharding
from clipjax.engine import state as states
from clipjax.engine.activity import Task, duration
from clipjax.engine.progress import Progress
from clipjax.engine.run import Run
from clipjax.engine.step import make_loss_step
from clipjax.types import EvalResult, Metric


class Evaluation:
    """A run's validation loss and evaluators; compiles at the first use."""

    def __init__(self, run: Run, progress: Progress):
        self._run = run
        self._progress = progress
        self._loss_step = jax.jit(make_loss_step(run.model, run.loss))

    def run(
        self, state: states.TrainState
    ) -> tuple[dict[str, EvalResult], dict[str, Metric]]:
        """Returns (results by evaluator, metrics by name).

        The metrics also hold "val_loss" and "primary", the first evaluator's primary
        metric. Both are empty if the config has neither loss nor evaluators.
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
            results = self._run.evaluators.run(variables, task.part)
        for label, result in results.items():
            for name, metric in result.metrics.items():
                metrics[f"{label}/{name}"] = metric
            metrics.setdefault("primary", result.metrics[result.primary])
        seconds = time.monotonic() - begin
        self._progress.pause(seconds)
        if metrics:
            self._report(int(state.step), results, metrics, seconds)
        return results, metrics

    def _report(
        self,
        step: int,
        results: dict[str, EvalResult],
        metrics: dict[str, Metric],
        seconds: float,
    ) -> None:
        parts = []
        if "val_loss" in metrics:
            parts.append(f"validation loss {metrics['val_loss'].value:.4f}")
        for label, result in results.items():
            metric = result.metrics[result.primary]
            text = f"{label} {result.primary} {result_texts.quantity(metric)}"
            if chance := result_texts.chance(metric):
                text += f" (chance {chance})"
            if result.broken:
                text += f", {result.broken} unreadable examples left out"
            parts.append(text)
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
        batches = pipeline.train_batches(
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
