"""Evaluation pixels against torchvision's and open_clip's transforms, bit for bit.

Before normalisation, which is done on the device. Images are read from encoded bytes by
our decoder on one side and by Image.open, as OpenAI's CLIP does, on the other.
"""

from __future__ import annotations

import io

import hf_clip
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from image_tools import encoded, picture
from PIL import Image

from clipjax.data.images import decoding, preprocess
from clipjax.types import BadExample

torch = pytest.importorskip("torch")

pytestmark = pytest.mark.parity


@pytest.fixture(scope="module")
def theirs():
    """name -> (size -> transform of a PIL image to uint8 [h w 3])."""
    hf_clip.import_torch()
    transforms = pytest.importorskip("torchvision.transforms")
    make = pytest.importorskip("open_clip.transform").image_transform
    bicubic = transforms.InterpolationMode.BICUBIC

    def openai(size):
        steps = [transforms.Resize(size, bicubic), transforms.CenterCrop(size)]
        chain = transforms.Compose(steps)
        return lambda image: np.asarray(chain(image).convert("RGB"))

    def open_clip(size):
        chain = make(size, is_train=False, mean=(0.0,) * 3, std=(1.0,) * 3)

        def apply(image):
            scaled = chain(image).numpy() * 255
            assert np.abs(scaled - np.rint(scaled)).max() < 1e-4
            return np.rint(scaled).astype(np.uint8).transpose(1, 2, 0)

        return apply

    return {"openai": openai, "open_clip": open_clip}


def with_exif(image, format, **options):
    exif = Image.Exif()
    exif[decoding.ORIENTATION_TAG] = 6
    return encoded(image, format, exif=exif, **options)


def transparent_palette(image):
    made = image.quantize(17)
    return encoded(made, "PNG", transparency=3)


# What files hold: form -> the bytes of a picture in RGB.
FORMS = {
    "JPEG": lambda image: encoded(image, "JPEG"),
    "JPEG 4:2:0, progressive": lambda image: encoded(
        image, "JPEG", quality=60, subsampling=2, progressive=True
    ),
    "grey JPEG": lambda image: encoded(image.convert("L"), "JPEG"),
    "CMYK JPEG": lambda image: encoded(image.convert("CMYK"), "JPEG"),
    "CMYK TIFF": lambda image: encoded(image.convert("CMYK"), "TIFF"),
    "PNG": lambda image: encoded(image),
    "grey PNG": lambda image: encoded(image.convert("L")),
    "grey PNG with alpha": lambda image: encoded(with_alpha(image).convert("LA")),
    "PNG with alpha": lambda image: encoded(with_alpha(image)),
    "palette PNG": lambda image: encoded(image.quantize(200)),
    "transparent palette": transparent_palette,
    "PNG of one bit": lambda image: encoded(image.convert("1")),
    "GIF": lambda image: encoded(image, "GIF"),
    "two frames": lambda image: encoded(
        image, "GIF", save_all=True, append_images=[Image.new("RGB", image.size)]
    ),
    "WebP": lambda image: encoded(image, "WEBP"),
    "WebP with alpha": lambda image: encoded(with_alpha(image), "WEBP", lossless=True),
    "BMP": lambda image: encoded(image, "BMP"),
    "turned JPEG": lambda image: with_exif(image, "JPEG"),
    "turned PNG": lambda image: with_exif(image, "PNG"),
}
# Whose conversion to RGB comes after resizing there, and before it in `clip`.
CONVERTED = {form for form in FORMS if "alpha" in form or "palette" in form} | {
    *("CMYK JPEG", "CMYK TIFF", "PNG of one bit", "GIF", "two frames")
}
TURNED = {"turned JPEG", "turned PNG"}


def with_alpha(image):
    alpha = np.random.default_rng(5).integers(0, 256, image.size[::-1], np.uint8)
    return Image.merge("RGBA", [*image.split(), Image.fromarray(alpha)])


SHAPES = [(48, 48), (48, 49), (97, 61), (30, 200), (201, 30), (7, 5), (1, 1), (1, 150)]


@pytest.mark.parametrize("name", ["openai", "open_clip"])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_file(theirs, name, form):
    different = False
    for size in (1, 31, 48, 64):
        expected = theirs[name](size)
        ours, upright = preprocess.openai(size), preprocess.clip(size)
        for seed, shape in enumerate(SHAPES):
            data = FORMS[form](picture(*shape, seed=seed))
            wanted = expected(Image.open(io.BytesIO(data)))
            np.testing.assert_array_equal(ours(data), wanted, err_msg=f"{shape} {size}")
            different |= bool((upright(data) != wanted).any())
    # The default preprocessing differs where the documentation says so, and only there.
    assert different == (form in CONVERTED | TURNED)


@pytest.mark.parametrize("name", ["openai", "open_clip"])
@settings(max_examples=150, deadline=None)
@given(
    height=st.integers(1, 400),
    width=st.integers(1, 400),
    size=st.sampled_from([1, 2, 3, 7, 16, 31, 32, 33, 64, 95, 128, 224, 225, 336]),
    mode=st.sampled_from(["RGB", "L", "P", "RGBA", "LA", "CMYK", "1"]),
)
def test_any_size(theirs, name, height, width, size, mode):
    if max(height, width) * size > 60_000 * min(height, width):
        size = 16
    given_ = picture(height, width, seed=height).convert(mode)
    if max(height, width) > preprocess.MAX_ASPECT * min(height, width):
        with pytest.raises(BadExample, match="too narrow"):
            preprocess.openai(size)(given_)
        return
    wanted = theirs[name](size)(given_)
    np.testing.assert_array_equal(preprocess.openai(size)(given_), wanted)
    if mode in ("RGB", "L"):
        np.testing.assert_array_equal(preprocess.clip(size)(given_), wanted)


@pytest.mark.parametrize("size", [224, 336])
def test_photographs(theirs, shared_data, size):
    folder = shared_data / "flickr8k_original_200" / "Images"
    transform = theirs["open_clip"](size)
    paths = sorted(folder.iterdir())[: 2 * size // 7]
    assert len(paths) > 50
    for path in paths:
        data = path.read_bytes()
        wanted = transform(Image.open(io.BytesIO(data)))
        for ours in (preprocess.openai(size), preprocess.clip(size)):
            np.testing.assert_array_equal(ours(data), wanted)


def test_what_differs_by_choice(theirs):
    """16-bit grey keeps its upper bits here, and is clipped to white there."""
    wide = np.linspace(0, 65535, 48 * 48).reshape(48, 48).astype(np.uint16)
    data = encoded(Image.fromarray(wide))
    wanted = theirs["openai"](48)(Image.open(io.BytesIO(data)))
    ours = preprocess.openai(48)(data)
    assert (wanted[10:] == 255).all()
    np.testing.assert_array_equal(ours[..., 0], wide >> 8)
    with pytest.raises(BadExample, match="float pixels"):
        preprocess.openai(48)(encoded(Image.fromarray(wide.astype("f4")), "TIFF"))
