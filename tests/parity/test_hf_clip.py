"""Our CLIP against Hugging Face's with the same weights: 1e-4 of the largest value."""

from __future__ import annotations

import hf_clip
import make_goldens
import numpy as np
import pytest


def assert_near(ours, theirs):
    for name, expected in theirs.items():
        assert ours[name].shape == expected.shape, name
        worst = np.abs(ours[name] - expected).max() / np.abs(expected).max()
        assert worst < 1e-4, f"{name}: off by {worst:.1e} of the largest value"


@pytest.mark.parametrize("name", hf_clip.CASES)
def test_goldens(name):
    with np.load(make_goldens.PATH) as file:
        goldens = {
            key.partition("/")[2]: file[key]
            for key in file
            if key.partition("/")[0] == name
        }
    assert sorted(goldens) == ["image_features", "logits", "text_features"]
    # Logits that hardly differ would hide an error.
    assert np.ptp(goldens["logits"]) > 0.5
    assert_near(hf_clip.our_results(hf_clip.CASES[name]), goldens)


@pytest.mark.parity
@pytest.mark.parametrize("name", hf_clip.CASES)
def test_live(name):
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    case = hf_clip.CASES[name]
    assert_near(hf_clip.our_results(case), hf_clip.their_results(case))
