"""Random image transforms for training: `name(image_size)` -> callable(image, rng).

Every public function is a component. `augment=crop+jitter+blur` applies several in that
order. The callable takes encoded bytes, a uint8 array or a PIL image and returns uint8
[s s 3]. It can be pickled and shared by threads. All its random numbers come from
`rng`. Every call draws as many numbers, whatever the image, so that one image never
shifts the next one's draws.

`crop` and `none` return an image of `image_size`. The others change an image of that
size with probability `p`; they first apply the evaluation transform to any other image.
The run calls `as_evaluated(preprocess)` once, if the callable has it, to fit it to
`data.preprocess`. To add a component, write a factory that returns a `Step`; nothing
else registers it.
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
    turn_hues,
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

    The options do not change the draws.

    The crop is distributed as torchvision's RandomResizedCrop: its share of the image's
    area is uniform in `scale`, its width / height log-uniform in `ratio`. If none of 10
    tries fits, the crop is the largest with an allowed ratio, at a random position
    (torchvision's is at the centre). Pillow resizes it (bicubic); the filter reads a
    few pixels outside the crop.

    Options:
      scale: smallest and largest share of the image's area.
      ratio: smallest and largest width / height.
      flip: probability of a mirror image. The default is 0 because captions say left
        and right, and images contain writing.
      color_jitter: s in [0, 1]: brightness, contrast and saturation, in this order, by
        factors uniform in [1 - s, 1 + s].
      hue: h in [0, 0.5]: turns the hue by up to h of the circle, after the others.
      exif: turn the image upright first, if data.preprocess does so; False raises an
        error if it does.
      draft: let libjpeg shrink JPEGs of over twice `image_size` while decoding, the
        crop never below `image_size`. On 500 x 375 photographs at 112 and 64 pixels:
        about 1.4 and 1.6 times the speed, pixels 1.3 and 1.8 (of 255) off on average.
      decoder: "opencv" (see opencv.py) decodes JPEGs to the same pixels and resizes to
        slightly different ones: at 224 pixels about 1.4 times the speed, 1.1 (of 255)
        off.
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
        opencv.library()  # raises here, not during training
    size = preprocess.clip(image_size).image_size  # checks the size
    return Crop(size, scale, ratio, flip, color_jitter, hue, exif, draft, decoder)


def none(image_size: int) -> Plain:
    """No augmentation: the evaluation transform of data.preprocess, `clip` by default.

    Draws no random numbers.
    """
    return Plain(preprocess.clip(image_size))


def flip(image_size: int, *, p: float = 0.5) -> Step:
    """A mirror image. Captions that say left and right become wrong.

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
    """Colour jitter in a random order (SimCLR, arXiv:2002.05709, at half its strength).

    Options:
      p: probability of the change.
      brightness, contrast, saturation: s in [0, 1]: changes by a factor uniform in
        [1 - s, 1 + s].
      hue: h in [0, 0.5]: turns the hue by up to h of the circle.
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

    Pillow's filter, as in MoCo v2 (arXiv:2003.04297): three box blurs approximate the
    Gaussian.

    Options:
      p: probability of the change.
      sigma: smallest and largest radius in pixels.
    """
    if not 0 <= sigma[0] <= sigma[1]:
        raise UserError(f"data.augment.sigma={sigma}: use 0 <= low <= high")
    return _step(image_size, p, 1, functools.partial(_blurred, sigma=sigma))


def randaugment(
    image_size: int, *, n: int = 2, magnitude: int = 9, p: float = 1.0
) -> Step:
    """RandAugment (arXiv:1909.13719): `n` random operations with one magnitude.

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
    """AutoAugment's ImageNet policy (arXiv:1805.09501); see auto_augment.py.

    Options:
      p: probability of the change.
    """
    return _step(image_size, p, 5, auto_augment.imagenet_policy)


def erase(
    image_size: int,
    *,
    p: float = 0.25,
    area: tuple[float, float] = (0.02, 0.33),
    ratio: tuple[float, float] = (0.3, 3.3),
    color: tuple[int, ...] = (),
) -> Step:
    """Random erasing (arXiv:1708.04896): overwrites a random rectangle.

    The rectangle is distributed as torchvision's RandomErasing: its share of the area
    is uniform in `area`, its height / width log-uniform in `ratio`. If none of 10 tries
    fits, nothing is erased.

    Options:
      p: probability of the change.
      area: smallest and largest share of the image's area.
      ratio: smallest and largest height / width.
      color: the rectangle's (red, green, blue); () for random pixels, the paper's
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
    """Applies several augmentations in order, each with its own draws."""

    parts: tuple[Augment, ...]

    def __call__(self, image: decoding.Picture, rng: np.random.Generator) -> np.ndarray:
        """Returns uint8 [s s 3]; raises BadExample for an unusable image."""
        for part in self.parts:
            image = part(image, rng)
        assert isinstance(image, np.ndarray)
        return image


@dataclasses.dataclass(frozen=True)
class Step:
    """Changes an image with probability p.

    plain: the transform that brings an image of another size to `image_size`.
    change(picture, draws) -> picture; `draws` numbers uniform in [0, 1).
    """

    image_size: int
    plain: Evaluation
    p: float
    draws: int
    change: Callable[[Image.Image, Sequence[float]], Image.Image]

    def as_evaluated(self, evaluation: Evaluation) -> Step:
        """This step, with the evaluation transform as its `plain`."""
        return dataclasses.replace(self, plain=evaluation)

    def __call__(self, image: decoding.Picture, rng: np.random.Generator) -> np.ndarray:
        """Returns uint8 [s s 3]; raises BadExample for an unusable image."""
        chance, *draws = rng.random(1 + self.draws).tolist()
        size = self.image_size
        if not isinstance(image, np.ndarray) or image.shape != (size, size, 3):
            image = self.plain(image)
        if chance >= self.p:
            return image
        return np.array(self.change(decoding.decode(image), draws))


@dataclasses.dataclass(frozen=True)
class Plain:
    """A fixed transform with the signature of an augmentation; see `none`."""

    transform: Evaluation

    def as_evaluated(self, evaluation: Evaluation) -> Plain:
        """The evaluation transform as an augmentation."""
        return Plain(evaluation)

    def __call__(self, image: decoding.Picture, rng: np.random.Generator) -> np.ndarray:
        """Returns uint8 [s s 3]; raises BadExample for an unusable image."""
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
    """draws: one strength per property, then one sort key per property."""
    for i in np.argsort(draws[4:]):
        amount = strengths[i] * (2 * draws[i] - 1)
        if not strengths[i]:
            continue
        if i < len(ENHANCE):
            picture = ENHANCE[i](picture).enhance(1 + amount)
        else:
            picture = turn_hues(picture, amount)
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
    """draws: area and ratio per try, position (x, y), seed of the random pixels."""
    (x, y, noise), (width, height) = draws[2 * TRIES :], picture.size
    tries = draws[: 2 * TRIES]
    for high, wide in rectangles(width * height, area, ratio, tries):
        if wide < width and high < height:
            left, top = int(x * (width - wide + 1)), int(y * (height - high + 1))
            pixels = np.array(picture)
            pixel_rng = np.random.Generator(np.random.PCG64(int(noise * 2**53)))
            pixels[top : top + high, left : left + wide] = color or pixel_rng.integers(
                0, 256, (high, wide, 3), np.uint8
            )
            return Image.fromarray(pixels)
    return picture
