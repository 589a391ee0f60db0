"""The description of a single tower's file, shared by its formats."""

from __future__ import annotations

import dataclasses
import logging
import math
import pathlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from clipjax.types import UserError
from clipjax.weights.beside import preprocessing
from clipjax.weights.rename_table import Rule
from clipjax.weights.value_checks import Three, three

logger = logging.getLogger(__name__)

Shapes = Mapping[str, tuple[int, ...]]

# How images are normalised for most networks of torchvision, timm and Hugging Face.
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALVES = (preprocessing.HALF, preprocessing.HALF)
QKV = ("query", "key", "value")  # Hugging Face's names


@dataclasses.dataclass(frozen=True)
class TowerSettings:
    """A tower as its files describe it, by names and options of a clipjax config.

    format: the files' format, "hf_bert" for example. side: "image" or "text".
    component, options: the tower's name and options.
    size: the images' height and width, or the context length. vocab_size: a text
    tower's. num_classes: the classes of the file's classifier, 0 if it has none.
    mean, std: an image tower's normalisation, for the model's options.
    preprocess: the config's section, for a tower of a two-tower model; else {}.
    prefix: the prefix of the tower's tensors. layout: variations of the tensors that
      the tower does not imply.
    """

    format: str
    side: str
    component: str
    options: Mapping[str, Any]
    size: int
    vocab_size: int = 0
    num_classes: int = 0
    mean: Three | tuple[()] = ()
    std: Three | tuple[()] = ()
    preprocess: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    prefix: str = ""
    layout: frozenset[str] = frozenset()


@dataclasses.dataclass(frozen=True)
class TowerFormat:
    """How one kind of file holds a tower.

    side: "image" or "text".
    recognise(config, shapes): whether a file is of this kind; config is the content of
      the config.json beside it, None if there is none.
    settings(config, shapes, folder, origin): raises UserError if clipjax has no such
      tower. folder has the config, origin names the file in messages.
    rules(tower, layout): the rules for the tower's tensors, without their prefix.
    head: rules for a classifier's last layer, "head/kernel" in models/classifier.py;
      head_inside: whether its names have the tower's prefix too.
    ignored: regular expressions of tensors without meaning, with their prefix;
      heads: of tensors that only layers above the tower use.
    """

    name: str
    side: str
    recognise: Callable[[Mapping[str, Any] | None, Shapes], bool]
    settings: Callable[
        [Mapping[str, Any] | None, Shapes, pathlib.Path, str], TowerSettings
    ]
    rules: Callable[[Any, frozenset[str]], list[Rule]]
    head: Sequence[Rule] = ()
    head_inside: bool = False
    ignored: Sequence[str] = ()
    heads: Sequence[str] = ()


def patch_options(size: int, image_size: int) -> dict[str, Any]:
    """Options of vit for a patch size; pixels that fill no patch are cropped."""
    options: dict[str, Any] = {"variant": f"B/{size}"}
    return options | ({"crop_to_patches": True} if image_size % size else {})


def prefix_of(shapes: Iterable[str], *prefixes: str) -> str:
    """The first of the prefixes that any name has, else ""."""
    names = list(shapes)
    return next((p for p in prefixes if any(n.startswith(p) for n in names)), "")


def count(shapes: Iterable[str], pattern: str) -> int:
    """The number of different values that a pattern's group has in the names."""
    matches = (re.match(pattern, name) for name in shapes)
    return len({match[1] for match in matches if match})


def shape_of(shapes: Shapes, name: str, dims: int, origin: str) -> tuple[int, ...]:
    """The shape of a tensor that gives a size.

    Raises UserError if it is missing or has another number of dimensions.
    """
    if name not in shapes:
        raise UserError(f"{origin} lacks {name}, which gives a size of the tower")
    if len(shapes[name]) != dims:
        raise UserError(
            f"{origin}: {name} has shape {shapes[name]}: must have {dims} dimensions"
        )
    return shapes[name]


def classes(shapes: Shapes, bias: str) -> int:
    """The number of classes in a classifier's bias, 0 if there is none."""
    return math.prod(shapes[bias]) if bias in shapes else 0


def side_of_square(rows: int, name: str, origin: str) -> int:
    """The side of a square of `rows` positions; raises UserError if they form none."""
    side = math.isqrt(rows)
    if side * side != rows or not rows:
        raise UserError(
            f"{origin}: {name} is for {rows} patches: clipjax takes squares"
        )
    return side


def hf_normalisation(
    folder: pathlib.Path, default: tuple[Three, Three]
) -> tuple[Three, Three]:
    """Mean and std of the image processor beside a tower, else the default.

    Its way of resizing is not read, because a tower takes images from any.
    """
    processor, origin = preprocessing.read_hf(folder)
    if folder.is_dir() and not pathlib.Path(origin).is_file():
        logger.warning(
            "%s is missing: images are normalised by mean %s and std %s, as this kind "
            "of tower has it by default; put the tower's own file there",
            origin,
            *default,
        )
    return _normalisation(processor, ("image_mean", "image_std"), origin, default)


def timm_normalisation(
    config: Mapping[str, Any] | None, origin: str
) -> tuple[Three, Three]:
    """Mean and std of a timm config.json, by default ImageNet's."""
    config = config or {}
    values = config.get("pretrained_cfg") or config
    return _normalisation(values, ("mean", "std"), origin, IMAGENET)


def _normalisation(
    values: Mapping[str, Any],
    keys: tuple[str, str],
    origin: str,
    default: tuple[Three, Three],
) -> tuple[Three, Three]:
    """The values of the two keys; the default unless both are present."""
    mean, std = (values.get(key) for key in keys)
    if not (mean and std):
        return default
    return three(mean, keys[0], origin), three(std, keys[1], origin, positive=True)
