"""Progress of a run's steps: rates, and the line that shows them."""

from __future__ import annotations

import time
from collections.abc import Mapping

from clipjax.engine.activity import Activity, Task, duration
from clipjax.losses.common.diagnostics import UNINFORMED

ACCURACIES = ("image_to_text_accuracy", "text_to_image_accuracy")


class Progress(Task):
    """Rates and the line that shows them; one per run.

    The line has the step that runs now, and the numbers of the last logged one.
    """

    share = 1 / 20  # a line of numbers is worth more than one of patience

    def __init__(self, activity: Activity, total_steps: int, step: int, images: int):
        """images: the number per global batch; 1 / images is an accuracy's chance."""
        super().__init__("training")
        self.activity = activity
        self._total = total_steps
        self._images = images
        self._first = self._step = self._running = step
        self._begin = self.began
        self._mark = (self._begin, step)
        self._waited = 0.0
        self._values: Mapping[str, float] = {}
        self._pace = 0.0  # seconds per step, 0.0: unknown
        self._final = False
        self.say, self.warn = activity.say, activity.warn

    def at(self, step: int) -> None:
        """Takes the step that is being computed."""
        self._step = self._running = step

    def first_step(self, step: int) -> None:
        """Says how long the first step took; rates begin after it."""
        now = time.monotonic()
        self.say(f"first step after {duration(now - self._begin)}")
        self._begin, self._first = now, step
        self._mark, self._waited = (now, step), 0.0

    def wait(self, seconds: float) -> None:
        """Adds time that a step waited for data."""
        self._waited += seconds

    def pause(self, seconds: float) -> None:
        """Excludes the time of an evaluation from the rates."""
        self._mark = (self._mark[0] + seconds, self._mark[1])
        self._begin += seconds

    def rates(self, step: int) -> dict[str, float]:
        """images/s and the share of time waiting for data, since the last call.

        Empty if no step was done since then.
        """
        now = time.monotonic()
        then, from_step = self._mark
        if step == from_step:
            return {}
        seconds = max(now - then, 1e-9)
        rates = {
            "time/images_per_second": (step - from_step) * self._images / seconds,
            "time/data_wait_share": min(self._waited / seconds, 1.0),
        }
        self._mark, self._waited = (now, step), 0.0
        return rates

    def show(self, step: int, values: Mapping[str, float], final: bool = False) -> None:
        """Takes a logged step's numbers; prints them if they are due, or final."""
        self._step, self._values = step, values
        if step > self._first:
            self._pace = (time.monotonic() - self._begin) / (step - self._first)
        self.activity.tell(self, always=final)
        self._final = final

    def due(self, now: float) -> bool:
        return not self._final and super().due(now)

    def text(self) -> str:
        width = len(str(self._total))
        parts = [f"step {self._step:>{width}}/{self._total}"]
        parts += self._numbers(self._values)
        if left := self._left(self._step):
            parts.append(f"left {duration(left)}")
        return "  ".join(parts)

    def position(self) -> tuple[int, float | None]:
        """The step that runs, and the seconds until the last one is done, at the pace
        of those that are logged; None: not known.
        """
        return self._running, self._left(self._running)

    def _left(self, step: int) -> float | None:
        return self._pace * (self._total - step) if self._pace else None

    def _numbers(self, values: Mapping[str, float]) -> list[str]:
        if not values:
            return []
        loss = f"loss {values['train/loss']:.4f}"
        if f"train/{UNINFORMED}" in values:
            loss += f" (chance {values[f'train/{UNINFORMED}']:.4f})"
        parts = [loss]
        named = [values.get(f"train/{name}") for name in ACCURACIES]
        found = [value for value in named if value is not None]
        if found:
            parts.append(
                f"in-batch accuracy {sum(found) / len(found):.1%} "
                f"(chance {1 / self._images:.1%})"
            )
        if "train/accuracy" in values:
            parts.append(f"accuracy {values['train/accuracy']:.1%}")
        if values["train/bad_total"]:
            parts.append(f"non-finite steps {values['train/bad_total']:.0f}")
        if "time/images_per_second" in values:
            parts.append(f"{values['time/images_per_second']:,.0f} images/s")
            parts.append(f"data wait {values['time/data_wait_share']:.0%}")
        return parts
