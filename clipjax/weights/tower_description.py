"""What a file with a single tower is: the words that its formats share."""

from __future__ import annotations

import dataclasses
import math
import pathlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from clipjax.types import UserError
from clipjax.weights.beside import preprocessing
from clipjax.weights.rename_table import Rule
from clipjax.weights.value_checks import Three, three

Shapes = Mapping[str, tuple[int, ...]]

# How images are normalised for most networks of torchvision, timm and Hugging Face.
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALVES = (preprocessing.HALF, preprocessing.HALF)
QKV = ("query", "key", "value")  # Hugging Face's names


@dataclasses.dataclass(frozen=True)
class TowerSettings:
    """A tower as its files describe it, in the words of a clipjax config.

    format: of the files, "hf_bert" for example. side: "image" or "text".
    component, options: the tower's name and options.
    size: height and width of images, or the context length. vocab_size: of a text
    tower. num_classes: of the classifier in the file, 0 if there is none.
    mean, std: of an image tower's images, for the model's options. preprocess: of half
      of a two-tower model, its section of a config; {} if it is not known.
    prefix: before the tower's tensors. layout: what they look like beyond the tower.
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
    settings(config, shapes, folder, place): raises UserError if the tower cannot be
      ours. folder has the config, place is for messages.
    rules(tower, layout): of the tower's tensors, without their prefix.
    head: rules of a classifier's last layer, "head/kernel" of models/classifier.py;
      head_inside: whether their names have the tower's prefix too.
    ignored: regular expressions of tensors that mean nothing, with their prefix;
      heads: of those that mean something to whole models only.
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
    """Options of vit for patches of a size; a rest that fills none is left out."""
    options: dict[str, Any] = {"variant": f"B/{size}"}
    return options | ({"crop_to_patches": True} if image_size % size else {})


def prefix_of(shapes: Iterable[str], *prefixes: str) -> str:
    """The first of the prefixes that a name has, else ""."""
    names = list(shapes)
    return next((p for p in prefixes if any(n.startswith(p) for n in names)), "")


def count(shapes: Iterable[str], pattern: str) -> int:
    """How many different numbers names have at the group of a pattern."""
    matches = (re.match(pattern, name) for name in shapes)
    return len({match[1] for match in matches if match})


def shape_of(shapes: Shapes, name: str, dims: int, place: str) -> tuple[int, ...]:
    """The shape of a tensor that says a size.

    Raises UserError if it is missing or of another number of dimensions.
    """
    if name not in shapes:
        raise UserError(f"{place} lacks {name}, which says a size of the tower")
    if len(shapes[name]) != dims:
        raise UserError(
            f"{place}: {name} is {shapes[name]}: must have {dims} dimensions"
        )
    return shapes[name]


def classes(shapes: Shapes, bias: str) -> int:
    """How many classes the bias of a classifier has, 0 if there is none."""
    return math.prod(shapes[bias]) if bias in shapes else 0


def side_of_square(rows: int, name: str, place: str) -> int:
    """The side of a square of so many positions; raises UserError for others."""
    side = math.isqrt(rows)
    if side * side != rows or not rows:
        raise UserError(f"{place}: {name} is for {rows} patches: clipjax takes squares")
    return side


def hf_normalisation(
    folder: pathlib.Path, default: tuple[Three, Three]
) -> tuple[Three, Three]:
    """Mean and std of the image processor beside a tower, if there is one.

    How it resizes is left to whoever prepares images: a tower alone can be given any.
    """
    given, place = preprocessing.read_hf(folder)
    return _normalisation(given, ("image_mean", "image_std"), place, default)


def timm_normalisation(
    config: Mapping[str, Any] | None, place: str
) -> tuple[Three, Three]:
    """Mean and std of a timm config.json; ImageNet's if nothing is said."""
    config = config or {}
    given = config.get("pretrained_cfg") or config
    return _normalisation(given, ("mean", "std"), place, IMAGENET)


def _normalisation(
    given: Mapping[str, Any],
    keys: tuple[str, str],
    place: str,
    default: tuple[Three, Three],
) -> tuple[Three, Three]:
    """The default if neither of the two is there, or only one of them."""
    mean, std = (given.get(key) for key in keys)
    if not (mean and std):
        return default
    return three(mean, keys[0], place), three(std, keys[1], place, positive=True)
