"""Our convolutional towers against torchvision's, open_clip's and timm's.

1e-4 of the largest value in float32. The published sizes are compared in training in
float64: in float32 a rounding error moves some activation across the kink of its ReLU.
"""

from __future__ import annotations

import dataclasses
import functools

import conv_towers
import hf_clip
import make_conv_goldens
import numpy as np
import pytest
from conv_towers import CASES, WHOLE
from marks import mostly

KEYS = ["pooled", "tokens"]
KEYS_IN_TRAINING = ["pooled_after", "train_pooled"]


def assert_near(ours, theirs, tolerance=1e-4):
    """Equal to `tolerance` of the largest value of each array, but for those that are
    nothing beside the rest: a key's bias has no gradient.
    """
    assert sorted(ours) == sorted(theirs)
    tiny = 1e-5 * max(np.abs(expected).max() for expected in theirs.values())
    for name, expected in theirs.items():
        assert ours[name].shape == expected.shape, name
        assert ours[name].dtype == expected.dtype, name
        largest = max(np.abs(expected).max(), tiny)
        worst = np.abs(ours[name] - expected).max() / largest
        assert worst < tolerance, f"{name}: off by {worst:.1e} of the largest value"


@functools.cache
def our_results(name):
    return conv_towers.our_results(CASES[name])


@pytest.mark.parametrize("name", mostly(CASES, ["bottleneck", "convnext_xx"]))
def test_goldens(name):
    with np.load(make_conv_goldens.PATH) as file:
        goldens = {
            key.partition("/")[2]: file[key]
            for key in file
            if key.partition("/")[0] == name
        }
    normed = CASES[name].kind != "convnext"
    assert sorted(goldens) == sorted(KEYS + KEYS_IN_TRAINING * normed)
    # Images that hardly differ would hide an error.
    pooled = goldens["pooled"]
    assert np.ptp(pooled, axis=0).max() > 0.02 * np.abs(pooled).max()
    assert_near(our_results(name), goldens)


@pytest.mark.parity
@pytest.mark.parametrize("name", CASES)
def test_live(name):
    skip_without_reference()
    assert_near(our_results(name), conv_towers.their_results(CASES[name]))


@pytest.mark.slow
@pytest.mark.parity
@pytest.mark.parametrize("name", CASES)
def test_training(name):
    skip_without_reference()
    case = CASES[name]
    ours, theirs = conv_towers.our_training(case), conv_towers.their_training(case)
    assert_near(ours, theirs)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parity
@pytest.mark.parametrize("name", WHOLE)
def test_published_sizes(name):
    skip_without_reference()
    case = WHOLE[name]
    ours, theirs = conv_towers.our_results(case), conv_towers.their_results(case)
    for results in (ours, theirs):
        results.pop("train_pooled", None)
    assert_near(ours, theirs)
    case = dataclasses.replace(case, dtype="float64")
    ours, theirs = conv_towers.our_results(case), conv_towers.their_results(case)
    assert_near(ours, theirs, 1e-9)
    ours, theirs = conv_towers.our_training(case), conv_towers.their_training(case)
    assert_near(ours, theirs, 1e-9)


def skip_without_reference():
    pytest.importorskip("torch")
    hf_clip.import_torch()  # or torchvision might not import
    for module in ("torchvision", "open_clip", "timm"):
        pytest.importorskip(module)
