"""Validation loss and evaluators inside training."""

from __future__ import annotations

import time
from typing import Any

import jax
import numpy as np

from clipjax.data import pipeline
from clipjax.engine import assemble, sharding
from clipjax.engine import state as states
from clipjax.engine.progress import Progress, duration
from clipjax.engine.run import Run
from clipjax.engine.step import make_loss_step
from clipjax.types import EvalResult, UserError


class Evaluation:
    """Validation loss and evaluators of a run, over its evaluation source.

    Everything is made at the first use, but the sources at once, since missing data
    must be known before training.
    """

    def __init__(self, run: Run, progress: Progress):
        self._run = run
        self._progress = progress
        config = run.config
        self._source: Any = None  # of data.eval, where anything needs it
        if config.train.val_batches or any(
            "data" not in config.evals[label] for label in config.evals
        ):
            self._source = assemble.source(config.data.eval)
        if config.train.val_batches and self._source.max_captions == 0:
            raise UserError(
                f"data.eval ({config.data.eval.name}, split {config.data.eval.split!r})"
                " has no captions, which the validation loss needs: choose other data, "
                "or do without it by --config.train.val_batches=0"
            )
        encoder = assemble.encoder(config, run.model, run.tokenizer, run.mesh)
        self._evaluators = assemble.evaluators(config, encoder, lambda: self._source)
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
            self._evaluators, variables, lambda label: self._progress.doing(label)
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
        assert self._source is not None
        if run.config.train.eval_ema and state.ema:
            state = state.replace(**state.ema)
        size = min(data.batch_size, len(self._source) // run.mesh.size * run.mesh.size)
        if size == 0:
            return float("nan")
        source = pipeline.train_batches(
            self._source,
            run.tokenizer,
            assemble.EvalPreprocess(assemble.preprocess(run.config)),
            seed=0,
            global_batch=size,
            start_step=0,
            unit="image",
            workers=0,
            threads=data.threads,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
            on_broken="replace",
        )
        count = min(run.config.train.val_batches, len(self._source) // size)
        try:
            values = [
                float(
                    self._loss_step(state, sharding.put_batch(run.mesh, next(source)))
                )
                for _ in range(count)
            ]
        finally:
            source.close()
        return float(np.mean(values))
