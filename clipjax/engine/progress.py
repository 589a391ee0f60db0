"""Progress of a run on the console: a live line, or plain lines without a terminal."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping

from rich.console import Console

# Seconds between lines if there is no terminal: a twentieth of the time so far,
# within this range.
PLAIN_SECONDS = (5.0, 60.0)


def duration(seconds: float) -> str:
    """Seconds as 1:02:03 or 2:03."""
    seconds = round(seconds)
    hours, rest = divmod(seconds, 3600)
    minutes, seconds = divmod(rest, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


class Progress:
    """Rates and the line that shows them; one per run, on process 0."""

    def __init__(self, console: Console, total_steps: int, step: int, images: int):
        """images: the number per global batch."""
        self._console = console
        self._total = total_steps
        self._images = images
        self._first = step
        self._begin = time.monotonic()
        self._shown = -math.inf
        self._mark = (self._begin, step)
        self._waited = 0.0
        self._line = "preparing the first step"
        self._live = None
        if console.is_terminal:
            self._live = console.status(self._line, refresh_per_second=4)
            self._live.start()

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
        now = time.monotonic()
        done = step - self._first
        width = len(str(self._total))
        parts = [f"step {step:>{width}}/{self._total}"]
        parts.append(f"loss {values['train/loss']:.4f}")
        if values["train/bad_total"]:
            parts.append(f"non-finite steps {values['train/bad_total']:.0f}")
        if "time/images_per_second" in values:
            parts.append(f"{values['time/images_per_second']:,.0f} images/s")
            parts.append(f"data wait {values['time/data_wait_share']:.0%}")
        if done and not final:
            left = (now - self._begin) / done * (self._total - step)
            parts.append(f"left {duration(left)}")
        self._line = "  ".join(parts)
        if self._live is not None:
            self._live.update(self._line)
        low, high = PLAIN_SECONDS
        pause = min(max(low, (now - self._begin) / 20), high)
        if final or (self._live is None and now - self._shown >= pause):
            self._shown = now
            self.say(self._line)

    def say(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def doing(self, what: str):
        """A callback progress(done, total) for work other than steps."""

        def progress(done: int, total: int) -> None:
            if self._live is not None:
                self._live.update(f"{what} {done}/{total}")

        return progress

    def done(self) -> None:
        """Replaces the line of `doing` by the last step's."""
        if self._live is not None:
            self._live.update(self._line)

    def close(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None
