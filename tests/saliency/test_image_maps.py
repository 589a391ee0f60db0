"""Maps of every kind of image tower; tests/parity has the numbers."""

import numpy as np
import pytest
from marks import mostly
from saliency_tools import directions, model, pixels, variables

from clipjax.models.common import lora
from clipjax.models.common.layers import PRECISIONS
from clipjax.models.two_tower import TwoTowerModel
from clipjax.saliency.image_maps import ImageMaps
from clipjax.types import UserError

TOWERS = {
    "cls": ("vit", {}),
    "mean": ("vit", {"pool": "mean"}),
    "mean, class token": ("vit", {"pool": "mean", "class_token": True}),
    "map": ("vit", {"pool": "map"}),
    "query": ("vit", {"pool": "query", "pool_width": 12, "pool_heads": 2}),
    "cropped": ("vit", {"side": 21, "crop_to_patches": True}),
    "post-norm blocks": ("vit", {"post_norm": True}),
    "eva": ("eva", {}),
    "resnet": ("resnet", {"side": 64}),
    "modified_resnet": ("modified_resnet", {"side": 64}),
    "convnext": ("convnext", {"side": 64}),
}


@pytest.mark.thorough
@pytest.mark.parametrize("name", TOWERS)
def test_every_tower(name):
    """Maps differ by text, are finite, and come with the model's own cosines."""
    kind, options = TOWERS[name]
    side = options.get("side", 16)
    made = model(kind, **options)
    own = variables(made)
    images, texts = pixels(3, side), directions(2)
    embed = np.asarray(made.encode_image(own, images)["image_embed"])
    maps = ImageMaps(made, own)
    tokens = kind in ("vit", "eva")
    assert maps.methods[0] == ("chefer" if tokens else "grad_cam")
    for method in maps.methods:
        found, cosines = maps(images, texts, method)
        assert found.shape == (3, 2, 2, 2) and found.dtype == np.float32, method
        np.testing.assert_allclose(cosines, embed @ texts.T, atol=2e-5)
        assert np.isfinite(found).all() and np.ptp(found, axis=(2, 3)).max() > 0
        if method == "attention":
            np.testing.assert_array_equal(found[:, 0], found[:, 1])
            heads = maps.heads(images)
            np.testing.assert_allclose(heads.mean(axis=1), found[:, 0], rtol=1e-5)
            # Without what a class token sees of itself.
            assert (heads.sum(axis=(2, 3)) <= 1 + 1e-5).all()
        else:
            assert not np.allclose(found[:, 0], found[:, 1]), method
            assert method == "maskclip" or found.min() == 0 or method == "chefer"


@pytest.mark.thorough
def test_a_map_depends_on_its_own_image_and_text():
    made = model()
    own, images, texts = variables(model()), pixels(11), directions(3)
    maps = ImageMaps(made, own)
    every, _ = maps(images, texts)  # in two batches, of which one is padded
    for image in (0, 10):
        one, _ = maps(images[image : image + 1], texts)
        np.testing.assert_allclose(one[0], every[image], rtol=2e-3, atol=1e-5)
    each, _ = maps(images[:3], texts[:, None])  # each image's own text
    np.testing.assert_allclose(
        each[:, 0], every[np.arange(3), np.arange(3)], rtol=2e-3, atol=1e-5
    )


@pytest.mark.thorough
def test_scale_and_sum_of_texts():
    """Gradients are linear in the text: twice a text has twice the map, and MaskCLIP's
    map of a sum is the sum of maps.
    """
    made = model(depth=1)
    maps, images = ImageMaps(made, variables(made)), pixels(2)
    one, other = directions(2)[:, None]
    for method in ("grad_eclip", "chefer", "maskclip"):
        single, _ = maps(images, one, method)
        double, _ = maps(images, 2 * one, method)
        np.testing.assert_allclose(double, 2 * single, rtol=1e-4, atol=1e-6)
    total, _ = maps(images, one + other, "maskclip")
    parts = maps(images, one, "maskclip")[0] + maps(images, other, "maskclip")[0]
    np.testing.assert_allclose(total, parts, rtol=1e-4, atol=1e-6)


@pytest.mark.thorough
@pytest.mark.parametrize("pool", mostly(["mean", "map"], ["map"]))
def test_maskclip_of_equal_patches_is_the_similarity(pool):
    """Attention between equal patches takes their value: leaving it out is nothing."""
    made = model(pool=pool)
    own = variables(made)
    own["params"]["image"]["positions"] *= 0
    images = np.broadcast_to(pixels(2, 1), (2, 16, 16, 3))
    found, cosines = ImageMaps(made, own)(images, directions(), "maskclip")
    expected = np.broadcast_to(cosines[..., None, None], found.shape)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.thorough
def test_forms_of_a_model():
    """Rematerialisation changes nothing, LoRA is merged, bfloat16 is near."""
    made = model()
    own, images, texts = variables(made), pixels(), directions()
    plain, _ = ImageMaps(made, own)(images, texts)
    spent = ImageMaps(model(remat=True), own)
    np.testing.assert_allclose(spent(images, texts)[0], plain, rtol=1e-4, atol=1e-6)
    added = lora.add(made, rank=2, alpha=2.0, on="qkv/kernel$")
    with_lora = {"params": {**own["params"], "lora": zeros(added)}}
    merged = ImageMaps(added, with_lora)
    np.testing.assert_allclose(merged(images, texts)[0], plain, rtol=1e-4, atol=1e-6)
    half = PRECISIONS["bfloat16"]
    module = made.module
    module = module.clone(
        image=module.image.clone(dtype=half), text=module.text.clone(dtype=half)
    )
    near, _ = ImageMaps(TwoTowerModel(module), own)(images, texts)
    assert np.abs(near - plain).max() < 0.1 * plain.max()


def zeros(added):
    import jax

    shapes = jax.eval_shape(added.init, jax.random.key(0))["params"]["lora"]
    return jax.tree.map(lambda x: np.zeros(x.shape, "f4"), shapes)


def test_what_cannot_be_mapped():
    made = model()
    with pytest.raises(UserError, match="'grad_cam': must be one of chefer, grad_ec"):
        ImageMaps(made, variables(made))(pixels(), directions(), "grad_cam")

    class Other:
        pass

    with pytest.raises(UserError, match="two towers|two_tower.*this is a Other"):
        ImageMaps(Other(), {})  # pyright: ignore
