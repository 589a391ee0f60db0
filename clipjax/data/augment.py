"""Random image transforms for training: `name(image_size)` -> callable(image, rng).

Every public function is a component. What it returns takes encoded bytes, a uint8 array
or a PIL image, gives uint8 [s s 3], can be pickled, and can be shared by threads.
All chance comes from `rng`, and every call draws the same number of numbers whatever
the image and the options are, so that one image never shifts the draws of the next.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from PIL import Image, ImageEnhance

from clipjax.data import images, preprocess
from clipjax.types import UserError

# As torchvision's RandomResizedCrop: so many tries to fit a crop into the image.
TRIES = 10
DRAWS = 2 * TRIES + 2 + 1 + 4  # area and aspect each try, place, flip, colours


def crop(
    image_size: int,
    *,
    scale: tuple[float, float] = (0.5, 1.0),
    ratio: tuple[float, float] = (0.75, 1.3333),
    flip: float = 0.0,
    color_jitter: float = 0.0,
    hue: float = 0.0,
    exif: bool = True,
    draft: bool = False,
) -> Crop:
    """A random crop resized to the square (Szegedy et al. 2015, arXiv:1409.4842).

    The crop is distributed as torchvision's RandomResizedCrop: its share of the image's
    area uniform in `scale`, its width / height log-uniform in `ratio`, tried 10 times;
    else it is the largest of a permitted ratio (placed at random, where torchvision
    takes the centre). Pillow bicubic; the filter looks a few pixels beyond the crop.

    Options:
      flip: probability of a mirror image. 0 because captions speak of left and right
        and pictures hold writing.
      color_jitter: s in [0, 1]: brightness, contrast and saturation, in this order, by
        factors uniform in [1 - s, 1 + s].
      hue: h in [0, 0.5]: turns the hue by up to h of the circle, after the others.
      exif: turn the image upright first, as the evaluation does.
      draft: let libjpeg shrink JPEGs of over twice `image_size` while decoding, the
        crop never below `image_size`. On 500 x 375 photographs at 112 and 64 pixels:
        about 1.4 and 1.6 times the speed, pixels 1.3 and 1.8 (of 255) off on average.
    """
    low, high = scale
    if not 0 < low <= high <= 1:
        raise UserError(f"augment scale={scale}: use 0 < low <= high <= 1")
    if not 0 < ratio[0] <= ratio[1]:
        raise UserError(f"augment ratio={ratio}: use 0 < low <= high")
    limits = {"flip": (flip, 1), "color_jitter": (color_jitter, 1), "hue": (hue, 0.5)}
    for name, (value, most) in limits.items():
        if not 0 <= value <= most:
            raise UserError(f"augment {name}={value}: use a value from 0 to {most}")
    plain = preprocess.clip(image_size)  # checks the size
    return Crop(plain.image_size, scale, ratio, flip, color_jitter, hue, exif, draft)


def none(image_size: int) -> Plain:
    """No augmentation: the evaluation's `clip` transform; draws nothing."""
    return Plain(preprocess.clip(image_size))


@dataclasses.dataclass(frozen=True)
class Plain:
    """A fixed transform in the form of an augmentation; see `none`."""

    transform: preprocess.Shortest

    def __call__(self, image: images.Picture, rng: np.random.Generator) -> np.ndarray:
        """Returns uint8 [s s 3]; raises BadExample for an image that is no use."""
        del rng
        return self.transform(image)


@dataclasses.dataclass(frozen=True)
class Crop:
    """Random resized crop, flip and colours; see `crop`."""

    image_size: int
    scale: tuple[float, float]
    ratio: tuple[float, float]
    flip: float
    color_jitter: float
    hue: float
    exif: bool
    draft: bool

    def __call__(self, image: images.Picture, rng: np.random.Generator) -> np.ndarray:
        """Returns uint8 [s s 3]; raises BadExample for an image that is no use."""
        draws = rng.random(DRAWS)
        tries, (x, y, mirror, *colours) = draws[: 2 * TRIES], draws[2 * TRIES :]
        picture = None if self.draft else images.decode(image, exif=self.exif)
        width, height = picture.size if picture else images.size(image, exif=self.exif)
        wide, high = self._crop_size(width, height, tries)
        left = math.floor(x * (width - wide + 1))
        top = math.floor(y * (height - high + 1))
        box = (left, top, left + wide, top + high)
        if picture is None:
            enough = (
                math.ceil(width * self.image_size / wide),
                math.ceil(height * self.image_size / high),
            )
            picture = images.decode(image, exif=self.exif, at_least=enough)
            shrunk = round(max(width, height) / max(picture.size))
            box = tuple(edge / shrunk for edge in box)
        size = (self.image_size, self.image_size)
        picture = picture.resize(size, preprocess.BICUBIC, box=box)
        if mirror < self.flip:
            picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return np.array(self._coloured(picture, colours))

    def _crop_size(self, width: int, height: int, tries: np.ndarray) -> tuple[int, int]:
        """(width, height) in pixels of the first try that fits, else of the largest."""
        least, most = self.scale
        log_low, log_high = math.log(self.ratio[0]), math.log(self.ratio[1])
        for share, shape in tries.reshape(TRIES, 2):
            area = width * height * (least + share * (most - least))
            ratio = math.exp(log_low + shape * (log_high - log_low))
            wide, high = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < wide <= width and 0 < high <= height:
                return wide, high
        return (
            max(1, min(width, round(height * self.ratio[1]))),
            max(1, min(height, round(width / self.ratio[0]))),
        )

    def _coloured(self, picture: Image.Image, draws: list[float]) -> Image.Image:
        if self.color_jitter:
            kinds = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
            for kind, draw in zip(kinds, draws[:3], strict=True):
                factor = 1 + self.color_jitter * (2 * draw - 1)
                picture = kind(picture).enhance(factor)
        if self.hue:
            turn = round(self.hue * (2 * draws[3] - 1) * 256)
            hue, saturation, value = picture.convert("HSV").split()
            hue = Image.fromarray(np.asarray(hue) + np.uint8(turn % 256))
            picture = Image.merge("HSV", (hue, saturation, value)).convert("RGB")
        return picture
