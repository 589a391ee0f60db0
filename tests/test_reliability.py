"""The bins of a reliability diagram, from rows."""

import math

import numpy as np
import pytest

from clipjax import reliability
from clipjax.types import UserError


def rows_of(label_set="pet"):
    """Six measured images of confidence, right; one to fit and one not finite."""
    confidence = [0.2, 0.5, 0.6, 0.9, 1.0, 0.85, 0.1, math.nan]
    right = [0.0, 1.0, 0.5, 1.0, 1.0, 0.0, 1.0, 0.0]
    return {
        "key": [f"{i}.png" for i in range(8)],
        "label_set": [label_set] * 8,
        "half": ["measured"] * 6 + ["fit", "measured"],
        "hit": np.array(right),
        "confidence": np.array(confidence),
        "scaled_confidence": np.array(confidence) / 2,
    }


def test_bins_of_equal_width_by_hand():
    found = reliability.bins(rows_of(), 4)
    assert [(one.low, one.high) for one in found] == [
        (0.0, 0.25),
        (0.25, 0.5),
        (0.5, 0.75),
        (0.75, 1.0),
    ]
    assert [one.count for one in found] == [1, 1, 1, 3]
    means = [0.2, 0.5, 0.6, 2.75 / 3]
    assert [one.confidence for one in found] == pytest.approx(means)
    shares = [0, 1, 0.5, 2 / 3]
    assert [one.accuracy.value for one in found] == pytest.approx(shares)
    # Wilson's interval of two of three.
    assert found[3].accuracy.low == pytest.approx(0.2077, abs=1e-4)
    assert found[3].accuracy.high == pytest.approx(0.9385, abs=1e-4)
    assert found[3].accuracy.n == 3
    empty = reliability.bins(rows_of(), 15)
    assert len(empty) == 15 and sum(one.count for one in empty) == 6
    first = empty[0]
    assert first.count == first.accuracy.n == 0
    assert math.isnan(first.confidence) and math.isnan(first.accuracy.value)
    scaled = reliability.bins(rows_of(), 4, scaled=True)
    assert [one.count for one in scaled] == [2, 4, 0, 0]


def test_bins_of_equal_mass_by_hand():
    found = reliability.bins(rows_of(), 3, equal_mass=True)
    assert [(one.low, one.high, one.count) for one in found] == [
        (0.2, 0.5, 2),
        (0.6, 0.85, 2),
        (0.9, 1.0, 2),
    ]
    assert [one.accuracy.value for one in found] == pytest.approx([0.5, 0.25, 1])
    assert [one.confidence for one in found] == pytest.approx([0.35, 0.725, 0.95])
    assert len(reliability.bins(rows_of(), 50, equal_mass=True)) == 6


def test_label_sets_are_apart():
    one, other = rows_of(), rows_of("size")
    other["confidence"] = other["confidence"] / 2
    both = {
        name: np.concatenate([one[name], other[name]])
        if isinstance(one[name], np.ndarray)
        else one[name] + other[name]
        for name in one
    }

    def counts(rows, **options):
        return [x.count for x in reliability.bins(rows, 4, **options)]

    assert counts(both, label_set="pet") == counts(one) == [1, 1, 1, 3]
    assert counts(both, label_set="size") == counts(other) == [2, 4, 0, 0]
    with pytest.raises(UserError, match="one of the label sets pet, size"):
        reliability.bins(both)
    with pytest.raises(UserError, match="no label set 'sise': they have pet, size"):
        reliability.bins(both, label_set="sise")


def test_other_rows_are_refused():
    with pytest.raises(UserError, match="no half: give those of evals=calibration"):
        reliability.bins({"key": ["a"], "label_set": ["pet"], "rank": [1.0]})
    with pytest.raises(UserError, match="count=0"):
        reliability.bins(rows_of(), 0)
    with pytest.raises(UserError, match="count=1000000000: use 1 to 10,000 bins"):
        reliability.bins(rows_of(), 10**9)


def test_no_images_are_no_error():
    rows = rows_of()
    rows["confidence"] = np.full(8, np.nan)
    assert [one.count for one in reliability.bins(rows, 2)] == [0, 0]
    assert reliability.bins(rows, 2, equal_mass=True) == []
