"""Two-tower models that others released: what they are, and their variables.

    settings, variables = read_model("hf-hub:openai/clip-vit-base-patch32")
    model = build(settings)

A model is a folder with config.json (Hugging Face) or open_clip_config.json
(open_clip) beside its weights, the file of weights in it, a file of OpenAI's or
big_vision's, or such a folder on the hub. A module of FORMATS has

    FORMAT: its name
    recognise(config, names) -> whether it is of this format; config is None for a file
    settings(config, shapes, folder), settings_of_file(tensors, place) -> Settings
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
)
from clipjax.weights.model_description import Settings, build, section
from clipjax.weights.rename_table import model_shapes, to_ours
from clipjax.weights.tensors import hub, tensor_files, wrappers
from clipjax.weights.tower_description import TowerSettings

FORMATS = (hf_clip, hf_siglip, open_clip, big_vision_siglip)
# The same weights in another precision, as transformers' `variant` names them.
VARIANTS = ("fp32", "fp16", "bf16")
# Where a folder has its weights, by its file of settings; the first that is there.
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
SCALE = "logit_scale"  # which every model of two towers has, of those with settings
KNOWN = (
    f"a folder with {hf_common.CONFIG} of Hugging Face's CLIPModel or SiglipModel, one "
    f"with {open_clip.CONFIG}, a file of OpenAI's CLIP, or an .npz of SigLIP's two "
    "towers"
)


def is_foreign(name: str) -> bool:
    """Whether a name is that of a foreign model and not of a run directory."""
    if name.startswith(hub.PREFIX):
        return True
    place = paths.local(name, "a model")
    if place.is_file():
        return True
    if (place / open_clip.CONFIG).is_file():
        return True
    try:
        config = tokenizer_choice.read_json(place / hf_common.CONFIG)
    except UserError:
        return False  # whoever reads it as a run says what is wrong
    return bool(config) and "evals" not in config  # as every run's has


def read_model(name: str) -> tuple[Settings, Variables]:
    """A foreign model's settings, and its variables as float32 arrays of the host.

    name: a folder, a file, or "hf-hub:org/name" of the Hugging Face hub, which is kept
    in the hub's cache.

    Raises UserError, naming the file and the cause, if there is no such model, its
    format is unknown, or our towers cannot be what it is.
    """
    if name.startswith(hub.PREFIX):
        place = hub.fetch(name, WEIGHTS)
    else:
        place = paths.given(name)
    config, weights = parts(place)
    tensors = wrappers.without_words(
        tensor_files.read(weights), lambda names: SCALE in names
    )
    kind = _recognise(config, tensors, weights)
    if config is not None and SCALE not in tensors:
        raise UserError(
            f"{weights} holds no model of two towers by the names that clipjax reads: "
            f"it has no {SCALE!r}; its tensors are called {some(tensors)}"
        )
    settings, model = _described(kind, config, tensors, weights)
    table = kind.table(model, settings.layout)
    return settings, to_ours(table, tensors, model_shapes(model), str(weights))


def some(names: Iterable[str]) -> str:
    """The first names of tensors, for messages."""
    found = sorted(names)
    return ", ".join(map(repr, found[:3])) + (", ..." if len(found) > 3 else "")


def half(settings: Settings, side: str) -> TowerSettings:
    """A tower of a two-tower model; side: "image" or "text"."""
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


def parts(place: pathlib.Path) -> tuple[dict[str, Any] | None, pathlib.Path]:
    """The settings of a model, None for a bare file, and the file of its weights.

    A file is read by the settings in its folder if there are some: without them a
    model of another activation, or of blocks with the same names, would pass for one
    that it is not.
    """
    if not place.is_dir():
        return _beside(place), place
    found = []
    for settings, names in WEIGHTS.items():
        if not (place / settings).is_file():
            continue
        found.append(settings)
        for name in names:
            if (place / name).is_file():
                return tokenizer_choice.read_json(place / settings), place / name
    if found:
        names = ", ".join(WEIGHTS[found[0]][:4])
        raise UserError(
            f"{place} has {found[0]} but no weights by a name that clipjax reads "
            f"({names}, ...): {file_contents.summary(place)}. Name the file if it is "
            "called otherwise; shards need their .index.json"
        )
    raise UserError(f"{place} holds no model that clipjax reads; it reads {KNOWN}")


def _beside(file: pathlib.Path) -> dict[str, Any] | None:
    """The settings in the folder of a file of weights: those of its name, else any."""
    if file.suffix == NPZ or not file.is_file():
        return None  # big_vision's, which never has any, or none that can be read
    kinds = sorted(WEIGHTS, key=lambda kind: file.name not in WEIGHTS[kind])
    for settings in kinds:
        config = tokenizer_choice.read_json(file.with_name(settings))
        if config and "evals" not in config:  # a run's
            return config
    return None


def _recognise(
    config: Mapping[str, Any] | None, tensors: Mapping[str, Any], place: pathlib.Path
) -> Any:
    for kind in FORMATS:
        if kind.recognise(config, tensors):
            return kind
    what, where = "its tensors", place
    if config is not None:
        what = f"model_type={config.get('model_type')!r}"
        where = f"{place} and the settings beside it"
    raise UserError(f"{where}: {what} is of no format that clipjax reads: {KNOWN}")


def _described(
    kind: Any,
    config: Mapping[str, Any] | None,
    tensors: Mapping[str, np.ndarray],
    weights: pathlib.Path,
) -> tuple[Settings, TwoTowerModel]:
    try:
        if config is None:
            found = kind.settings_of_file(tensors, str(weights))
        else:
            shapes = {name: array.shape for name, array in tensors.items()}
            found = kind.settings(config, shapes, weights.parent)
        return found, build(found)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"the settings beside {weights} are damaged or of an unknown form "
            f"({type(error).__name__}: {error})"
        ) from error
