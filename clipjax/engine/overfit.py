"""The overfit alarm: the validation loss rises while the training loss falls.

Both are looked at in means of WINDOW evaluations. The alarm needs a mean of the
validation loss that shares no evaluation with the lowest one and lies above it by more
than RISE of it, and by more than NOISE times what the loss usually changes by from one
evaluation to the next (the median); and a training loss that is lower than it was then
by more than FALL of it. A plateau with noise of any size passes: the means of 50
evaluations around one value raise an alarm in about 1 of 100 runs.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from clipjax.types import Metric

WINDOW = 3
RISE, FALL, NOISE = 0.03, 0.01, 6.0
# Evaluations from which the usual change is taken: from the lowest mean on, and within
# these limits.
_LEAST, _MOST = 10, 50

ADVICE = (
    "Use augmentation (augment=, text_augment=), more --config.optim.weight_decay, "
    "more data or fewer epochs; --config.early_stop.patience=3 ends a run that gets no "
    "better"
)

# What is known after an evaluation, as JSON values that a checkpoint keeps:
#   recent: the last losses, [validation, training] of each evaluation.
#   step, low, train: of the lowest mean so far: its last step, itself, and that of the
#     training loss.
#   since: evaluations after it.
#   warned: whether this rise was told.
Seen = dict[str, Any]


class Rise(NamedTuple):
    """A rise of the validation loss: from its lowest mean, at a step, to the last one.
    train_from, train_to: the training loss at both.
    """

    step: int
    low: float
    last: float
    train_from: float
    train_to: float


def after(seen: Seen, step: int, val: float, train: float) -> Seen:
    """What is known after one more evaluation.

    seen: what was known before it; {} at the first. val: the validation loss. train:
    the mean training loss since the evaluation before. If one of them is not finite,
    the evaluation does not count.
    """
    if not (math.isfinite(val) and math.isfinite(train)):
        return seen
    seen = {"recent": [], "low": None, "since": 0, "warned": False, **seen}
    recent = [*seen["recent"], [val, train]][-_MOST:]
    seen = {**seen, "recent": recent, "since": seen["since"] + 1}
    if len(recent) < WINDOW:
        return seen
    last, last_train = _means(recent)
    if seen["low"] is None or last < seen["low"]:
        lowest = {"step": step, "low": last, "train": last_train, "since": 0}
        return {**seen, **lowest, "warned": False}
    return seen


def rise(seen: Seen) -> Rise | None:
    """The rise that an alarm is about; None if there is none now."""
    if not seen or seen["low"] is None or seen["since"] < WINDOW:
        return None
    recent, low = seen["recent"], seen["low"]
    last, last_train = _means(recent)
    looked_at = recent[-max(_LEAST, seen["since"] + WINDOW) :]
    losses = [val for val, _ in looked_at]
    changes = [abs(b - a) for a, b in zip(losses, losses[1:], strict=False)]
    needed = max(RISE * abs(low), NOISE * statistics.median(changes))
    if last - low <= needed or seen["train"] - last_train <= FALL * abs(seen["train"]):
        return None
    return Rise(seen["step"], low, last, seen["train"], last_train)


def _means(recent: Sequence[Sequence[float]]) -> tuple[float, float]:
    val, train = zip(*recent[-WINDOW:], strict=True)
    return statistics.fmean(val), statistics.fmean(train)


class OverfitAlarm:
    """Warns once per rise: again only after the validation loss was lower than ever.

    Args:
      seen: of the checkpoint that the run resumes from; {} if it has none.
      warn: takes the warning's line.

    Attributes:
      seen: what is known so far; a checkpoint keeps it.
    """

    def __init__(self, seen: Seen, warn: Callable[[str], None]):
        self.seen = seen
        self._warn = warn

    def look(self, step: int, metrics: Mapping[str, Metric], train: float) -> None:
        """Takes an evaluation, and the mean training loss since the one before."""
        if "val_loss" not in metrics:
            return
        self.seen = after(self.seen, step, metrics["val_loss"].value, train)
        found = rise(self.seen)
        if found is None or self.seen["warned"]:
            return
        self.seen = {**self.seen, "warned": True}
        self._warn(
            f"at step {step} the validation loss rises while the training loss falls "
            f"(means of {WINDOW} evaluations: {found.low:.4g} at step {found.step}, "
            f"now {found.last:.4g}; training {found.train_from:.4g}, now "
            f"{found.train_to:.4g}): the model learns its examples by heart. {ADVICE}"
        )
