"""Writes a two-tower model as a folder that transformers or open_clip loads."""

from __future__ import annotations

import contextlib
import math
import os
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any

import numpy as np

from clipjax import downloads
from clipjax.data.tokenizers.hf_json import HfTokenizer
from clipjax.models.common.lora import LoraModel
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
    preprocess = config.data.preprocess
    ours = towers.module
    towers, variables = _standard(target, towers, variables, ends)
    module = towers.module
    with _folder(out) as folder:
        if target == "open_clip":
            text_keys = tokenizer_files.open_clip_keys(section, out.name)
            settings = open_clip_config.config_json(towers, ends, preprocess, text_keys)
            tokenizer_files.write_json(folder / open_clip.CONFIG, settings)
            table = open_clip.table(towers, frozenset())
            name = WEIGHTS[open_clip.CONFIG][0]
            if "hf_tokenizer_name" in text_keys:
                tokenizer_files.write(section, tokenizer, folder)
        else:
            kind = hf_siglip if _is_siglip(towers) else hf_clip
            settings = kind.config_json(towers, ends) | {"dtype": dtype}
            size = module.image.image_size
            processor = preprocessing.to_hf(preprocess, size, module.mean, module.std)
            tokenizer_files.write_json(folder / hf_common.CONFIG, settings)
            tokenizer_files.write_json(folder / preprocessing.HF_FILE, processor)
            table = kind.table(towers, frozenset())
            name = WEIGHTS[hf_common.CONFIG][0]
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


def _standard(
    target: str, model: TwoTowerModel, variables: Variables | None, ends: Any
) -> tuple[TwoTowerModel, Variables]:
    """The model in towers that the format has, as far as there are any."""
    model, variables = equivalents.learned_positions(model, variables)
    if target == "open_clip":
        return equivalents.for_open_clip(model, variables or None, ends)
    return model, variables


def _is_siglip(model: TwoTowerModel) -> bool:
    tower = model.module.image
    return isinstance(tower, VisionTransformer) and tower.pool == "map"


def _portable(
    section: Any, tokenizer: Any, variables: Variables
) -> tuple[Any, Tokenizer, Variables]:
    """Our own tokenizer as one of the `tokenizers` library.

    The end token and the last one swap their ids, and therefore their embeddings.
    """
    released = {"name": "hf_json", "lowercase": False, "canonicalize": False}
    if section["name"] == "wordpiece":
        return released, tokenizer, variables
    if not hasattr(tokenizer, "released"):
        return section, tokenizer, variables
    ours = tokenizer_files.ends(tokenizer)
    converted = HfTokenizer(tokenizer.released(), tokenizer.context_length)
    params = dict(variables["params"])
    table = np.array(params["text"]["token_embedding"])
    swapped = [ours.end, tokenizer_files.ends(converted).end]
    table[swapped] = table[swapped[::-1]]
    params["text"] = {**params["text"], "token_embedding": table}
    return released, converted, {**variables, "params": params}


def _without_additions(
    model: Model, variables: Variables
) -> tuple[TwoTowerModel, Variables]:
    """The model with LoRA merged, without expanders, and with a logit_scale parameter.

    Raises UserError for another kind of model.
    """
    if isinstance(model, LoraModel):
        variables = model.merge(variables)
        model = model.model
    if not isinstance(model, TwoTowerModel):
        raise UserError(
            f"this model ({type(model).__name__}) cannot be exported: only two-tower "
            "models can"
        )
    params = {
        name: part
        for name, part in variables["params"].items()
        if not name.endswith("_expander")
    }
    if not model.module.learnable_scale:
        params["logit_scale"] = np.float32(math.log(model.module.logit_scale_init))
    stats = variables.get("batch_stats")
    return model, {"params": params, **({"batch_stats": stats} if stats else {})}


@contextlib.contextmanager
def _folder(out: pathlib.Path) -> Iterator[pathlib.Path]:
    """A folder to fill; it becomes `out`, or is removed if an exception is raised.

    Raises UserError if `out` exists, its parent does not, or writing fails.
    """
    if out.exists():
        raise UserError(f"{out} already exists: name another folder, or remove it")
    if not out.parent.is_dir():
        raise UserError(f"{out.parent} does not exist: create it first")
    scratch = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        scratch.mkdir()
        try:
            yield scratch
            scratch.rename(out)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    except OSError as error:
        raise UserError(
            f"cannot write {out} ({downloads.one_line(error)}): free space, or name a "
            "folder that can be written"
        ) from error
