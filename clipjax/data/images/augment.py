"""Random image transforms for training: `name(image_size)` -> callable(image, rng).

Every public function is a component, and several are one after another in the order of
`augment=crop+jitter+blur`. What it returns takes encoded bytes, a uint8 array or a PIL
image, gives uint8 [s s 3], can be pickled, and can be shared by threads. All chance
comes from `rng`, and every call draws the same number of numbers whatever the image is,
so that one image never shifts the draws of the next.

`crop` and `none` make a picture of the size. The others change a finished picture with
probability `p`; one that is not finished becomes so as in the evaluation. What has
`as_evaluated(preprocess)` is asked once for its form beside a run's `data.preprocess`.
To add one, write a factory that returns a `Step`: its module is its only place.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image, ImageFilter

from clipjax.data.images import auto_augment, decoding, opencv, preprocess
from clipjax.data.images.crops import (
    DECODERS,
    ENHANCE,
    TRIES,
    Crop,
    Evaluation,
    rectangles,
    turned,
)
from clipjax.types import UserError

Augment = Callable[[decoding.Picture, np.random.Generator], np.ndarray]


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
    decoder: str = "pillow",
) -> Crop:
    """A random crop resized to the square (Szegedy et al. 2015, arXiv:1409.4842).

    Its draws are the same whatever its options are.

    The crop is distributed as torchvision's RandomResizedCrop: its share of the image's
    area uniform in `scale`, its width / height log-uniform in `ratio`, tried 10 times;
    else it is the largest of a permitted ratio (placed at random, where torchvision
    takes the centre). Pillow bicubic; the filter looks a few pixels beyond the crop.

    Options:
      scale: least and largest share of the image's area.
      ratio: least and largest width / height.
      flip: probability of a mirror image. 0 because captions speak of left and right
        and pictures hold writing.
      color_jitter: s in [0, 1]: brightness, contrast and saturation, in this order, by
        factors uniform in [1 - s, 1 + s].
      hue: h in [0, 0.5]: turns the hue by up to h of the circle, after the others.
      exif: turn the image upright first if data.preprocess does so; False is refused
        if it does.
      draft: let libjpeg shrink JPEGs of over twice `image_size` while decoding, the
        crop never below `image_size`. On 500 x 375 photographs at 112 and 64 pixels:
        about 1.4 and 1.6 times the speed, pixels 1.3 and 1.8 (of 255) off on average.
      decoder: "opencv" (see opencv.py) decodes JPEGs to the same pixels and resizes
        otherwise: at 224 pixels about 1.4 times the speed, 1.1 (of 255) off.
    """
    low, high = scale
    if not 0 < low <= high <= 1:
        raise UserError(f"data.augment.scale={scale}: use 0 < low <= high <= 1")
    if not 0 < ratio[0] <= ratio[1]:
        raise UserError(f"data.augment.ratio={ratio}: use 0 < low <= high")
    _check_shares(flip=flip, color_jitter=color_jitter)
    _check_shares(0.5, hue=hue)
    if decoder not in DECODERS:
        raise UserError(
            f"data.augment.decoder={decoder!r}: use {' or '.join(DECODERS)}"
        )
    if decoder == "opencv":
        if draft:
            raise UserError("data.augment.draft=True goes with decoder='pillow' only")
        opencv.library()  # not to fail in the middle of training
    size = preprocess.clip(image_size).image_size  # checks the size
    return Crop(size, scale, ratio, flip, color_jitter, hue, exif, draft, decoder)


def none(image_size: int) -> Plain:
    """No augmentation: the pixels of the evaluation, `clip`'s unless data.preprocess
    says otherwise; draws nothing.
    """
    return Plain(preprocess.clip(image_size))


def flip(image_size: int, *, p: float = 0.5) -> Step:
    """A mirror image. Mind captions that say left and right.

    Options:
      p: probability of the change.
    """
    return _step(image_size, p, 0, _flipped)


def jitter(
    image_size: int,
    *,
    p: float = 0.8,
    brightness: float = 0.4,
    contrast: float = 0.4,
    saturation: float = 0.4,
    hue: float = 0.1,
) -> Step:
    """Colours, in a random order (SimCLR, arXiv:2002.05709, at half its strength).

    Options:
      p: probability of the change.
      brightness, contrast, saturation: s in [0, 1]: by a factor uniform in [1 - s,
        1 + s].
      hue: h in [0, 0.5]: turned by up to h of the circle.
    """
    _check_shares(brightness=brightness, contrast=contrast, saturation=saturation)
    _check_shares(0.5, hue=hue)
    strengths = (brightness, contrast, saturation, hue)
    change = functools.partial(_jittered, strengths=strengths)
    return _step(image_size, p, 8, change)


def grayscale(image_size: int, *, p: float = 0.2) -> Step:
    """Grey in three equal channels (SimCLR, arXiv:2002.05709).

    Options:
      p: probability of the change.
    """
    return _step(image_size, p, 0, _grey)


def blur(
    image_size: int, *, p: float = 0.5, sigma: tuple[float, float] = (0.1, 2.0)
) -> Step:
    """A Gaussian blur, its radius in pixels uniform in `sigma`; as in SimCLR.

    Pillow's filter, as in MoCo v2 (arXiv:2003.04297): three box blurs, near a Gaussian.

    Options:
      p: probability of the change.
      sigma: least and largest radius in pixels.
    """
    if not 0 <= sigma[0] <= sigma[1]:
        raise UserError(f"data.augment.sigma={sigma}: use 0 <= low <= high")
    return _step(image_size, p, 1, functools.partial(_blurred, sigma=sigma))


def randaugment(
    image_size: int, *, n: int = 2, magnitude: int = 9, p: float = 1.0
) -> Step:
    """RandAugment (arXiv:1909.13719): `n` random operations of one magnitude.

    The 14 operations and their ranges are torchvision's; see auto_augment.py.

    Options:
      n: how many operations, one after another.
      magnitude: strength of each, from 0 to 30.
      p: probability of the change.
    """
    if n < 1:
        raise UserError(f"data.augment.n={n}: use 1 or more operations")
    if not 0 <= magnitude <= 30:
        raise UserError(f"data.augment.magnitude={magnitude}: use a value from 0 to 30")
    change = functools.partial(auto_augment.random, magnitude=magnitude)
    return _step(image_size, p, 2 * n, change)


def autoaugment(image_size: int, *, p: float = 1.0) -> Step:
    """AutoAugment's policy for ImageNet (arXiv:1805.09501); see auto_augment.py.

    Options:
      p: probability of the change.
    """
    return _step(image_size, p, 5, auto_augment.learned)


def erase(
    image_size: int,
    *,
    p: float = 0.25,
    area: tuple[float, float] = (0.02, 0.33),
    ratio: tuple[float, float] = (0.3, 3.3),
    color: tuple[int, ...] = (),
) -> Step:
    """Random erasing (arXiv:1708.04896): a rectangle at random gives way.

    Distributed as torchvision's RandomErasing: its share of the area uniform in `area`,
    its height / width log-uniform in `ratio`, tried 10 times, else nothing is erased.

    Options:
      p: probability of the change.
      area: least and largest share of the image's area.
      ratio: least and largest height / width.
      color: (red, green, blue) of the rectangle; () for random pixels, the paper's
        best. (124, 116, 104) is ImageNet's mean.
    """
    if not 0 < area[0] <= area[1] < 1:
        raise UserError(f"data.augment.area={area}: use 0 < low <= high < 1")
    if not 0 < ratio[0] <= ratio[1]:
        raise UserError(f"data.augment.ratio={ratio}: use 0 < low <= high")
    if len(color) not in (0, 3) or not all(0 <= value <= 255 for value in color):
        raise UserError(f"data.augment.color={color}: use () or three values up to 255")
    change = functools.partial(_erased, area=area, ratio=ratio, color=color)
    return _step(image_size, p, 2 * TRIES + 3, change)


@dataclasses.dataclass(frozen=True)
class Chain:
    """Augmentations one after another, each with its own draws."""

    parts: tuple[Augment, ...]

    def __call__(self, image: decoding.Picture, rng: np.random.Generator) -> np.ndarray:
        """Returns uint8 [s s 3]; raises BadExample for an image that is no use."""
        for part in self.parts:
            image = part(image, rng)
        assert isinstance(image, np.ndarray)
        return image


@dataclasses.dataclass(frozen=True)
class Step:
    """Changes a finished picture with probability p.

    plain: finishes one that is not of `image_size`. change(picture, draws) -> picture,
    with as many draws from [0, 1) as said.
    """

    image_size: int
    plain: Evaluation
    p: float
    draws: int
    change: Callable[[Image.Image, Sequence[float]], Image.Image]

    def as_evaluated(self, evaluation: Evaluation) -> Step:
        """This step, after the evaluation's transform where it comes first."""
        return dataclasses.replace(self, plain=evaluation)

    def __call__(self, image: decoding.Picture, rng: np.random.Generator) -> np.ndarray:
        """Returns uint8 [s s 3]; raises BadExample for an image that is no use."""
        chance, *draws = rng.random(1 + self.draws).tolist()
        size = self.image_size
        if not isinstance(image, np.ndarray) or image.shape != (size, size, 3):
            image = self.plain(image)
        if chance >= self.p:
            return image
        return np.array(self.change(decoding.decode(image), draws))


@dataclasses.dataclass(frozen=True)
class Plain:
    """A fixed transform in the form of an augmentation; see `none`."""

    transform: Evaluation

    def as_evaluated(self, evaluation: Evaluation) -> Plain:
        """The evaluation's pixels."""
        return Plain(evaluation)

    def __call__(self, image: decoding.Picture, rng: np.random.Generator) -> np.ndarray:
        """Returns uint8 [s s 3]; raises BadExample for an image that is no use."""
        del rng
        return self.transform(image)


def _check_shares(most: float = 1, **options: float) -> None:
    for name, value in options.items():
        if not 0 <= value <= most:
            raise UserError(
                f"data.augment.{name}={value}: use a value from 0 to {most}"
            )


def _step(image_size: int, p: float, draws: int, change: Callable) -> Step:
    _check_shares(p=p)
    return Step(image_size, preprocess.clip(image_size), p, draws, change)


def _flipped(picture: Image.Image, draws: Sequence[float]) -> Image.Image:
    del draws
    return picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


def _jittered(
    picture: Image.Image, draws: Sequence[float], *, strengths: tuple[float, ...]
) -> Image.Image:
    """draws: how far in each property, then what sorts the properties."""
    for i in np.argsort(draws[4:]):
        amount = strengths[i] * (2 * draws[i] - 1)
        if not strengths[i]:
            continue
        if i < len(ENHANCE):
            picture = ENHANCE[i](picture).enhance(1 + amount)
        else:
            picture = turned(picture, amount)
    return picture


def _grey(picture: Image.Image, draws: Sequence[float]) -> Image.Image:
    del draws
    return picture.convert("L").convert("RGB")


def _blurred(
    picture: Image.Image, draws: Sequence[float], *, sigma: tuple[float, float]
) -> Image.Image:
    radius = sigma[0] + draws[0] * (sigma[1] - sigma[0])
    return picture.filter(ImageFilter.GaussianBlur(radius))


def _erased(
    picture: Image.Image,
    draws: Sequence[float],
    *,
    area: tuple[float, float],
    ratio: tuple[float, float],
    color: tuple[int, ...],
) -> Image.Image:
    """draws: area and shape of each try, place, and what the pixels are drawn from."""
    (x, y, noise), (width, height) = draws[2 * TRIES :], picture.size
    tries = draws[: 2 * TRIES]
    for high, wide in rectangles(width * height, area, ratio, tries):
        if wide < width and high < height:
            left, top = int(x * (width - wide + 1)), int(y * (height - high + 1))
            pixels = np.array(picture)
            own = np.random.Generator(np.random.PCG64(int(noise * 2**53)))
            pixels[top : top + high, left : left + wide] = color or own.integers(
                0, 256, (high, wide, 3), np.uint8
            )
            return Image.fromarray(pixels)
    return picture
