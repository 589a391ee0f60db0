"""Phases of a loss: stretches in which it falls fast, slowly or not at all."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from clipjax.report_parts.run_files import RunFiles

MOST = 4  # phases
BINS = 64  # means of the loss that phases begin and end at
_SHORTEST = 4  # bins of a phase
_WORTH = 0.6  # one more phase leaves at most this share of the error
_EXACT = 2e-3  # of the variance: lines that leave no more are good enough
SETTLED = 0.05  # of the whole fall: how near the loss is to its end if it has converged


class Phase(NamedTuple):
    """A stretch of training. first, last: steps. start, end: the loss there, smoothed.
    kind: "fast fall", "slow fall", "plateau" or "rise".
    """

    first: int
    last: int
    start: float
    end: float
    kind: str

    @property
    def fall(self) -> float:
        """The share of the phase's first loss that it loses."""
        return (self.start - self.end) / self.start if self.start else 0.0


class Course(NamedTuple):
    """A loss in numbers: of means of neighbouring rows, as single ones are noisy.

    best_step, settled: steps; settled: from which the loss stays within SETTLED of its
    end. rows: how many a mean is over.
    """

    first: float
    best: float
    best_step: int
    last: float
    settled: int
    rows: int
    phases: list[Phase]

    @property
    def reduction(self) -> float:
        """The share of the first loss that is gone at the end."""
        return (self.first - self.last) / self.first if self.first else 0.0


def course(run: RunFiles) -> Course | None:
    """The course of a run's training loss; None with less than two finite rows."""
    steps, values = run.finite("train/loss")
    if len(values) < 2:
        return None
    rows = max(1, len(values) // 100)
    means = np.convolve(values, np.ones(rows) / rows, "valid")
    ends = steps[rows - 1 :]
    best = int(means.argmin())
    # From the first loss itself: a mean over later rows has lost some already.
    whole = values[0] - means[-1]
    far = np.flatnonzero(np.abs(means - means[-1]) > SETTLED * abs(whole))
    settled = int(ends[min(far[-1] + 1, len(ends) - 1)]) if len(far) else int(ends[0])
    return Course(
        float(values[0]),
        float(means[best]),
        int(ends[best]),
        float(means[-1]),
        settled,
        rows,
        phases(steps, values),
    )


def phases(steps: np.ndarray, values: np.ndarray) -> list[Phase]:
    """The phases of finite losses [n] over steps [n], in order.

    They are the best straight lines, one after the other, through means of neighbours:
    as many, up to MOST, as lower the squared error much.
    """
    bins = np.array_split(np.arange(len(values)), min(BINS, len(values)))
    means = np.array([values[at].mean() for at in bins])
    places = np.array([steps[at].mean() for at in bins])
    count = len(means)
    cuts = [0, count] if count < 2 * _SHORTEST else _cuts(places, means)
    span = float(places[-1] - places[0]) or 1.0
    whole = float(means.max() - means.min()) or 1.0
    found = []
    for begin, end in zip(cuts[:-1], cuts[1:], strict=True):
        slope, start = _line(places[begin:end], means[begin:end])
        last = start + slope * (places[end - 1] - places[begin])
        pace = -slope * span / whole  # 1: it would fall all of it in the whole run
        kind = "plateau"
        if pace > 1:
            kind = "fast fall"
        elif pace > 0.15:
            kind = "slow fall"
        elif pace < -0.15:
            kind = "rise"
        first, final = int(steps[bins[begin][0]]), int(steps[bins[end - 1][-1]])
        found.append(Phase(first, final, float(start), float(last), kind))
    return found


def _cuts(places: np.ndarray, means: np.ndarray) -> list[int]:
    """Where phases begin, and the end."""
    count = len(means)
    error = np.full((count + 1, count + 1), np.inf)
    for begin in range(count):
        for end in range(begin + _SHORTEST, count + 1):
            slope, start = _line(places[begin:end], means[begin:end])
            line = start + slope * (places[begin:end] - places[begin])
            error[begin, end] = np.square(means[begin:end] - line).sum()
    best, cuts = error[0].copy(), [[0]] * (count + 1)
    floor = _EXACT * np.square(means - means.mean()).sum()
    for _ in range(MOST - 1):
        sums = best[:, None] + error  # [where the last phase begins, where it ends]
        begins = sums.argmin(axis=0)
        better = sums.min(axis=0)
        if better[count] > _WORTH * best[count] or best[count] <= floor:
            break
        cuts = [[*cuts[begin], int(begin)] for begin in begins]
        best = better
    return [*cuts[count], count]


def _line(places: np.ndarray, values: np.ndarray) -> tuple[float, float]:
    """Slope and first value of the straight line of least squares."""
    if len(values) < 2:
        return 0.0, float(values[0])
    apart = places - places.mean()
    slope = float((apart * values).sum() / np.square(apart).sum())
    return slope, float(values.mean() + slope * apart[0])
