"""Writes goldens/corruptions.npz by ImageNet-C's own program; not a part of the tests.

    pip install --no-deps imagenet-c scikit-image opencv-python-headless
    python tests/data/images/make_corruption_goldens.py

made by imagenet-c 0.0.3, scikit-image 0.26, opencv 5.0, numpy 2.4. Random numbers come
from numpy's default_rng(SEED), anew for each image. An array per kind, uint8
[severities 10 10 3]: some pixels of `picture()`; and "means", float [kinds severities
3]: of all.
"""

import pathlib
import sys
import types

import numpy as np

PLACE = pathlib.Path(__file__).parent / "goldens" / "corruptions.npz"
SEED = 5
SOME = np.s_[3::24, 3::24]
KINDS = (
    "gaussian_noise",
    "shot_noise",
    "impulse_noise",
    "defocus_blur",
    "glass_blur",
    "zoom_blur",
    "fog",
    "brightness",
    "contrast",
    "elastic_transform",
    "pixelate",
)


def picture():
    """uint8 [224 224 3]: rough slopes, stripes, a black and a white square, a disk.

    Rough, because a blurred slope has whole levels, which rounding moves.
    """
    rows, columns = np.mgrid[:224, :224]
    image = np.stack([rows, columns, (rows * 3 + columns * 5) % 256], axis=-1)
    image = (image * 0.9 + (rows * columns * 7 + rows * 31)[..., None] % 23).astype(int)
    image[40:80, 50:90], image[40:80, 120:160] = 0, 255
    image[(rows - 150) ** 2 + (columns - 100) ** 2 < 900] = (200, 30, 40)
    image[120:200:4, 150:210] = (20, 90, 160)
    return image.astype(np.uint8)


def program():
    """The authors' module, whose other needs are replaced by nothing."""
    import scipy.ndimage
    import skimage.filters
    import skimage.util

    for name in ("wand", "wand.image", "wand.api", "wand.color", "pkg_resources"):
        module = sys.modules[name] = types.ModuleType(name)
        module.__dict__.update(
            Image=object, library=types.SimpleNamespace(), resource_filename=None
        )
    sys.modules["wand.api"].library.MagickMotionBlurImage = types.SimpleNamespace()
    sys.modules["wand"].color = sys.modules["wand.color"]
    old = sys.modules["scipy.ndimage.interpolation"] = types.ModuleType("old")
    old.map_coordinates = scipy.ndimage.map_coordinates
    np.float_ = np.float64
    plain, noise = skimage.filters.gaussian, skimage.util.random_noise

    def gaussian(image, sigma, multichannel=False, **more):
        return plain(image, sigma, channel_axis=-1 if multichannel else None, **more)

    skimage.filters.gaussian = gaussian
    skimage.util.random_noise = lambda x, **more: noise(x, rng=RANDOM.rng, **more)
    import imagenet_c.corruptions as module

    module.np = types.ModuleType("numpy")
    module.np.__dict__.update(vars(np))
    module.np.random = RANDOM
    return module


class Random:
    """The functions of numpy.random that the program calls, by a new generator."""

    rng = np.random.default_rng(SEED)

    def normal(self, size, scale):
        return self.rng.normal(scale=scale, size=size)

    def poisson(self, expected):
        return self.rng.poisson(expected)

    def uniform(self, low, high, size):
        return self.rng.uniform(low, high, size)

    def randint(self, low, high, size):
        return self.rng.integers(low, high, size)


RANDOM = Random()


def main():
    from PIL import Image

    module = program()
    arrays, means = {}, []
    for kind in KINDS:
        images = []
        for severity in range(1, 6):
            RANDOM.rng = np.random.default_rng(SEED)
            found = getattr(module, kind)(Image.fromarray(picture()), severity)
            images.append(np.uint8(found))
        arrays[kind] = np.stack([image[SOME] for image in images])
        means.append([image.mean(axis=(0, 1)) for image in images])
        if len(sys.argv) > 1:  # whole images, for a look
            np.save(f"{sys.argv[1]}/{kind}.npy", np.stack(images))
    PLACE.parent.mkdir(exist_ok=True)
    np.savez_compressed(PLACE, means=np.array(means), **arrays)


if __name__ == "__main__":
    main()
