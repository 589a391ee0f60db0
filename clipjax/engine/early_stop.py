"""Early stopping: whether a run's evaluations end it before its last step."""

from __future__ import annotations

import math
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from clipjax.multihost import on_primary
from clipjax.types import Config, Metric, UserError

# What is known after an evaluation, as JSON values that a checkpoint keeps:
#   metric: its name.
#   step, value: the last evaluation's; None unless it was finite.
#   best_step, best: of the last value that was better than those before.
#   waited: evaluations since then.
#   mode: which side is better, "max" or "min".
Seen = dict[str, Any]


def is_on(config: Config) -> bool:
    """Whether anything ends the run early."""
    return config.early_stop.patience > 0 or config.early_stop.threshold != 0


def check(config: Config, total_steps: int) -> None:
    """Raises UserError if a run is too short to be evaluated before its end."""
    every = config.train.eval_every
    if is_on(config) and every >= total_steps:
        raise UserError(
            f"early_stop: with train.eval_every={every} a run of {total_steps} steps "
            "is evaluated only at its end: set fewer steps between evaluations"
        )


def after(
    config: Config, seen: Seen, step: int, name: str, metrics: Mapping[str, Metric]
) -> Seen:
    """What is known after one more evaluation.

    seen: what was known before it; {} at the first. name: the metric that decides.
    metrics: the evaluation's, of which `name` is one. A value that is not finite is
    not better than any.
    """
    metric = metrics[name]
    mode, value = metric.mode, metric.value if math.isfinite(metric.value) else None
    if seen.get("metric") != name:
        seen = {"metric": name, "best_step": step, "best": None, "waited": 0}
    seen = {**seen, "mode": mode, "step": step, "value": value}
    sign = 1 if mode == "max" else -1
    best = seen["best"]
    if value is not None and (
        best is None or sign * (value - best) > config.early_stop.min_delta
    ):
        return {**seen, "best_step": step, "best": value, "waited": 0}
    return {**seen, "waited": seen["waited"] + 1}


def reason(config: Config, seen: Seen) -> str:
    """Why the run is to end after the evaluation last seen; "" if it is to go on."""
    if not seen or not is_on(config):
        return ""
    if config.early_stop.metric not in ("", seen["metric"]):
        return ""  # a resumed run goes by another one
    name, value, best = seen["metric"], seen["value"], seen["best"]
    threshold, patience = config.early_stop.threshold, config.early_stop.patience
    sign = 1 if seen["mode"] == "max" else -1
    if threshold and value is not None and sign * (value - threshold) >= 0:
        return f"{name} {value:.4g} has reached early_stop.threshold={threshold:g}"
    if patience and seen["waited"] >= patience:
        since = (
            f"than {best:.4g} of step {seen['best_step']}"
            if best is not None
            else "at all: it was never finite"
        )
        plural = "s" if seen["waited"] > 1 else ""
        return f"{name} was not better {since} in {seen['waited']} evaluation{plural}"
    return ""


class EarlyStop:
    """Follows a run's evaluations.

    Args:
      seen: of the checkpoint that the run resumes from; {} if it has none.
      warn: takes a line if the evaluations lack the metric that decides.

    Attributes:
      seen: what is known so far; a checkpoint keeps it.
    """

    def __init__(self, config: Config, seen: Seen, warn: Callable[[str], None]):
        self.seen = seen
        self._config, self._warn = config, warn

    def look(self, step: int, metrics: Mapping[str, Metric], best: str) -> None:
        """Takes an evaluation; every process must call it.

        best: the metric of the best checkpoint. The first process's numbers decide for
        all, so that they stop at the same step.
        """
        name = self._config.early_stop.metric or best
        if not is_on(self._config):
            return
        if name not in metrics:
            self._warn(
                f"early_stop.metric={name!r}: no evaluator gives it, so the run cannot "
                f"stop early. There are {', '.join(metrics)}"
            )
            return
        self.seen = on_primary(
            lambda: after(self._config, self.seen, step, name, metrics)
        )

    @property
    def reason(self) -> str:
        """Why the run is to end now; "" if it is to go on."""
        return reason(self._config, self.seen)

    def describe_end(self, workdir: pathlib.Path, step: int, total: int) -> str:
        """A line on a run that has nothing left to do after this step of `total`; ""
        if it has.
        """
        if step >= total:
            return f"complete: all {total} steps of {workdir} are done"
        if self.reason:
            return (
                f"complete: {workdir} stopped early at step {step} of {total}: "
                f"{self.reason}. Other values of early_stop let it go on"
            )
        return ""
