"""Temperature scaling: logits divided by one number (arXiv 1706.04599).

The number is that of the least cross entropy on labelled images. As a function of its
inverse the cross entropy is convex: its slopes at both ends say whether there is a
least one, and Newton's method inside a bracket finds it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

_ITERATIONS = 100
_STEP = 4.0  # the most by which an iteration multiplies or divides
_CLOSE = 1e-8  # of the inverse temperature; the last step squares it
_WIDE = 1e4  # an interval that reaches so many times its value says nothing
_EQUAL = 1e-5  # a standard deviation of an image's logits that is rounding

# Gives the images' logits float64 [q c] and labels int [q], some images at a time.
Blocks = Callable[[], Iterable[tuple[np.ndarray, np.ndarray]]]


class Temperature(NamedTuple):
    """A fit.

    value: the temperature. low, high: its 95 % interval, None if there is none.
    problem: why the images determine none, "" if they do.
    """

    value: float
    low: float | None = None
    high: float | None = None
    problem: str = ""


class Judged(NamedTuple):
    """float64 [n] each: what probabilities say of n images.

    confidence: the largest one. loss: the cross entropy of the label, in nats. brier:
    the squared distance of the probabilities and the label's.
    """

    confidence: np.ndarray
    loss: np.ndarray
    brier: np.ndarray


def fit(blocks: Blocks, groups: np.ndarray) -> Temperature:
    """The temperature of the least cross entropy.

    It is 1 if each image's logits are equal, and NaN if none is the best: the lower the
    better, as if no image is wrong, or the higher, as if wrong ones are the surer. The
    interval is over draws of groups, by the sandwich's error of its inverse (K.-Y.
    Liang and S. Zeger 1986), and Student's t.

    Args:
      blocks: of at least one image, finite.
      groups: int [n], the images that vary together, such as copies of one.
    """
    ends = _ends(blocks)
    if ends.spread <= _EQUAL:
        return Temperature(1.0, problem="all classes tie, so the temperature stays 1")
    if ends.at_zero >= 0:
        why = "no temperature fits: confidence tells nothing of the images to fit"
        return Temperature(math.nan, problem=why)
    if ends.at_infinity <= 0:
        why = "no temperature fits: none of the images to fit is wrong"
        return Temperature(math.nan, problem=why)
    inverse, low, high = 1.0, 0.0, math.inf
    for _ in range(_ITERATIONS):
        found = _slope(blocks, inverse)
        low, high = (low, inverse) if found.mean > 0 else (inverse, high)
        tried = inverse - found.mean / max(found.curvature, 1e-300)
        tried = min(max(tried, inverse / _STEP), inverse * _STEP)
        if not low <= tried <= high:
            tried = math.sqrt(low * high)
        change, inverse = abs(tried - inverse), tried
        if change <= _CLOSE * inverse:
            break
    return Temperature(
        1 / inverse, *_interval(inverse, _slope(blocks, inverse), groups)
    )


def judge(blocks: Blocks, temperature: float) -> Judged:
    """What the softmax of logits / temperature says of each image."""
    parts = []
    for logits, labels in blocks():
        shares, losses = _softmax(logits / temperature, labels)
        own = shares[np.arange(len(labels)), labels]
        brier = (shares**2).sum(axis=1) - 2 * own + 1
        parts.append((shares.max(axis=1), losses, np.maximum(brier, 0)))
    if not parts:
        return Judged(*np.zeros((3, 0)))
    return Judged(*map(np.concatenate, zip(*parts, strict=True)))


class _Ends(NamedTuple):
    """The mean derivatives of the cross entropy by the inverse temperature, if that is
    0 and if it is infinite; and the largest standard deviation of an image's logits.
    """

    at_zero: float
    at_infinity: float
    spread: float


def _ends(blocks: Blocks) -> _Ends:
    zero, infinity, spread = [], [], 0.0
    for logits, labels in blocks():
        own = logits[np.arange(len(labels)), labels]
        zero.append(logits.mean(axis=1) - own)
        infinity.append(logits.max(axis=1) - own)
        spread = max(spread, float(logits.std(axis=1).max(initial=0)))
    at_zero, at_infinity = (
        float(np.concatenate(parts).mean()) for parts in (zero, infinity)
    )
    return _Ends(at_zero, at_infinity, spread)


class _Slope(NamedTuple):
    """The derivatives of the cross entropy by the inverse temperature.

    slopes: float64 [n], each image's first. curvature: the mean second.
    """

    slopes: np.ndarray
    curvature: float

    @property
    def mean(self) -> float:
        return float(self.slopes.mean())


def _slope(blocks: Blocks, inverse: float) -> _Slope:
    slopes, curvature = [], 0.0
    for logits, labels in blocks():
        logits = logits - logits.max(axis=1, keepdims=True)
        weights = np.exp(logits * inverse)
        total = weights.sum(axis=1)
        means = np.einsum("qc,qc->q", weights, logits) / total
        slopes.append(means - logits[np.arange(len(labels)), labels])
        squares = np.einsum("qc,qc,qc->q", weights, logits, logits) / total
        curvature += float(np.maximum(squares - means**2, 0).sum())
    every = np.concatenate(slopes)
    return _Slope(every, curvature / len(every))


def _softmax(logits: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities [q c], and the labels' cross entropies [q]."""
    logits = logits - logits.max(axis=1, keepdims=True)
    weights = np.exp(logits)
    total = weights.sum(axis=1)
    losses = np.log(total) - logits[np.arange(len(labels)), labels]
    return weights / total[:, None], losses


def _interval(
    inverse: float, found: _Slope, groups: np.ndarray
) -> tuple[float | None, float | None]:
    """The temperature's, symmetric in its logarithm."""
    import scipy.special  # here: its import takes long

    _, groups = np.unique(groups, return_inverse=True)
    count = int(groups.max()) + 1
    if count < 2 or not found.curvature > 0:
        return None, None
    sums = np.bincount(groups, found.slopes)
    error = math.sqrt(float((sums**2).sum()) * count / (count - 1))
    error /= len(found.slopes) * found.curvature * inverse
    half = float(scipy.special.stdtrit(count - 1, 0.975)) * error
    if not half < math.log(_WIDE):
        return None, None
    return math.exp(-half) / inverse, math.exp(half) / inverse
