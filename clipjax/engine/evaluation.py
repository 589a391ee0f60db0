"""Validation loss and evaluators inside training."""

from __future__ import annotations

import time

import jax
import numpy as np

from clipjax.data.batching import pipeline
from clipjax.engine import assemble, sharding
from clipjax.engine import state as states
from clipjax.engine.progress import Progress, duration
from clipjax.engine.run import Run
from clipjax.engine.step import make_loss_step
from clipjax.types import EvalResult


class Evaluation:
    """Validation loss and evaluators of a run; compiles at the first use."""

    def __init__(self, run: Run, progress: Progress):
        self._run = run
        self._progress = progress
        self._loss_step = jax.jit(make_loss_step(run.model, run.loss))

    def run(
        self, state: states.TrainState
    ) -> tuple[dict[str, EvalResult], dict[str, float]]:
        """Results by evaluator, and the same flat by name with "val_loss" and
        "primary", the first evaluator's primary metric; nothing for a config without
        either."""
        begin = time.monotonic()
        found: dict[str, float] = {}
        config = self._run.config
        if config.train.val_batches:
            found["val_loss"] = self._val_loss(state)
        variables = states.eval_variables(state, config.train.eval_ema)
        results = assemble.evaluate(
            self._run.evaluators, variables, lambda label: self._progress.doing(label)
        )
        for label, result in results.items():
            for name, value in result.metrics.items():
                found[f"{label}/{name}"] = value
            found.setdefault("primary", result.metrics[result.primary])
        seconds = time.monotonic() - begin
        self._progress.pause(seconds)
        self._progress.done()
        if found:
            self._tell(int(state.step), results, found, seconds)
        return results, found

    def _tell(self, step: int, results, found: dict[str, float], seconds: float):
        parts = []
        if "val_loss" in found:
            parts.append(f"loss {found['val_loss']:.4f}")
        for label, result in results.items():
            value, chance = result.metrics[result.primary], result.chance
            text = f"{label} {result.primary} {value:.2%}"
            if result.primary in chance:
                text += f" (chance {chance[result.primary]:.2%})"
            if result.broken:
                text += f", {result.broken} unreadable examples left out"
            parts.append(text)
        self._progress.say(
            f"evaluated step {step} in {duration(seconds)}: {', '.join(parts)}"
        )

    def _val_loss(self, state: states.TrainState) -> float:
        """Mean loss over whole batches of the evaluation source, in a fixed order."""
        run, data = self._run, self._run.config.data
        source = run.eval_source
        assert source is not None  # train.val_batches is above 0
        if run.config.train.eval_ema and state.ema:
            state = state.replace(**state.ema)
        usable = pipeline.epoch_size(source, "image")
        size = min(data.batch_size, usable // run.mesh.size * run.mesh.size)
        if size == 0:
            return float("nan")
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
            values = [
                float(
                    self._loss_step(state, sharding.put_batch(run.mesh, next(batches)))
                )
                for _ in range(count)
            ]
        finally:
            batches.close()
        return float(np.mean(values))
