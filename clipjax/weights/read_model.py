"""Reads two-tower models of other projects: their settings and variables.

    settings, variables = read_model("hf-hub:openai/clip-vit-base-patch32")
    model = build(settings)

A model is a folder with config.json (Hugging Face) or open_clip_config.json
(open_clip) and weights, the weight file in such a folder, a file of OpenAI's or
big_vision's, or such a folder on the hub. A module in FORMATS has

    FORMAT: its name
    recognise(config, names) -> whether a model has this format; config is None for a
      file without settings
    settings(config, shapes, folder), settings_of_file(tensors, path) -> Settings
    table(model, layout) -> Table
"""

from __future__ import annotations

import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from clipjax import paths
from clipjax.data.storage import file_contents
from clipjax.models.two_tower import TwoTowerModel
from clipjax.types import UserError, Variables
from clipjax.weights.beside import tokenizer_choice
from clipjax.weights.formats import (
    big_vision_siglip,
    hf_clip,
    hf_common,
    hf_siglip,
    open_clip,
    open_clip_nearest,
)
from clipjax.weights.model_description import Settings, build, section
from clipjax.weights.rename_table import model_shapes, to_ours
from clipjax.weights.tensors import hub, tensor_files, wrappers
from clipjax.weights.tower_description import TowerSettings

FORMATS = (hf_clip, hf_siglip, open_clip, big_vision_siglip)
# The same weights in another precision, as transformers' `variant` names them.
VARIANTS = ("fp32", "fp16", "bf16")
# A folder's settings file -> names of its weight file; the first that exists is read.
WEIGHTS = {
    open_clip.CONFIG: (
        "open_clip_model.safetensors",
        "open_clip_pytorch_model.safetensors",
        "open_clip_pytorch_model.bin",
        "open_clip_model.safetensors.index.json",
        "open_clip_pytorch_model.bin.index.json",
    ),
    hf_common.CONFIG: (
        "model.safetensors",
        "model.safetensors.index.json",
        "pytorch_model.bin",
        "pytorch_model.bin.index.json",
        *(
            name
            for variant in VARIANTS
            for name in (
                f"model.{variant}.safetensors",
                f"model.safetensors.index.{variant}.json",
                f"pytorch_model.{variant}.bin",
                f"pytorch_model.bin.index.{variant}.json",
            )
        ),
    ),
}
NPZ = ".npz"
RUN_KEY = "evals"  # in the config.json of every run, and of no foreign model
SCALE = "logit_scale"  # in every two-tower model that has a settings file
KNOWN = (
    f"a folder with {hf_common.CONFIG} of Hugging Face's CLIPModel or SiglipModel, one "
    f"with {open_clip.CONFIG}, a file of OpenAI's CLIP, or an .npz of SigLIP's two "
    "towers"
)


def is_foreign(name: str) -> bool:
    """Whether a name is a foreign model's and not a run directory's."""
    name = hub.full_name(name)
    if name.startswith(hub.PREFIX):
        return True
    path = paths.local(name, "a model")
    if path.is_file():
        return True
    if (path / open_clip.CONFIG).is_file():
        return True
    try:
        config = tokenizer_choice.read_json(path / hf_common.CONFIG)
    except UserError:
        return False  # read as a run, which raises a clear error
    return bool(config) and RUN_KEY not in config


def short_name(name: str) -> str:
    """The last part of a foreign model's name, for files named after it."""
    name = hub.full_name(name)
    if name.startswith(hub.PREFIX):
        return name.rpartition("/")[2]
    path = paths.local(name, "a model")
    return path.stem if path.is_file() else path.name


def read_model(name: str) -> tuple[Settings, Variables]:
    """A foreign model's settings, and its variables as float32 host arrays.

    name: a folder, a file, or "hf-hub:org/name" or a well-known name (hub.KNOWN) on
    the Hugging Face hub, which is stored in the hub's cache.

    Raises UserError, naming the file and the cause, if the model is absent, its format
    is unknown, or clipjax has no such towers.
    """
    kind, settings, model, tensors, weights = _opened(name)
    table = kind.table(model, settings.layout)
    return settings, to_ours(table, tensors, model_shapes(model), str(weights))


def describe(name: str) -> Settings:
    """A foreign model's settings; its weights are not converted.

    name: as of `read_model`, which also says what is raised.
    """
    return _opened(name)[1]


def _opened(
    name: str,
) -> tuple[Any, Settings, TwoTowerModel, Mapping[str, Any], pathlib.Path]:
    """A model's format, settings, model, tensors and weight file."""
    name = hub.full_name(name)
    if name.startswith(hub.PREFIX):
        path = hub.fetch(name, WEIGHTS)
    else:
        path = paths.expand(name)
    config, weights = find_files(path)
    tensors = wrappers.without_words(
        tensor_files.read(weights), lambda names: SCALE in names
    )
    kind = _recognise(config, tensors, weights)
    if config is not None and SCALE not in tensors:
        raise UserError(
            f"{weights} holds no two-tower model that clipjax reads: it has no "
            f"{SCALE!r}; its tensors are called {first_names(tensors)}"
        )
    settings, model = _describe(kind, config, tensors, weights)
    return kind, settings, model, tensors, weights


def first_names(tensors: Iterable[str]) -> str:
    """The first names of tensors, for messages."""
    names = sorted(tensors)
    return ", ".join(map(repr, names[:3])) + (", ..." if len(names) > 3 else "")


def tower_of(settings: Settings, side: str) -> TowerSettings:
    """The settings of one tower of a two-tower model; side: "image" or "text"."""
    options = settings.model_options
    if side == "text":
        return TowerSettings(
            format=settings.format,
            side=side,
            component=settings.text,
            options=settings.text_options,
            size=settings.context_length,
            vocab_size=settings.vocab_size,
        )
    return TowerSettings(
        format=settings.format,
        side=side,
        component=settings.image,
        options=settings.image_options,
        size=settings.image_size,
        mean=options["mean"],
        std=options["std"],
        preprocess=section(settings, "preprocess"),
    )


def find_files(path: pathlib.Path) -> tuple[dict[str, Any] | None, pathlib.Path]:
    """A model's settings, None for a file without any, and its weight file.

    A weight file is read with the settings in its folder if there are any. Without them
    a model with another activation, or with blocks of the same names, would be taken
    for another model.
    """
    if not path.is_dir():
        return _settings_beside(path), path
    present = []
    for settings, names in WEIGHTS.items():
        if not (path / settings).is_file():
            continue
        present.append(settings)
        for name in names:
            if (path / name).is_file():
                return tokenizer_choice.read_json(path / settings), path / name
    if present:
        names = ", ".join(WEIGHTS[present[0]][:4])
        raise UserError(
            f"{path} has {present[0]} but no weight file by a name that clipjax reads "
            f"({names}, ...): {file_contents.summary(path)}. Name the file if it has "
            "another name; shards need their .index.json"
        )
    raise UserError(f"{path} holds no model that clipjax reads; it reads {KNOWN}")


def _settings_beside(file: pathlib.Path) -> dict[str, Any] | None:
    """The settings in a weight file's folder, first of the kind that has its name."""
    if file.suffix == NPZ or not file.is_file():
        return None  # big_vision's files have no settings
    kinds = sorted(WEIGHTS, key=lambda kind: file.name not in WEIGHTS[kind])
    for settings in kinds:
        config = tokenizer_choice.read_json(file.with_name(settings))
        if config and RUN_KEY not in config:
            return config
    return None


def _recognise(
    config: Mapping[str, Any] | None, tensors: Mapping[str, Any], path: pathlib.Path
) -> Any:
    for kind in FORMATS:
        if kind.recognise(config, tensors):
            return kind
    what, origin, near = "its set of tensors", str(path), ""
    if config is not None:
        model_type = config.get("model_type")
        what = f"model_type={model_type!r}"
        origin = f"{path} and the settings beside it"
        name = open_clip_nearest.OF_MODEL_TYPE.get(str(model_type))
        near = f". The nearest model that it reads is open_clip's {name}" * bool(name)
    raise UserError(
        f"{origin}: {what} is of no format that clipjax reads; it reads {KNOWN}{near}"
    )


def _describe(
    kind: Any,
    config: Mapping[str, Any] | None,
    tensors: Mapping[str, np.ndarray],
    weights: pathlib.Path,
) -> tuple[Settings, TwoTowerModel]:
    try:
        if config is None:
            settings = kind.settings_of_file(tensors, str(weights))
        else:
            shapes = {name: array.shape for name, array in tensors.items()}
            settings = kind.settings(config, shapes, weights.parent)
        return settings, build(settings)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"the settings beside {weights} are damaged or of an unknown form "
            f"({type(error).__name__}: {error})"
        ) from error
