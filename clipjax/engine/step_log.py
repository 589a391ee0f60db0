"""A run's log of each step, fetched one step late so that the device never waits."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable
from typing import Any

import jax

from clipjax import param_paths
from clipjax.data.batching.batches import TrainBatches
from clipjax.engine.progress import Progress
from clipjax.engine.run import Run
from clipjax.engine.watch import Watch
from clipjax.engine.writers import Writers
from clipjax.multihost import gather
from clipjax.types import Metrics, UserError


class StepLog:
    """Keeps a step's metrics on the device until the next step is dispatched.

    Args:
      start: the step that the run starts or resumes from.
      replaced: examples replaced so far.
      writer: None on processes that write no files.
      last_saved: returns a text that names the last checkpoint.

    Attributes:
      replaced: examples replaced up to the last logged step.
      stop: the signal that any process has received, 0 if none.
    """

    def __init__(
        self,
        run: Run,
        source: TrainBatches,
        progress: Progress,
        writer: Writers | None,
        start: int,
        replaced: int,
        last_saved: Callable[[], str],
    ):
        self.replaced = replaced
        self.stop = 0
        self._run, self._source, self._progress = run, source, progress
        self._writer, self._last_saved = writer, last_saved
        names = jax.tree.leaves(param_paths.paths(run.template.params))
        self._watch = Watch(names, run.total_steps, progress.say)
        self._first = start + 1
        self._losses: list[float] = []
        self._late: tuple[int, Metrics] | None = None

    def put(self, step: int, metrics: Metrics) -> None:
        """Takes a step's metrics, which may still be computing; call `flush` first."""
        self._late = step, metrics

    def device_is_idle(self) -> bool:
        """Whether the device has finished all dispatched steps."""
        return self._late is None or self._late[1]["loss"].is_ready()

    def flush(self) -> None:
        """Logs the last step that `put` took, unless it is logged already.

        Raises UserError after `train.max_bad_steps` non-finite steps in a row.
        """
        if self._late is None:
            return
        step, values = self._late[0], jax.device_get(self._late[1])
        self._late = None
        self.stop = max(self.stop, int(values.pop("stop", 0)))
        if step == self._first:
            self._progress.first_step(step)
        self._count_replaced(int(values.pop("replaced")))
        self._watch.look(step, values)
        self._losses.append(float(values["loss"]))
        config, total = self._run.config, self._run.total_steps
        bad = int(values["bad_in_row"])
        diverged = bad >= config.train.max_bad_steps
        if due(step, config.log.every, total) or diverged:
            self._write(step, values)
        if diverged:
            raise UserError(
                f"{self._watch.fault(step, bad)}; parameters have not changed since "
                f"step {step - bad} and {self._last_saved()}. Start again in another "
                "--workdir with a lower --config.optim.lr or more warmup"
            )

    def mean_loss(self) -> float:
        """The mean finite loss of the steps logged since the last call; NaN if none."""
        finite = [loss for loss in self._losses if math.isfinite(loss)]
        self._losses.clear()
        return statistics.fmean(finite) if finite else math.nan

    def _count_replaced(self, count: int) -> None:
        self.replaced += count
        if not count:  # counted over the blocks of all processes
            return
        for notes in gather(json.dumps(self._source.take_broken())):
            for key, reason in json.loads(notes):
                self._progress.warn(f"replaced a broken example, {key}: {reason}")

    def _write(self, step: int, values: dict[str, Any]) -> None:
        run = self._run
        row = {f"train/{name}": float(value) for name, value in values.items()}
        row["train/replaced_total"] = float(self.replaced)
        row["train/epoch"] = step * run.config.data.batch_size / run.epoch_size
        row.update(self._progress.rates(step))
        if self._writer is not None:
            self._writer.write_scalars(step, row)
        self._progress.show(step, row, final=step == run.total_steps)


def due(step: int, every: int, total: int) -> bool:
    """True at multiples of `every` (0: none) and at the last step."""
    return step == total or (every > 0 and step % every == 0)
