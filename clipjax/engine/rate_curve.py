"""The curve of a learning-rate range test: loss by rate, and the rates it suggests.

The rules are fastai's: `valley` is the middle of the longest falling subsequence of the
losses, `steepest` is where the loss falls fastest by the rate's logarithm, `tenth` is a
tenth of the rate with the lowest loss. All take losses smoothed by a mean of SMOOTH
steps around each. A loss of the subsequence is lower than the one before by STEP of the
whole fall, so that the noise of a flat part is no fall. `valley` is the suggestion,
because it is the least moved by noise.
"""

from __future__ import annotations

import csv
import math
import pathlib
from typing import NamedTuple

import numpy as np

from clipjax import atomic_files

SMOOTH = 7
RECENT = 3  # steps whose mean tells a divergence
STEP = 0.01  # of the whole fall
FELL = 0.02  # of the first loss: a smaller fall suggests nothing
_ROWS = 12  # of the printed table
RULES = {
    "valley": "the middle of the longest fall",
    "steepest": "where the loss falls fastest",
    "tenth": "a tenth of the rate with the lowest loss",
}


class Curve(NamedTuple):
    """rates, losses: float64 [n], of each step, before its update.
    diverged: whether the test ended because the loss did; its last loss may be NaN.
    """

    rates: np.ndarray
    losses: np.ndarray
    diverged: bool = False

    @property
    def smooth(self) -> np.ndarray:
        """The losses, each the mean of up to SMOOTH finite ones around it, [n]."""
        half, losses = SMOOTH // 2, self.losses
        return np.array(
            [
                _mean(losses[max(0, at - half) : at + half + 1])
                for at in range(len(losses))
            ]
        )


def has_diverged(losses: list[float]) -> bool:
    """Whether the loss of the steps so far has run away.

    It has if the last one is not finite, or if the mean of the last RECENT ones lies
    above the lowest such mean by more than the first loss, or by more than it had
    fallen by. A contrastive loss that has collapsed stays near its start: that is none.
    """
    if not math.isfinite(losses[-1]):
        return True
    if len(losses) < 2 * RECENT:
        return False
    means = np.convolve(losses, np.full(RECENT, 1 / RECENT), "valid")
    first, lowest = means[0], means.min()
    return bool(means[-1] - lowest > max(abs(first), first - lowest))


def suggestions(curve: Curve) -> dict[str, float]:
    """Rule -> rate; {} if the loss has not fallen by FELL of what it was at first."""
    smooth = curve.smooth
    known = np.isfinite(smooth)
    rates, losses = curve.rates[known], smooth[known]
    if len(losses) < SMOOTH:
        return {}
    lowest = int(losses.argmin())
    if losses[0] - losses[lowest] <= FELL * abs(losses[0]):
        return {}
    falling = _longest_fall(losses, STEP * (losses[0] - losses[lowest]))
    slopes = np.gradient(losses[: lowest + 1], np.log(rates[: lowest + 1]))
    return {
        "valley": float(rates[(falling[0] + falling[-1]) // 2]),
        "steepest": float(rates[int(slopes.argmin())]),
        "tenth": float(rates[lowest]) / 10,
    }


def _longest_fall(losses: np.ndarray, least: float) -> list[int]:
    """The places of the longest subsequence that falls by more than `least` each time.

    Of several it is the one that ends first and is the shortest in places.
    """
    lengths = np.ones(len(losses), int)
    before = np.full(len(losses), -1)
    for at in range(1, len(losses)):
        above = np.flatnonzero(losses[:at] > losses[at] + least)
        if len(above):
            best = max(above, key=lambda place: (lengths[place], place))
            lengths[at], before[at] = lengths[best] + 1, best
    place, found = int(lengths.argmax()), []
    while place >= 0:
        found.append(place)
        place = int(before[place])
    return found[::-1]


def describe(curve: Curve, now: float) -> list[str]:
    """The lines to print: some points of the curve, and what each rule suggests.

    now: the config's rate.
    """
    smooth, count = curve.smooth, len(curve.rates)
    shown = np.unique(np.linspace(0, count - 1, min(_ROWS, count)).round().astype(int))
    lines = [f"{'rate':>9}  {'loss':>9}  {'smoothed':>9}"]
    lines += [
        f"{curve.rates[at]:9.2e}  {curve.losses[at]:9.4f}  {smooth[at]:9.4f}"
        for at in shown
    ]
    if curve.diverged:
        lines.append(f"the loss diverged at rate {curve.rates[-1]:.2e}")
    found = suggestions(curve)
    if not found:
        return [
            *lines,
            f"no suggestion: the loss did not fall by {FELL:.0%} of what it was at "
            "first. Try a larger --find_steps, or another --find_range",
        ]
    lines += [f"{rule:>9}  {found[rule]:9.2e}  {text}" for rule, text in RULES.items()]
    value = f"{found['valley']:.2g}"
    lines.append(f"suggested: --config.optim.lr={value} (the config has {now:g})")
    return lines


def write_csv(curve: Curve, path: pathlib.Path) -> None:
    """Writes step, rate, loss and smoothed loss per row; raises OSError."""
    with atomic_files.open_to_write(path) as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(("step", "rate", "loss", "smoothed"))
        columns = curve.rates.tolist(), curve.losses.tolist(), curve.smooth.tolist()
        for step, row in enumerate(zip(*columns, strict=True), start=1):
            rows.writerow((step, *row))


def draw(curve: Curve, path: pathlib.Path) -> None:
    """Draws the curve with the suggestions, as SVG.

    Raises ImportError without matplotlib, and OSError.
    """
    import matplotlib.figure  # here: an extra, and slow to import

    figure = matplotlib.figure.Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    smooth = curve.smooth
    axes.semilogx(curve.rates, curve.losses, ".", color="0.7", label="loss")
    axes.semilogx(curve.rates, smooth, color="C0", label=f"mean of {SMOOTH}")
    for number, (rule, rate) in enumerate(suggestions(curve).items(), start=1):
        label = f"{rule} {rate:.2g}"
        axes.axvline(rate, color=f"C{number}", linestyle="--", label=label)
    usual = smooth[np.isfinite(smooth)]
    if len(usual):  # what has diverged would flatten the rest
        low, first = usual.min(), usual[0]
        margin = 0.1 * max(first - low, abs(first) * FELL)
        axes.set_ylim(low - margin, first + max(first - low, 5 * margin))
    axes.set(xlabel="learning rate", ylabel="training loss")
    axes.legend()
    with atomic_files.open_to_write(path, "wb") as file:
        figure.savefig(file, format="svg")


def _mean(values: np.ndarray) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else math.nan
