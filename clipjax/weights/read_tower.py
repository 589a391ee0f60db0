"""Single towers that others released: what they are, and their arrays.

    settings, params, batch_stats = read_tower("bert-base-uncased/", "text")
    tower = build(settings)
    tower.apply({"params": params}, ids, mask, False)

A tower is a folder with config.json (Hugging Face, timm) beside its weights, a file
(torchvision, big_vision's .npz), or such a folder on the hub; or one half of a model of
two towers that `foreign.read_model` reads.
"""

from __future__ import annotations

import dataclasses
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from clipjax import paths, registry
from clipjax.models import classifier
from clipjax.models.common import meaning
from clipjax.option_checks import one_of
from clipjax.types import UserError, Variables
from clipjax.weights import read_model
from clipjax.weights.formats import big_vision, hf_bert, resnets, vits
from clipjax.weights.rename_table import (
    Table,
    model_shapes,
    renamed,
    to_ours,
    to_theirs,
)
from clipjax.weights.tensors import hub, tensor_files, wrappers
from clipjax.weights.tower_description import TowerFormat, TowerSettings

FORMATS: tuple[TowerFormat, ...] = (
    *hf_bert.FORMATS,
    *resnets.FORMATS,
    *vits.FORMATS,
    *big_vision.FORMATS,
)
SIDES = ("image", "text")
KNOWN = (
    "BERT, DistilBERT, ViT and ResNet of Hugging Face, ViT and ResNet of timm and "
    "torchvision, big_vision's .npz, and the towers of two-tower models"
)


@dataclasses.dataclass(frozen=True)
class _Opened:
    """A file of a single tower: its tensors, its format and what it is."""

    tensors: Mapping[str, np.ndarray]
    kind: TowerFormat
    settings: TowerSettings
    place: str


def read_tower(
    name: str, side: str, options: Mapping[str, Any] | None = None
) -> tuple[TowerSettings, Variables, Variables]:
    """A tower's settings, and its parameters and batch_stats as float32 host arrays.

    Args:
      name: a folder, a file, or "hf-hub:org/name" of the Hugging Face hub.
      side: "image" or "text".
      options: of the tower, to be other than the file's: {"pool": "pooler"}.

    Returns batch_stats {} if the tower has none.

    Raises:
      UserError: naming the file and the cause, if there is no such tower, its format
        is unknown, or ours cannot be what it is.
    """
    one_of("side", side, SIDES)
    opened = _open(name, side)
    if opened is None:
        settings, variables = _half(name, side)
        if options:
            settings = _changed(settings, options)
        check_same(build(settings), settings, name)
        return settings, *variables
    settings = _changed(opened.settings, options or {})
    tower = build(settings)
    check_same(tower, opened.settings, opened.place)
    found = _read(opened, table(opened.kind, settings, tower), tower_shapes(tower))
    return settings, found["params"], found.get("batch_stats", {})


def read_classifier(
    name: str,
) -> tuple[TowerSettings, classifier.ClassifierModel, Variables]:
    """An image tower with the classifier over it.

    Raises UserError as `read_tower` does, and if the file has no classifier.
    """
    opened = _open(name, "image")
    if opened is None or not opened.settings.num_classes:
        raise UserError(f"{name} holds no classifier over its image tower")
    kind, settings = opened.kind, opened.settings
    tower = build(settings)
    pixels: Any = {"mean": settings.mean, "std": settings.std}
    model = classifier.make(tower, num_classes=settings.num_classes, **pixels)
    rules = renamed(kind.rules(tower, settings.layout), settings.prefix, "image/")
    whole = Table(kind.name, (*rules, *_head(kind, settings)), tuple(kind.ignored))
    return settings, model, _read(opened, whole, model_shapes(model))


def to_tensors(
    settings: TowerSettings,
    params: Variables,
    batch_stats: Variables | None = None,
    dtypes: Any = "float32",
) -> dict[str, np.ndarray]:
    """The tensors of a tower as a file of its format has them; see table.to_theirs.

    What was read comes back bit for bit, but for what means nothing to the tower.

    Raises UserError for settings that are half of a two-tower model's, and what
    `to_theirs` raises.
    """
    kinds = [kind for kind in FORMATS if kind.name == settings.format]
    if not kinds:
        raise UserError(f"{settings.format} has no files of single towers")
    if vits.BARE_CLASS in settings.layout:
        params = _without_class_position(params)
    variables = {
        "params": params,
        **({"batch_stats": batch_stats} if batch_stats else {}),
    }
    rules = table(kinds[0], settings, build(settings))
    return to_theirs(rules, variables, dtypes)


def build(settings: TowerSettings) -> Any:
    """The tower, a Linen module; raises UserError if ours has no such sizes."""
    make = registry.load(settings.side, settings.component)
    sizes = (settings.size,)
    if settings.side == "text":
        sizes = (settings.vocab_size, settings.size)
    return make(*sizes, **settings.options)


def table(kind: TowerFormat, settings: TowerSettings, tower: Any) -> Table:
    """The rules for a tower alone: whatever is above it in the file is ignored."""
    rules = renamed(kind.rules(tower, settings.layout), settings.prefix)
    head = [re.escape(name) for rule in _head(kind, settings) for name in rule.names]
    return Table(kind.name, tuple(rules), (*kind.ignored, *kind.heads, *head))


def tower_shapes(tower: Any) -> Variables:
    """A tower's variables as shapes; computes nothing."""
    if hasattr(tower, "image_size"):
        inputs = [((1, tower.image_size, tower.image_size, 3), jnp.float32)]
    else:
        length = tower.context_length
        inputs = [((1, length), jnp.int32), ((1, length), jnp.bool_)]
    given = [jax.ShapeDtypeStruct(*one) for one in inputs]
    return jax.eval_shape(
        lambda key, *given: tower.init(key, *given, False), jax.random.key(0), *given
    )


def check_same(tower: Any, settings: TowerSettings, place: str) -> None:
    """Raises UserError if a tower computes otherwise than the released one.

    Rates of dropout and the like may differ, and how a text is pooled; see
    models/common/meaning.py.
    """
    path = f"model.{settings.side}"
    meaning.check(tower, build(settings), place, path, alone=True)


def _open(name: str, side: str) -> _Opened | None:
    """None for a two-tower model."""
    if name.startswith(hub.PREFIX):
        folder = hub.fetch(name, read_model.WEIGHTS)
    else:
        folder = paths.given(name)
    config, weights = read_model.parts(folder)
    if config is not None and any(x.recognise(config, ()) for x in read_model.FORMATS):
        return None
    tensors = wrappers.without_words(
        tensor_files.read(weights),
        lambda found: any(
            kind.recognise(config, {name: array.shape for name, array in found.items()})
            for kind in (*FORMATS, *read_model.FORMATS)
        ),
    )
    shapes = {name: array.shape for name, array in tensors.items()}
    kinds = [kind for kind in FORMATS if kind.recognise(config, shapes)]
    if not kinds and any(x.recognise(config, tensors) for x in read_model.FORMATS):
        return None
    place = str(weights)
    for kind in kinds:
        if kind.side == side:
            settings = _described(kind, config, shapes, weights)
            return _Opened(tensors, kind, settings, place)
    if kinds:
        raise UserError(f"{place} holds {kinds[0].side}, not a tower for side={side!r}")
    beside = f" with the {read_model.hf_common.CONFIG} beside it" if config else ""
    raise UserError(
        f"{place}{beside} is no tower that clipjax reads (its tensors are called "
        f"{read_model.some(tensors)}); it reads {KNOWN}"
    )


def _described(
    kind: TowerFormat,
    config: Mapping[str, Any] | None,
    shapes: Mapping[str, tuple[int, ...]],
    weights: pathlib.Path,
) -> TowerSettings:
    """What a file is, which our towers can be."""
    try:
        settings = kind.settings(config, shapes, weights.parent, str(weights))
        try:
            build(settings)
        except UserError as error:  # of a config's words, if no file is known
            raise UserError(f"{weights}: {error}") from error
        return settings
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"the settings beside {weights} are damaged or of an unknown form "
            f"({type(error).__name__}: {error})"
        ) from error


def _half(name: str, side: str) -> tuple[TowerSettings, tuple[Variables, Variables]]:
    """A tower of a two-tower model."""
    whole, variables = read_model.read_model(name)
    params, stats = (
        variables.get(kind, {}).get(side, {}) for kind in ("params", "batch_stats")
    )
    return read_model.half(whole, side), (params, stats)


def _changed(settings: TowerSettings, options: Mapping[str, Any]) -> TowerSettings:
    merged = {**settings.options, **options}
    return dataclasses.replace(settings, options=merged)


def _head(kind: TowerFormat, settings: TowerSettings) -> Any:
    prefix = settings.prefix if kind.head_inside else ""
    return renamed(kind.head, prefix)


def _read(opened: _Opened, rules: Table, shapes: Variables) -> Variables:
    return to_ours(rules, opened.tensors, shapes, opened.place)


def _without_class_position(params: Variables) -> Variables:
    """The same tower with a class token at position zero."""
    token, positions = (np.asarray(params[x]) for x in ("class_token", "positions"))
    moved = np.where(positions[0] == 0, token, token + positions[0])
    positions = np.concatenate([np.zeros_like(positions[:1]), positions[1:]])
    return {**params, "class_token": moved, "positions": positions}
