"""Writes a two-tower model as a folder that transformers or open_clip loads."""

from __future__ import annotations

import contextlib
import math
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from clipjax import atomic_files, downloads
from clipjax.data.tokenizers.hf_json import HfTokenizer
from clipjax.models.common import lora
from clipjax.models.image.vit import VisionTransformer
from clipjax.models.two_tower import TwoTowerModel
from clipjax.types import Config, Model, Tokenizer, UserError, Variables
from clipjax.weights.beside import preprocessing, tokenizer_files
from clipjax.weights.formats import (
    equivalents,
    hf_clip,
    hf_common,
    hf_siglip,
    open_clip,
    open_clip_config,
)
from clipjax.weights.read_model import WEIGHTS
from clipjax.weights.rename_table import DTYPES, to_theirs
from clipjax.weights.tensors import tensor_files

FORMATS = ("hf", "open_clip")
# The tokenizer's section of one of ours that is written as a tokenizer.json.
RELEASED = {"name": "hf_json", "lowercase": False, "canonicalize": False}


def write(
    out: pathlib.Path,
    target: str,
    config: Config,
    model: Model,
    variables: Variables,
    tokenizer: Tokenizer,
    dtype: str = "float32",
) -> list[str]:
    """Writes a model, its tokenizer and image transform in a foreign format.

    Args:
      out: the folder to make, atomically.
      target: "hf" for Hugging Face's CLIPModel or SiglipModel, or "open_clip".
      config: the run's, for its data.tokenizer and data.preprocess.
      dtype: the tensors' dtype: float32, float16 or bfloat16.

    Returns what differs from the model's own settings, for the user.

    Raises:
      UserError: for a setting that the format lacks, or if out exists.
    """
    if target not in FORMATS:
        raise UserError(f"--format={target}: must be one of {', '.join(FORMATS)}")
    if dtype not in DTYPES:
        raise UserError(f"--dtype={dtype}: must be one of {', '.join(DTYPES)}")
    towers, variables = _without_additions(model, variables)
    section, tokenizer, variables = _portable(
        config.data.tokenizer, tokenizer, variables
    )
    ends = tokenizer_files.ends(tokenizer)
    ours = towers.module
    towers, variables = _standard(target, towers, variables, ends)
    module = towers.module
    with _folder(out) as folder:
        files = _settings(target, towers, ends, config, section, out.name)
        if target == "open_clip":
            text = files[open_clip.CONFIG]["model_cfg"]["text_cfg"]
            with_tokenizer = "hf_tokenizer_name" in text
            table = open_clip.table(towers, frozenset())
            name = WEIGHTS[open_clip.CONFIG][0]
        else:
            with_tokenizer = True
            files[hf_common.CONFIG]["dtype"] = dtype
            table = _hf_kind(towers).table(towers, frozenset())
            name = WEIGHTS[hf_common.CONFIG][0]
        for file, content in files.items():
            tokenizer_files.write_json(folder / file, content)
        if with_tokenizer:
            tokenizer_files.write(section, tokenizer, folder)
        tensors = to_theirs(table, variables, dtype)
        # transformers requires this metadata.
        tensor_files.write_safetensors(folder / name, tensors, {"format": "pt"})
    return [
        f"the {side} tower is written {new.width} wide instead of {old.width}, with "
        f"the same embeddings: {target} has none with its pooling or mask"
        for side in ("image", "text")
        if (new := getattr(module, side)) != (old := getattr(ours, side))
        and new.width != old.width
    ]


def limits(config: Config, model: Model, tokenizer: Tokenizer | None) -> dict[str, str]:
    """Format -> why `write` refuses a model, "" if it does not.

    Cheap: nothing is computed, so it also says so of a model that is yet to be trained.
    """
    found = {}
    for target in FORMATS:
        try:
            _check(target, config, model, tokenizer)
            found[target] = ""
        except UserError as error:
            found[target] = str(error)
    return found


def describe_limits(config: Config, model: Model, tokenizer: Tokenizer | None) -> str:
    """The formats that a model can be exported to, and what stands in the way of each
    other one, for the first lines of a run."""
    found = limits(config, model, tokenizer)
    able = [target for target, why in found.items() if not why]
    reasons: dict[str, list[str]] = {}
    for target, why in found.items():
        if why:
            reasons.setdefault(why, []).append(target)
    parts = [f"to {' and '.join(able)}"] if able else []
    parts += [f"not to {' or '.join(them)}: {why}" for why, them in reasons.items()]
    return f"export: {'; '.join(parts)}"


def _check(
    target: str, config: Config, model: Model, tokenizer: Tokenizer | None
) -> None:
    """Raises UserError for what a format lacks, as `write` does."""
    plain: Any = model
    while not isinstance(plain, TwoTowerModel) and hasattr(plain, "model"):
        plain = plain.model  # in LoRA or frozen parts
    towers = _two_towers(plain)
    assert tokenizer is not None  # two towers have one
    section: Any = config.data.tokenizer
    ends = tokenizer_files.ends(tokenizer)
    if hasattr(tokenizer, "released"):
        if section["name"] != "wordpiece":  # see _portable
            ends = ends._replace(end=tokenizer.vocab_size - 1)
        section = RELEASED
    tokenizer_files.check(section)
    towers, _ = _standard(target, towers, None, ends)
    _settings(target, towers, ends, config, section, "")


def _settings(
    target: str,
    towers: TwoTowerModel,
    ends: tokenizer_files.Ends,
    config: Config,
    section: Any,
    folder: str,
) -> dict[str, dict[str, Any]]:
    """File name -> its JSON: the model's settings and its image transform's.

    Raises UserError for an option that the format lacks.
    """
    preprocess, module = config.data.preprocess, towers.module
    if target == "open_clip":
        keys = tokenizer_files.open_clip_keys(section, folder)
        settings = open_clip_config.config_json(towers, ends, preprocess, keys)
        return {open_clip.CONFIG: settings}
    settings = _hf_kind(towers).config_json(towers, ends)
    size = module.image.image_size
    processor = preprocessing.to_hf(preprocess, size, module.mean, module.std)
    return {hf_common.CONFIG: settings, preprocessing.HF_FILE: processor}


def _standard(
    target: str, model: TwoTowerModel, variables: Variables | None, ends: Any
) -> tuple[TwoTowerModel, Variables]:
    """The model in towers that the format has, as far as there are any."""
    model, variables = equivalents.learned_positions(model, variables)
    if target == "open_clip":
        return equivalents.for_open_clip(model, variables or None, ends)
    return model, variables


def _hf_kind(model: TwoTowerModel) -> Any:
    """The module of the format of transformers that is nearest to the towers."""
    tower = model.module.image
    siglip = isinstance(tower, VisionTransformer) and tower.pool == "map"
    return hf_siglip if siglip else hf_clip


def _portable(
    section: Any, tokenizer: Any, variables: Variables
) -> tuple[Any, Tokenizer, Variables]:
    """Our own tokenizer as one of the `tokenizers` library.

    The end token and the last one swap their ids, and therefore their embeddings.
    """
    if section["name"] == "wordpiece":
        return RELEASED, tokenizer, variables
    if not hasattr(tokenizer, "released"):
        return section, tokenizer, variables
    ours = tokenizer_files.ends(tokenizer)
    converted = HfTokenizer(tokenizer.released(), tokenizer.context_length)
    params = dict(variables["params"])
    table = np.array(params["text"]["token_embedding"])
    swapped = [ours.end, tokenizer_files.ends(converted).end]
    table[swapped] = table[swapped[::-1]]
    params["text"] = {**params["text"], "token_embedding": table}
    return RELEASED, converted, {**variables, "params": params}


def _without_additions(
    model: Model, variables: Variables
) -> tuple[TwoTowerModel, Variables]:
    """The model with LoRA merged, without expanders, and with a logit_scale parameter.

    Raises UserError for another kind of model.
    """
    model, variables = lora.merged(model, variables)
    towers = _two_towers(model)
    params = {
        name: part
        for name, part in variables["params"].items()
        if not name.endswith("_expander")
    }
    if not towers.module.learnable_scale:
        params["logit_scale"] = np.float32(math.log(towers.module.logit_scale_init))
    stats = variables.get("batch_stats")
    return towers, {"params": params, **({"batch_stats": stats} if stats else {})}


def _two_towers(model: Any) -> TwoTowerModel:
    """The model; raises UserError for another kind."""
    if not isinstance(model, TwoTowerModel):
        raise UserError(
            f"this model ({type(model).__name__}) cannot be exported: only two-tower "
            "models can"
        )
    return model


@contextlib.contextmanager
def _folder(out: pathlib.Path) -> Iterator[pathlib.Path]:
    """A folder to fill; it becomes `out`, or is removed if an exception is raised.

    Raises UserError if `out` exists, its parent does not, or writing fails.
    """
    if out.exists():
        raise UserError(f"{out} already exists: name another folder, or remove it")
    if not out.parent.is_dir():
        raise UserError(f"{out.parent} does not exist: create it first")
    try:
        with atomic_files.new_folder(out) as folder:
            yield folder
    except OSError as error:
        raise UserError(
            f"cannot write {out} ({downloads.one_line(error)}): free space, or name a "
            "folder that can be written"
        ) from error
