"""Image operations with a magnitude, and the policies that draw from them.

Operations, ranges and magnitudes are those of torchvision's RandAugment and
AutoAugment: nearest-neighbour pixels, black outside the moved image. Each entry of
OPERATIONS is one operation.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from PIL import Image, ImageEnhance, ImageOps

Picture = Image.Image


@dataclasses.dataclass(frozen=True)
class Operation:
    """apply(picture, amount) -> picture.

    amount(level in [0, 1], side in pixels) -> amount. signed: whether the amount's sign
    is random. AutoAugment's translations are for 331 pixels; they scale with the side.
    """

    apply: Callable[[Picture, float], Picture]
    amount: Callable[[float, int], float] = lambda level, side: 0.0
    signed: bool = False


def _up_to(most: float) -> Callable[[float, int], float]:
    return lambda level, side: most * level


def _share(level: float, side: int) -> float:
    return 150 / 331 * level * side


def _moved(picture: Picture, matrix: tuple[float, ...]) -> Picture:
    """matrix: (a b c; d e f), from each output pixel to the input pixel it copies."""
    return picture.transform(picture.size, Image.Transform.AFFINE, matrix)


def _enhanced(kind: Callable[[Picture], ImageEnhance._Enhance]) -> Operation:
    return Operation(lambda p, a: kind(p).enhance(1 + a), _up_to(0.9), True)


OPERATIONS = {
    "identity": Operation(lambda p, a: p),
    "shear_x": Operation(lambda p, a: _moved(p, (1, a, 0, 0, 1, 0)), _up_to(0.3), True),
    "shear_y": Operation(lambda p, a: _moved(p, (1, 0, 0, a, 1, 0)), _up_to(0.3), True),
    "translate_x": Operation(
        lambda p, a: _moved(p, (1, 0, -int(a), 0, 1, 0)), _share, True
    ),
    "translate_y": Operation(
        lambda p, a: _moved(p, (1, 0, 0, 0, 1, -int(a))), _share, True
    ),
    "rotate": Operation(lambda p, a: p.rotate(a), _up_to(30.0), True),
    "brightness": _enhanced(ImageEnhance.Brightness),
    "color": _enhanced(ImageEnhance.Color),
    "contrast": _enhanced(ImageEnhance.Contrast),
    "sharpness": _enhanced(ImageEnhance.Sharpness),
    "posterize": Operation(
        lambda p, a: ImageOps.posterize(p, int(a)),
        lambda level, _: 8 - round(4 * level),
    ),
    "solarize": Operation(
        lambda p, a: ImageOps.solarize(p, a),  # pyright: ignore  (a float works)
        lambda level, _: 255 * (1 - level),
    ),
    "auto_contrast": Operation(lambda p, a: ImageOps.autocontrast(p)),
    "equalize": Operation(lambda p, a: ImageOps.equalize(p)),
    "invert": Operation(lambda p, a: ImageOps.invert(p)),
}

# RandAugment draws from all operations except "invert".
RANDOM = tuple(name for name in OPERATIONS if name != "invert")

# AutoAugment's ImageNet policy (arXiv 1805.09501, table 9): each line is a sub-policy
# of two (operation, probability, magnitude from 0 to 9).
IMAGENET = (
    (("posterize", 0.4, 8), ("rotate", 0.6, 9)),
    (("solarize", 0.6, 5), ("auto_contrast", 0.6, 0)),
    (("equalize", 0.8, 0), ("equalize", 0.6, 0)),
    (("posterize", 0.6, 7), ("posterize", 0.6, 6)),
    (("equalize", 0.4, 0), ("solarize", 0.2, 4)),
    (("equalize", 0.4, 0), ("rotate", 0.8, 8)),
    (("solarize", 0.6, 3), ("equalize", 0.6, 0)),
    (("posterize", 0.8, 5), ("equalize", 1.0, 0)),
    (("rotate", 0.2, 3), ("solarize", 0.6, 8)),
    (("equalize", 0.6, 0), ("posterize", 0.4, 6)),
    (("rotate", 0.8, 8), ("color", 0.4, 0)),
    (("rotate", 0.4, 9), ("equalize", 0.6, 0)),
    (("equalize", 0.0, 0), ("equalize", 0.8, 0)),
    (("invert", 0.6, 0), ("equalize", 1.0, 0)),
    (("color", 0.6, 4), ("contrast", 1.0, 8)),
    (("rotate", 0.8, 8), ("color", 1.0, 2)),
    (("color", 0.8, 8), ("solarize", 0.8, 7)),
    (("sharpness", 0.4, 7), ("invert", 0.6, 0)),
    (("shear_x", 0.6, 5), ("equalize", 1.0, 0)),
    (("color", 0.4, 0), ("equalize", 0.6, 0)),
    (("equalize", 0.4, 0), ("solarize", 0.2, 4)),
    (("solarize", 0.6, 5), ("auto_contrast", 0.6, 0)),
    (("invert", 0.6, 0), ("equalize", 1.0, 0)),
    (("color", 0.6, 4), ("contrast", 1.0, 8)),
    (("equalize", 0.8, 0), ("equalize", 0.6, 0)),
)


def apply(name: str, picture: Picture, level: float, sign: float = 1.0) -> Picture:
    """Applies one operation; level in [0, 1]; sign=-1 negates a signed amount."""
    operation = OPERATIONS[name]
    side = picture.height if name.endswith("_y") else picture.width
    amount = operation.amount(level, side)
    return operation.apply(picture, amount * sign if operation.signed else amount)


def random(picture: Picture, draws: Sequence[float], magnitude: int) -> Picture:
    """RandAugment: one operation per two draws in [0, 1); magnitude from 0 to 30."""
    for choice, sign in zip(draws[::2], draws[1::2], strict=True):
        name = RANDOM[int(choice * len(RANDOM))]
        picture = apply(name, picture, magnitude / 30, _sign(sign))
    return picture


def imagenet_policy(picture: Picture, draws: Sequence[float]) -> Picture:
    """Applies a sub-policy of IMAGENET.

    draws: the sub-policy's choice, then (chance, sign) for each of its two operations.
    """
    policy = IMAGENET[int(draws[0] * len(IMAGENET))]
    for i, (name, share, magnitude) in enumerate(policy):
        chance, sign = draws[1 + 2 * i : 3 + 2 * i]
        if chance < share:
            picture = apply(name, picture, magnitude / 9, _sign(sign))
    return picture


def _sign(draw: float) -> float:
    return 1.0 if draw < 0.5 else -1.0
