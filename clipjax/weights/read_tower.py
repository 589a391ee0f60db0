"""Reads single towers of other projects: their settings and arrays.

    settings, params, batch_stats = read_tower("bert-base-uncased/", "text")
    tower = build(settings)
    tower.apply({"params": params}, ids, mask, False)

A tower is a folder with config.json (Hugging Face, timm) and weights, a file
(torchvision, big_vision's .npz), such a folder on the hub, or one tower of a two-tower
model that `read_model.read_model` reads.
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
    rename_rules,
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
    "BERT, RoBERTa, XLM-RoBERTa, DistilBERT, ViT and ResNet of Hugging Face, ViT and "
    "ResNet of timm and torchvision, big_vision's .npz, and the towers of two-tower "
    "models"
)


@dataclasses.dataclass(frozen=True)
class _Opened:
    """A single tower's file: its tensors, format and settings."""

    tensors: Mapping[str, np.ndarray]
    kind: TowerFormat
    settings: TowerSettings
    origin: str


def read_tower(
    name: str, side: str, options: Mapping[str, Any] | None = None
) -> tuple[TowerSettings, Variables, Variables]:
    """A tower's settings, and its parameters and batch_stats as float32 host arrays.

    Args:
      name: a folder, a file, or "hf-hub:org/name" on the Hugging Face hub.
      side: "image" or "text".
      options: tower options that replace those from the file: {"pool": "pooler"}.

    Returns batch_stats {} if the tower has none.

    Raises:
      UserError: naming the file and the cause, if the tower is absent, its format is
        unknown, or clipjax has no such tower.
    """
    one_of("side", side, SIDES)
    opened = _open(name, side)
    if opened is None:
        settings, variables = _tower_of_model(name, side)
        if options:
            settings = _with_options(settings, options)
        check_same(build(settings), settings, name)
        return settings, *variables
    settings = _with_options(opened.settings, options or {})
    tower = build(settings)
    check_same(tower, opened.settings, opened.origin)
    rules = table(opened.kind, settings, tower)
    variables = _read(opened, rules, tower_shapes(tower))
    return settings, variables["params"], variables.get("batch_stats", {})


def read_classifier(
    name: str,
) -> tuple[TowerSettings, classifier.ClassifierModel, Variables]:
    """Reads an image tower and the classifier over it.

    Raises UserError as `read_tower` does, and if the file has no classifier.
    """
    opened = _open(name, "image")
    if opened is None or not opened.settings.num_classes:
        raise UserError(f"{name} holds no classifier over its image tower")
    kind, settings = opened.kind, opened.settings
    tower = build(settings)
    pixels: Any = {"mean": settings.mean, "std": settings.std}
    model = classifier.make(tower, num_classes=settings.num_classes, **pixels)
    rules = rename_rules(kind.rules(tower, settings.layout), settings.prefix, "image/")
    rules = (*rules, *_head_rules(kind, settings))
    all_rules = Table(kind.name, rules, tuple(kind.ignored))
    return settings, model, _read(opened, all_rules, model_shapes(model))


def to_tensors(
    settings: TowerSettings,
    params: Variables,
    batch_stats: Variables | None = None,
    dtypes: Any = "float32",
) -> dict[str, np.ndarray]:
    """A tower's tensors as a file of its format has them; see rename_table.to_theirs.

    Tensors that `read_tower` read come back bit for bit, without those it ignored.

    Raises UserError for settings of a two-tower model's tower, and what `to_theirs`
    raises.
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
    """The tower, a Linen module; raises UserError if ours cannot have its sizes."""
    make = registry.load(settings.side, settings.component)
    sizes = (settings.size,)
    if settings.side == "text":
        sizes = (settings.vocab_size, settings.size)
    return make(*sizes, **settings.options)


def table(kind: TowerFormat, settings: TowerSettings, tower: Any) -> Table:
    """The rules for a tower alone; layers above it in the file are ignored."""
    rules = rename_rules(kind.rules(tower, settings.layout), settings.prefix)
    head = [
        re.escape(name) for rule in _head_rules(kind, settings) for name in rule.names
    ]
    return Table(kind.name, tuple(rules), (*kind.ignored, *kind.heads, *head))


def tower_shapes(tower: Any) -> Variables:
    """The shapes of a tower's variables, by tracing only."""
    if hasattr(tower, "image_size"):
        inputs = [((1, tower.image_size, tower.image_size, 3), jnp.float32)]
    else:
        length = tower.context_length
        inputs = [((1, length), jnp.int32), ((1, length), jnp.bool_)]
    structs = [jax.ShapeDtypeStruct(*shape_and_dtype) for shape_and_dtype in inputs]
    return jax.eval_shape(
        lambda key, *arrays: tower.init(key, *arrays, False),
        jax.random.key(0),
        *structs,
    )


def check_same(tower: Any, settings: TowerSettings, origin: str) -> None:
    """Raises UserError if a tower computes something else than the released one.

    Rates of dropout and the like, and a text's pooling, may differ; see
    models/common/meaning.py.
    """
    path = f"model.{settings.side}"
    meaning.check(tower, build(settings), origin, path, alone=True)


def _open(name: str, side: str) -> _Opened | None:
    """Opens a single tower's file; None for a two-tower model."""
    name = hub.full_name(name)
    if name.startswith(hub.PREFIX):
        folder = hub.fetch(name, read_model.WEIGHTS)
    else:
        folder = paths.expand(name)
    config, weights = read_model.find_files(folder)
    if config is not None and any(x.recognise(config, ()) for x in read_model.FORMATS):
        return None
    tensors = wrappers.without_words(
        tensor_files.read(weights),
        lambda named: any(
            kind.recognise(config, {name: array.shape for name, array in named.items()})
            for kind in (*FORMATS, *read_model.FORMATS)
        ),
    )
    shapes = {name: array.shape for name, array in tensors.items()}
    kinds = [kind for kind in FORMATS if kind.recognise(config, shapes)]
    if not kinds and any(x.recognise(config, tensors) for x in read_model.FORMATS):
        return None
    origin = str(weights)
    for kind in kinds:
        if kind.side == side:
            settings = _describe(kind, config, shapes, weights)
            return _Opened(tensors, kind, settings, origin)
    if kinds:
        raise UserError(
            f"{origin} holds a tower for side={kinds[0].side!r}, not for side={side!r}"
        )
    beside = f" with the {read_model.hf_common.CONFIG} beside it" if config else ""
    raise UserError(
        f"{origin}{beside} is no tower that clipjax reads (its tensors are called "
        f"{read_model.first_names(tensors)}); it reads {KNOWN}"
    )


def _describe(
    kind: TowerFormat,
    config: Mapping[str, Any] | None,
    shapes: Mapping[str, tuple[int, ...]],
    weights: pathlib.Path,
) -> TowerSettings:
    """The settings of a file that one of our towers can have."""
    try:
        settings = kind.settings(config, shapes, weights.parent, str(weights))
        try:
            build(settings)
        except UserError as error:  # names the option; the file is added
            raise UserError(f"{weights}: {error}") from error
        return settings
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"the settings beside {weights} are damaged or of an unknown form "
            f"({type(error).__name__}: {error})"
        ) from error


def _tower_of_model(
    name: str, side: str
) -> tuple[TowerSettings, tuple[Variables, Variables]]:
    """The settings, params and batch_stats of one tower of a two-tower model."""
    model_settings, variables = read_model.read_model(name)
    params, stats = (
        variables.get(kind, {}).get(side, {}) for kind in ("params", "batch_stats")
    )
    return read_model.tower_of(model_settings, side), (params, stats)


def _with_options(settings: TowerSettings, options: Mapping[str, Any]) -> TowerSettings:
    merged = {**settings.options, **options}
    return dataclasses.replace(settings, options=merged)


def _head_rules(kind: TowerFormat, settings: TowerSettings) -> Any:
    prefix = settings.prefix if kind.head_inside else ""
    return rename_rules(kind.head, prefix)


def _read(opened: _Opened, rules: Table, shapes: Variables) -> Variables:
    return to_ours(rules, opened.tensors, shapes, opened.origin)


def _without_class_position(params: Variables) -> Variables:
    """The same parameters with the class token's position added to the token."""
    token, positions = (np.asarray(params[x]) for x in ("class_token", "positions"))
    moved = np.where(positions[0] == 0, token, token + positions[0])
    positions = np.concatenate([np.zeros_like(positions[:1]), positions[1:]])
    return {**params, "class_token": moved, "positions": positions}
