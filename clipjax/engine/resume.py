"""A run directory's config and environment, and whether a config can resume it."""

from __future__ import annotations

import os
import pathlib
import platform
import re
from collections.abc import Callable
from importlib import metadata
from typing import Any

import jax

from clipjax import atomic_files, config_check
from clipjax.config_keys import SHARED
from clipjax.engine import datasets
from clipjax.engine.assemble import read_json
from clipjax.engine.checkpoint.step_folder import Store
from clipjax.types import Config, UserError

LIMIT_KEY = "train.max_logit_scale"
DATA_PATH = re.compile(r"data\.train\.(path|data_dir|parts)")


def environment() -> dict[str, Any]:
    """The facts, besides config and code, on which a result's bits depend."""
    affinity = getattr(os, "sched_getaffinity", None)
    device = jax.devices()[0]
    return {
        "python": platform.python_version(),
        **{
            name: metadata.version(name)
            for name in ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain")
        },
        "platform": device.platform,
        "device": device.device_kind,
        "devices": jax.device_count(),
        "processes": jax.process_count(),
        "cpus": sorted(affinity(0)) if affinity else os.cpu_count(),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
    }


def may_change(key: str) -> bool:
    """Whether a resumed run may have another value: its length, the place of the same
    data, and the limit that older versions saved with every loss."""
    return (
        key in config_check.LENGTH_KEYS
        or key == LIMIT_KEY
        or DATA_PATH.fullmatch(key) is not None
    )


def load_config(workdir: pathlib.Path) -> Config:
    """A run directory's config.

    Raises UserError if it is missing or damaged.
    """
    path = workdir / "config.json"
    if not path.exists():
        raise UserError(
            f"{workdir} is no run directory: it has no config.json. Make one with "
            "python -m clipjax.train --config configs/quickstart.py"
            + (
                "; a released model's folder has config.json or open_clip_config.json"
                if workdir.exists()
                else "; a model of the hub is hf-hub:ORG/NAME"
            )
        )
    saved = read_json(path)
    for section in ("model", "data", "evals"):
        if not isinstance(saved.get(section), dict):
            raise UserError(f"{path} is damaged: it has no section {section!r}")
    try:
        config = config_check.from_dict(saved)
        config_check.validate(config)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is damaged ({error}): restore it") from error
    except UserError as error:
        raise UserError(
            f"{path} cannot be used: {error} (restore it, or use the version of "
            "clipjax that wrote it)"
        ) from error
    return config


def check(
    workdir: pathlib.Path, config: Config, extend: bool, say: Callable[[str], None]
) -> bool:
    """Returns True if a run starts anew in workdir, False if it resumes a run there.

    A run without checkpoints does not restrict the config. Writes nothing.

    Raises UserError with every difference if a run exists and a result key differs; a
    longer run needs `extend`.
    """
    has_checkpoints = bool(Store(workdir, say).candidates())
    if not (workdir / "config.json").exists():
        if has_checkpoints:
            raise UserError(
                f"{workdir} holds checkpoints but no config.json: put it back, or give "
                "another --workdir"
            )
        return True
    # Older versions saved relative paths of data, which are then of this folder.
    saved = config_check.to_dict(datasets.resolve(load_config(workdir)))
    differences = config_check.differences(saved, config)
    if "data.train" in datasets.read_saved(workdir):
        # The same data may have moved: `datasets.check_training` compares them.
        for key in [key for key in differences if DATA_PATH.fullmatch(key)]:
            old, new = differences.pop(key)
            say(f"{key} was {old} and is {new}")
    if not has_checkpoints:
        if differences:
            say(f"{workdir} holds a run without a checkpoint: it starts anew")
        return True
    limit = SHARED["train"]["max_logit_scale"]
    # The loss has no limit; older versions saved one with every loss.
    if differences.get(LIMIT_KEY) == (limit, 0.0):
        del differences[LIMIT_KEY]
        say(
            f"{LIMIT_KEY} was {limit:g} and is 0, no limits: keep it by "
            f"--config.{LIMIT_KEY}={limit:g}"
        )
    length = {
        key: differences.pop(key)
        for key in config_check.LENGTH_KEYS
        if key in differences
    }
    if differences:
        lines = [
            f"{key}: {old!r} -> {new!r}" for key, (old, new) in differences.items()
        ]
        raise UserError(
            f"{workdir} holds a run with another config ({'; '.join(lines)}). Give "
            "those values again to resume it, or another --workdir to start anew"
        )
    if length and not extend:
        lines = [f"{key}: {old!r} -> {new!r}" for key, (old, new) in length.items()]
        raise UserError(
            f"{workdir} holds a run of another length ({'; '.join(lines)}). Add "
            "--extend to go on to the new length, with its learning-rate schedule"
        )
    for key, (old, new) in length.items():
        if new and old > new:
            raise UserError(
                f"{workdir} holds a run of {key}={old}: --extend takes a larger one"
            )
    path = workdir / "environment.json"
    if path.exists():
        now = environment()
        try:
            before = read_json(path)
        except UserError as error:
            say(f"{error}; the run needs it only for warnings and goes on without it")
            before = now
        for key in sorted({*before, *now}):
            if before.get(key) != now.get(key):
                say(
                    f"warning: {key} was {before.get(key)!r} and is "
                    f"{now.get(key)!r}: results will not be bit-identical to an "
                    "uninterrupted run's"
                )
    return False


def save(workdir: pathlib.Path, config: Config) -> None:
    """Writes config.json and environment.json."""
    atomic_files.write_json(workdir / "config.json", config_check.to_dict(config))
    atomic_files.write_json(workdir / "environment.json", environment())
