"""The table of a reliability diagram, from the rows of evals=calibration.

rows = results.read("runs/x/evaluations/200-calibration").rows("calibration")
for one in reliability.bins(rows): print(one.count, one.confidence, one.accuracy.value)
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from clipjax.evals.common import confidence_bins
from clipjax.evals.common.intervals import Hits, share
from clipjax.types import Metric, Rows, UserError

MEASURED = "measured"  # the half of the images that metrics are of
NEEDED = ("label_set", "half", "hit", "confidence", "scaled_confidence")


class Bin(NamedTuple):
    """The images whose confidence is in a bin.

    low, high: what the bin holds: confidences above `low`, up to `high`; of bins of
    equal mass, its least and largest one. count: of images. confidence: their mean, NaN
    if there are none. accuracy: the share that is right, with Wilson's 95 % interval;
    NaN if there are none.
    """

    low: float
    high: float
    count: int
    confidence: float
    accuracy: Metric


def bins(
    rows: Rows,
    count: int = 15,
    *,
    label_set: str = "",
    scaled: bool = False,
    equal_mass: bool = False,
) -> list[Bin]:
    """The bins by confidence, of the half of the images that is measured.

    The mean over images of |confidence - accuracy| of their bin is the metric "ece", or
    "adaptive_ece" by equal mass, if `count` is the evaluator's `bins`.

    Args:
      rows: of calibration, as `results.Evaluation.rows` gives them.
      count: how many bins there are. Of equal width all are given, empty ones too; of
        equal mass those that have images.
      label_set: which; "" if there is only one.
      scaled: takes confidences after temperature scaling.
      equal_mass: bins of equal numbers of images, not of equal width.

    Raises UserError for rows of another evaluator, if there is no such label set, or
    for a count out of range.

    >>> rows = {"key": ["1", "2"], "label_set": ["pet"] * 2, "half": ["measured"] * 2,
    ...         "hit": [1.0, 0.0], "confidence": [0.9, 0.7],
    ...         "scaled_confidence": [0.8, 0.6]}
    >>> found = reliability.bins(rows, count=2)
    >>> found[1].low, found[1].count, found[1].confidence, found[1].accuracy.value
    (0.5, 2, 0.8, 0.5)
    """
    if not 1 <= count <= confidence_bins.MOST:
        raise UserError(f"count={count}: use 1 to {confidence_bins.MOST:,} bins")
    missing = [name for name in NEEDED if name not in rows]
    if missing:
        raise UserError(
            f"these rows have no {missing[0]}: give those of evals=calibration"
        )
    known = list(dict.fromkeys(rows["label_set"]))
    if not label_set and len(known) > 1:
        raise UserError(f"name one of the label sets {', '.join(known)}")
    if label_set and label_set not in known:
        raise UserError(
            f"the rows have no label set {label_set!r}: they have {', '.join(known)}"
        )
    column = np.asarray(rows["scaled_confidence" if scaled else "confidence"], float)
    kept = np.isfinite(column)
    kept &= np.array([half == MEASURED for half in rows["half"]], bool)
    if label_set:
        kept &= np.array([name == label_set for name in rows["label_set"]], bool)
    confidence, right = column[kept], np.asarray(rows["hit"], float)[kept]
    if equal_mass:
        own = confidence_bins.of_equal_mass(confidence, count)
        numbers = np.unique(own).tolist()
    else:
        own = confidence_bins.of_equal_width(confidence, count)
        numbers = list(range(count))
    found = []
    for number in numbers:
        inside = own == number
        values = confidence[inside]
        ends = number / count, (number + 1) / count
        if equal_mass:
            ends = float(values.min()), float(values.max())
        mean, accuracy = math.nan, Metric(math.nan, unit="fraction", n=0)
        if len(values):
            mean, accuracy = float(values.mean()), share(Hits(right[inside]))
        found.append(Bin(*ends, len(values), mean, accuracy))
    return found
