"""`clipjax.load("runs/x")`: a run or a released model as a library object."""

from __future__ import annotations

import dataclasses
import functools
import logging
import os
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from clipjax import (
    atomic_files,
    cores,
    identity,
    match_cutoff,
    option_checks,
    paths,
    registry,
)
from clipjax.config import create
from clipjax.data.class_lists import NONE, Classes
from clipjax.encoder import Encoder
from clipjax.engine import compilation
from clipjax.loaded import Loaded
from clipjax.models.common import layers, meaning
from clipjax.types import Config, Model, Tokenizer, UserError, Variables
from clipjax.weights import model_description, read_model
from clipjax.weights.tensors import hub

logger = logging.getLogger(__name__)


def load(
    name: str | pathlib.Path,
    *,
    checkpoint: str | int = "best",
    ema: bool = True,
    dtype: Any = None,
    batch_size: int = 64,
    preprocess: str = "",
    match: str | pathlib.Path = "",
) -> Loaded:
    """Loads a run directory, or a released two-tower model.

    What it compiles is kept in the compilation cache, for other processes too, unless
    jax has a cache already.

    Args:
      name: a run; a folder of Hugging Face's CLIPModel or SiglipModel or of open_clip;
        a file of OpenAI's CLIP; or "hf-hub:ORG/NAME" for such a folder on the Hugging
        Face hub, also by a well-known name: "ViT-B-32", "openai/clip-vit-base-patch32".
      checkpoint: a run's: "best" (the latest if none is best), "latest" or a step.
      ema: whether to load a run's moving average of the parameters, if it has one.
      dtype: "float32", or "bfloat16" products with the matrices in bfloat16, which
        takes half the memory; None: as the run's config says, float32 if released.
      batch_size: how many images or texts are encoded at once, at most.
      preprocess: how a released model prepares images if its files do not say so:
        "clip", "squash" or "openai", with the mean and std of its kind.
      match: a folder of results of `evals=match`, for `Loaded.match_probability`; if
        empty, those of a run's newest evaluation of the same weights.

    Raises:
      UserError: if there is no such model, its checkpoint or weights cannot be read,
        or clipjax has no such towers; if `match` is of another model.

    >>> clip = clipjax.load("runs/quickstart", checkpoint="latest")
    >>> clip.step
    2
    """
    if not isinstance(name, str | os.PathLike):
        raise UserError(f"load takes a folder, a file or a name, not {name!r}")
    if dtype is not None:
        dtype = _dtype_name(dtype)
        option_checks.one_of("dtype", dtype, layers.PRECISIONS)
    if not jax.config.jax_compilation_cache_dir:  # pyright: ignore
        compilation.enable_cache(logger.warning)
    parts = read(str(name), checkpoint, ema, dtype=dtype, preprocess=preprocess)
    now = functools.partial(
        identity.identity, parts.config, parts.model, parts.variables, parts.tokenizer
    )
    if match:
        cutoff = match_cutoff.given(match, now)
    elif read_model.is_foreign(str(name)):
        cutoff = match_cutoff.of_released(str(name))
    else:
        flags = [] if str(checkpoint) == "best" else [f"--checkpoint {checkpoint}"]
        flags += [] if ema else ["--noema"]
        cutoff = match_cutoff.of_run(str(name), now, flags)
    variables = parts.variables
    if dtype == "bfloat16":
        variables = jax.tree.map(_half, variables)
    encoder = Encoder(
        parts.model,
        parts.tokenizer,
        parts.preprocess,
        batch_size=batch_size,
        classes=parts.classes,
        few_sizes=True,
        padding_invariant=meaning.ignores_padding(parts.model),
    )
    return Loaded(
        parts.config,
        parts.model,
        jax.device_put(variables),  # once, not with every batch
        parts.tokenizer,
        parts.preprocess,
        encoder,
        parts.step,
        cutoff,
    )


class Parts(NamedTuple):
    """A run or a released model as it is read; `variables` are on the host.

    The rest is as in Loaded. classes: a classifier's.
    """

    config: Config
    model: Model
    variables: Variables
    tokenizer: Tokenizer | None
    preprocess: Callable[[Any], np.ndarray]
    step: int
    classes: Classes


def read(
    name: str,
    checkpoint: str | int,
    ema: bool,
    *,
    dtype: str | None = None,
    config: Config | None = None,
    preprocess: str = "",
    weights: tuple[Variables, int] | None = None,
) -> Parts:
    """Reads what `load` loads, and raises as it does.

    config: the run's, if the caller has read it. weights: its variables and their
    step, if the caller reads these itself.
    """
    try:
        if read_model.is_foreign(name):
            return _read_released(name, dtype, preprocess)
        if preprocess:
            raise UserError(
                f"preprocess={preprocess}: {name} is a run, which has its own: leave "
                "it out"
            )
        return _read_run(name, str(checkpoint), ema, dtype, config, weights)
    except OSError as error:
        raise UserError(atomic_files.describe_os_error(error)) from error


def named(name: str, parts: Parts) -> dict[str, Any]:
    """A model's name, step and identity, as what is made from it stores them.

    name: as `load` takes it.
    """
    foreign = read_model.is_foreign(name)
    return {
        "name": read_model.short_name(name) if foreign else pathlib.Path(name).name,
        "step": parts.step,
        **identity.identity(
            parts.config, parts.model, parts.variables, parts.tokenizer
        ),
    }


def on_all_devices(
    parts: Parts, *, batch_size: int, threads: int
) -> tuple[Encoder, Variables, str]:
    """An encoder over all devices, the variables on them, and "2 x NVIDIA H100".

    batch_size: per device. threads: that read and decode; 0: one per CPU.
    """
    from clipjax.engine import assemble, sharding  # here: as below

    mesh = sharding.make_mesh({"data": -1, "fsdp": 1})
    encoder = assemble.encoder(
        parts.config,
        parts.model,
        parts.tokenizer,
        mesh,
        parts.classes,
        batch_size=batch_size,
        threads=threads or cores.usable(),
    )
    variables = jax.device_put(parts.variables, sharding.replicated(mesh))
    return encoder, variables, f"{mesh.size} x {jax.devices()[0].device_kind}"


def run_config(name: str) -> Config:
    """The config of a run; raises UserError, with the nearest released model if there
    is no such folder."""
    from clipjax.engine import resume  # here: what runs need takes long to import

    folder = paths.local(name, "a run")
    if not folder.exists() and (near := registry.suggest(name, hub.KNOWN)):
        raise UserError(f"{name}: there is no such run, folder or file.{near}")
    return resume.load_config(folder)


def _read_run(
    name: str,
    checkpoint: str,
    ema: bool,
    dtype: str | None,
    config: Config | None,
    weights: tuple[Variables, int] | None,
) -> Parts:
    # Only here, because what runs need takes as long to import as all the rest.
    from clipjax.engine import assemble, classes

    folder = paths.local(name, "a model")
    own = run_config(name) if config is None else config
    if dtype is not None:
        if "precision" not in own.model:
            raise UserError(
                f"dtype={dtype}: model={own.model.name} has no option precision"
            )
        own.model.precision = dtype
    tokenizer = assemble.saved_tokenizer(own, folder)
    variables, step = weights or assemble.load_variables(folder, checkpoint, ema)
    return Parts(
        own,
        assemble.model(own, tokenizer),
        variables,
        tokenizer,
        assemble.preprocess(own),
        step,
        classes.read_saved(own, folder),
    )


def _read_released(name: str, dtype: str | None, preprocess: str) -> Parts:
    settings, variables = read_model.read_model(name)
    settings = model_description.stated(settings, preprocess, name)
    if dtype is not None:
        options = {**settings.model_options, "precision": dtype}
        settings = dataclasses.replace(settings, model_options=options)
    config = model_description.to_config(settings, name)
    tokenizer = create("tokenizer", config.data.tokenizer, None, None)
    model_description.check_tokenizer(settings, tokenizer, name)
    model = model_description.build(settings)
    made = create("preprocess", config.data.preprocess, config.data.image_size)
    return Parts(config, model, variables, tokenizer, made, 0, NONE)


def _dtype_name(dtype: Any) -> str:
    try:
        return dtype if isinstance(dtype, str) else jnp.dtype(dtype).name
    except TypeError:
        return repr(dtype)


def _half(leaf: Any) -> Any:
    """Matrices in bfloat16; scales, biases and statistics as they are."""
    if leaf.ndim < 2 or leaf.dtype != np.float32:
        return leaf
    return np.asarray(leaf).astype(jnp.bfloat16)
