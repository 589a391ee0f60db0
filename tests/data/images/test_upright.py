"""Training turns images upright by EXIF exactly where the evaluation does."""

import io

import numpy as np
import pytest
from image_tools import encoded, picture
from PIL import Image, ImageOps

from clipjax import registry
from clipjax.config import base
from clipjax.data.images import crops, opencv, preprocess
from clipjax.engine import assemble
from clipjax.types import UserError

SIDE = 24
WHOLE = {"scale": (1.0, 1.0), "ratio": (1.0, 1.0)}


def turned(orientation, format="JPEG"):
    """A square picture whose halves differ, with an EXIF orientation."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    given = picture(SIDE, SIDE)
    given.paste((250, 10, 10), (0, 0, SIDE, SIDE // 3))
    given.paste((10, 10, 250), (0, 0, SIDE // 3, SIDE))
    return encoded(given, format, exif=exif)


def training(words, **options):
    options = {"data": {"image_size": SIDE}} | options
    if "augment=crop" in words:
        options["data.augment=crop"] = WHOLE | options.get("data.augment=crop", {})
    return assemble.augment(base(words, data="scenes", options=options))


def pixels(augment, data):
    return augment(data, np.random.default_rng(0)).astype(float)


def reference(data, upright):
    """By Pillow's own hand: as it lies, or upright."""
    image = Image.open(io.BytesIO(data))
    return np.asarray(ImageOps.exif_transpose(image) if upright else image, float)


FORMS = {
    "pillow": ("augment=crop", {}),
    "draft": ("augment=crop", {"data.augment=crop": {"draft": True}}),
    "opencv": ("augment=crop", {"data.augment=crop": {"decoder": "opencv"}}),
    "none": ("augment=none", {}),
    "a step alone": ("augment=flip", {"data.augment=flip": {"p": 0.0}}),
    "after it": ("augment=crop+grayscale", {"data.augment=grayscale": {"p": 0.0}}),
}


@pytest.mark.parametrize("words", ["openai", "clip", "squash"])
@pytest.mark.parametrize("form", FORMS)
def test_training_lies_as_the_evaluation_does(form, words):
    augment, options = FORMS[form]
    if form == "opencv":
        pytest.importorskip("cv2")
    made = training(f"{augment},preprocess={words}", **options)
    for orientation in (3, 6, 5):
        data = turned(orientation)
        found = pixels(made, data)
        np.testing.assert_array_equal(found, reference(data, words != "openai"))
        plain = registry.load("preprocess", words)(SIDE)
        np.testing.assert_array_equal(found, plain(data))


def test_squash_may_leave_images_as_they_lie():
    options = {"data.preprocess=squash": {"exif": False}}
    made = training("augment=crop,preprocess=squash", **options)
    data = turned(6, "PNG")
    np.testing.assert_array_equal(pixels(made, data), reference(data, False))


def test_a_crop_that_lies_where_the_evaluation_is_upright_is_refused():
    lying = {"data.augment=crop": {"exif": False}}
    with pytest.raises(UserError, match="the evaluation turns images upright"):
        training("augment=crop,preprocess=clip", **lying)
    made = training("augment=crop,preprocess=openai", **lying)
    assert isinstance(made, crops.Crop) and not made.exif


def test_none_has_the_pixels_of_the_evaluation_chosen():
    data = encoded(picture(40, 60))
    made = training("augment=none,preprocess=squash")
    np.testing.assert_array_equal(pixels(made, data), preprocess.squash(SIDE)(data))
    assert not np.array_equal(pixels(made, data), preprocess.clip(SIDE)(data))


def test_a_preprocess_that_says_nothing_leaves_the_crop_as_it_is():
    crop = crops.Crop(SIDE, (1, 1), (1, 1), 0, 0, 0, False, False, "pillow")
    assert crop.as_evaluated(lambda image: np.asarray(image)) == crop
    assert opencv.UPRIGHT.keys() == {2, 3, 4, 5, 6, 7, 8}
