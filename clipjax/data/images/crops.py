"""The random crop of training; see `augment.crop`."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from PIL import Image, ImageEnhance

from clipjax.data.images import decoding, opencv, preprocess
from clipjax.types import UserError

# Tries to fit a crop into the image, as many as torchvision's RandomResizedCrop has.
TRIES = 10
DRAWS = 2 * TRIES + 2 + 1 + 4  # area and ratio per try, position, flip, colours

DECODERS = ("pillow", "opencv")

ENHANCE = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)

Evaluation = Callable[[decoding.Picture], np.ndarray]  # a run's `preprocess`


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
    decoder: str

    def as_evaluated(self, evaluation: Evaluation) -> Crop:
        """This crop, upright by EXIF only if the evaluation turns images upright too.

        Raises UserError if the crop has exif=False and the evaluation turns images
        upright.
        """
        upright = getattr(evaluation, "exif", self.exif)
        if upright and not self.exif:
            raise UserError(
                "data.augment.exif=False: the evaluation turns images upright; drop "
                "it, or choose preprocess=openai, which does not"
            )
        return dataclasses.replace(self, exif=upright)

    def __call__(self, image: decoding.Picture, rng: np.random.Generator) -> np.ndarray:
        """Returns uint8 [s s 3]; raises BadExample for an unusable image."""
        draws = rng.random(DRAWS)
        mirror, *colours = draws[2 * TRIES + 2 :]
        if self.decoder == "opencv":
            decoded = opencv.decode(image, exif=self.exif)
            box = self._box(decoded.shape[1], decoded.shape[0], draws)
            pixels = opencv.resize(decoded, box, self.image_size)
        else:
            pixels = self._by_pillow(image, draws)
        if mirror < self.flip:
            pixels = np.ascontiguousarray(pixels[:, ::-1])
        return self._coloured(pixels, colours)

    def _by_pillow(self, image: decoding.Picture, draws: np.ndarray) -> np.ndarray:
        picture = None if self.draft else decoding.decode(image, exif=self.exif)
        width, height = (
            picture.size if picture else decoding.size(image, exif=self.exif)
        )
        box = self._box(width, height, draws)
        if picture is None:
            least_size = (
                math.ceil(width * self.image_size / (box[2] - box[0])),
                math.ceil(height * self.image_size / (box[3] - box[1])),
            )
            picture = decoding.decode(image, exif=self.exif, at_least=least_size)
            reduction = round(max(width, height) / max(picture.size))
            left, top, right, bottom = (edge / reduction for edge in box)
            box = (left, top, right, bottom)
        size = (self.image_size, self.image_size)
        return np.array(picture.resize(size, preprocess.BICUBIC, box=box))

    def _box(self, width: int, height: int, draws: np.ndarray) -> opencv.Box:
        """The crop's edges in pixels."""
        wide, high = self._crop_size(width, height, draws[: 2 * TRIES])
        x, y = draws[2 * TRIES : 2 * TRIES + 2]
        left = math.floor(x * (width - wide + 1))
        top = math.floor(y * (height - high + 1))
        return left, top, left + wide, top + high

    def _crop_size(self, width: int, height: int, tries: np.ndarray) -> tuple[int, int]:
        """(width, height) in pixels: the first try that fits, else the largest crop."""
        for wide, high in rectangles(width * height, self.scale, self.ratio, tries):
            if 0 < wide <= width and 0 < high <= height:
                return wide, high
        return (
            max(1, min(width, round(height * self.ratio[1]))),
            max(1, min(height, round(width / self.ratio[0]))),
        )

    def _coloured(self, pixels: np.ndarray, draws: list[float]) -> np.ndarray:
        if not self.color_jitter and not self.hue:
            return pixels
        picture = Image.fromarray(pixels)
        if self.color_jitter:
            for kind, draw in zip(ENHANCE, draws[:3], strict=True):
                factor = 1 + self.color_jitter * (2 * draw - 1)
                picture = kind(picture).enhance(factor)
        if self.hue:
            picture = turn_hues(picture, self.hue * (2 * draws[3] - 1))
        return np.array(picture)


def rectangles(
    pixels: int,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    draws: Sequence[float] | np.ndarray,
) -> Iterator[tuple[int, int]]:
    """Yields two sides per two draws: their product's share of the pixels is uniform in
    `scale`, first side / second side is log-uniform in `ratio`."""
    log_low, log_high = math.log(ratio[0]), math.log(ratio[1])
    for share, shape in np.reshape(draws, (-1, 2)):
        area = pixels * (scale[0] + share * (scale[1] - scale[0]))
        aspect = math.exp(log_low + shape * (log_high - log_low))
        yield round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))


def turn_hues(picture: Image.Image, share: float) -> Image.Image:
    """The picture with its hues turned by a share of the circle."""
    turn = np.uint8(round(share * 256) % 256)
    hue, saturation, value = picture.convert("HSV").split()
    hue = Image.fromarray(np.asarray(hue) + turn)
    return Image.merge("HSV", (hue, saturation, value)).convert("RGB")
