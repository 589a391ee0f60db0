"""Our maps against PyTorch's of others' models with the same weights."""

from __future__ import annotations

import functools

import conv_towers
import hf_clip
import jax
import make_goldens
import make_map_goldens
import map_references
import numpy as np
import pytest
from marks import mostly

from clipjax.models import two_tower
from clipjax.models.text import transformer
from clipjax.saliency.image_maps import ImageMaps
from clipjax.saliency.word_relevance import TextRelevance

NAMES = map_references.TRANSFORMERS + map_references.CONVOLUTIONS


def of_transformer(name):
    case = hf_clip.CASES[name]
    model = hf_clip.our_model(case)
    arrays = {key: hf_clip.weight(key, x) for key, x in hf_clip.shapes(case).items()}
    variables, given = {"params": hf_clip.convert(case, arrays)}, hf_clip.inputs(case)
    image = jax.jit(model.encode_image)(variables, given["image"])["image_embed"]
    ids, mask = given["text"], given["text_mask"]
    texts = jax.jit(model.encode_text)(variables, ids, mask)["text_embed"]
    image, texts = np.asarray(image), np.asarray(texts)
    maps = ImageMaps(model, variables)
    assert maps.methods == ("chefer", "grad_eclip", "maskclip", "attention")
    found = {"heads": flat(maps.heads(given["image"]))}
    for method in ("grad_eclip", "chefer", "maskclip"):
        made, found["cosines"] = maps(given["image"], texts, method)
        found[method] = flat(made)
    words = TextRelevance(model, variables, lambda rows: (ids, mask))
    for method in ("grad_eclip", "chefer"):
        found[f"text_{method}"] = words.tokens([""] * len(ids), image, method)[0]
    return found


def flat(maps):
    return maps.reshape(*maps.shape[:2], -1)


def of_convolutions(name):
    """The tower's own output is the embedding, of images that need no normalisation."""
    case = conv_towers.CASES[name]
    variables = conv_towers.our_variables(case)
    image = conv_towers.tower(case)
    text = transformer.make(5, 4, width=8, depth=1, heads=1)
    pixels = conv_towers.images(case, 0).astype(np.float32)
    shape = jax.eval_shape(lambda x: image.apply(variables, x, False), pixels)[
        "pooled"
    ].shape
    model = two_tower.make(
        image,
        text,
        embed_dim=shape[1],
        image_head="none",
        mean=(0.0,) * 3,
        std=(1.0,) * 3,
    )
    inside = {kind: {"image": tree} for kind, tree in variables.items()}
    inside["params"]["logit_scale"] = np.float32(0)
    maps = ImageMaps(model, inside)
    assert maps.methods[0] == "grad_cam"
    targets = map_references.conv_targets(shape[1]).astype(np.float32)
    return {"grad_cam": maps(pixels, targets)[0]}


@functools.cache
def our_maps(name):
    one = of_transformer if name in map_references.TRANSFORMERS else of_convolutions
    return one(name)


def assert_near(ours, theirs):
    assert sorted(ours) == sorted(theirs)
    for name, expected in theirs.items():
        assert ours[name].shape == expected.shape, name
        largest = np.abs(expected).max()
        assert largest > 0, name
        worst = np.abs(ours[name] - expected).max() / largest
        assert worst < 2e-4, f"{name}: off by {worst:.1e} of the largest value"


@pytest.mark.parametrize("name", mostly(NAMES, []))
def test_goldens(name):
    with np.load(make_map_goldens.PATH) as file:
        theirs = {
            key.partition("/")[2]: file[key]
            for key in file
            if key.partition("/")[0] == name
        }
    assert_near(our_maps(name), theirs)


@pytest.mark.parity
@pytest.mark.parametrize("name", NAMES)
def test_live(name):
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    assert_near(our_maps(name), map_references.their_maps(name))


@pytest.mark.slow
def test_a_released_size():
    """A ViT-B/32 has 7 x 7 places, 12 heads, and the published cosines beside them."""
    case = hf_clip.CASES["vit_b32"]
    model, given = hf_clip.our_model(case), hf_clip.inputs(case)
    arrays = {key: hf_clip.weight(key, x) for key, x in hf_clip.shapes(case).items()}
    variables = {"params": hf_clip.convert(case, arrays)}
    texts = model.encode_text(variables, given["text"], given["text_mask"])
    maps = ImageMaps(model, variables)
    found, cosines = maps(given["image"], np.asarray(texts["text_embed"]))
    assert found.shape == (3, 4, 7, 7) and np.isfinite(found).all() and found.max() > 0
    assert maps.heads(given["image"]).shape == (3, 12, 7, 7)
    with np.load(make_goldens.PATH) as file:
        logits = file["vit_b32/logits"]
    np.testing.assert_allclose(cosines / 0.07, logits, atol=2e-4 * np.abs(logits).max())
