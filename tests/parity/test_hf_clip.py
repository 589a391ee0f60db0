"""Our CLIP against Hugging Face's with the same weights: 1e-4 of the largest value."""

from __future__ import annotations

import hf_clip
import make_goldens
import numpy as np
import pytest
from marks import mostly

from clipjax.encoder import Encoder


def assert_near(ours, theirs):
    for name, expected in theirs.items():
        assert ours[name].shape == expected.shape, name
        worst = np.abs(ours[name] - expected).max() / np.abs(expected).max()
        assert worst < 1e-4, f"{name}: off by {worst:.1e} of the largest value"


CASES = mostly(hf_clip.CASES, ["quick_gelu"])


@pytest.mark.parametrize("name", CASES)
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


@pytest.mark.parametrize("name", CASES)
def test_pooled_features_are_what_the_projection_takes(name):
    """Through an Encoder: times their projection, they are the published features."""
    case = hf_clip.CASES[name]
    arrays = {key: hf_clip.weight(key, x) for key, x in hf_clip.shapes(case).items()}
    variables, given = {"params": hf_clip.convert(case, arrays)}, hf_clip.inputs(case)

    def tokenizer(texts):
        rows = [int(text or 0) for text in texts]
        return given["text"][rows].astype("i4"), given["text_mask"][rows]

    encoder = Encoder(hf_clip.our_model(case), tokenizer, lambda image: image)
    encoder.image_shape = given["image"].shape[1:]
    images = encoder.images(variables, list(given["image"]), pooled=True)
    numbers = [str(row) for row in range(len(given["text"]))]
    embed, pooled = encoder.pooled_texts(variables, numbers)
    with np.load(make_goldens.PATH) as file:
        for side, ours, unit, weight in (
            ("image", images.pooled, images.embed, "visual_projection.weight"),
            ("text", pooled, embed, "text_projection.weight"),
        ):
            golden = file[f"{name}/{side}_features"]
            features = ours @ arrays[weight].T
            assert_near({side: features}, {side: golden})
            norms = np.linalg.norm(golden, axis=1, keepdims=True)
            np.testing.assert_allclose(unit, golden / norms, atol=1e-4)


@pytest.mark.parity
@pytest.mark.parametrize("name", hf_clip.CASES)
def test_live(name):
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    case = hf_clip.CASES[name]
    assert_near(hf_clip.our_results(case), hf_clip.their_results(case))
