"""The command line of a run: its checked config, its own flags, its folder."""

from __future__ import annotations

import pathlib
from typing import Any

from clipjax import commandline, config_check, paths
from clipjax import config as configs
from clipjax.types import Config, UserError


def read(
    command: str, argv: list[str], **own: bool | int | str
) -> tuple[Config, Any, pathlib.Path, dict[str, tuple]]:
    """The checked config of a command line, the command's own flags, the run's folder,
    and the keys that flags change: key -> (the file's value, the config's).

    command: its name, for messages. own: flags and their defaults, beside --workdir.

    Raises UserError if no config is given, or it cannot be trained.
    """
    from clipjax.engine import architecture

    value = commandline.config_value(argv)
    if not value:
        raise UserError(
            "no --config given. Start with "
            f"python -m clipjax.{command} --config configs/quickstart.py"
        )
    config = commandline.load_file(value)
    folder = paths.local(workdir(argv), "a run")
    before = None
    if config.model.name == architecture.NAME:
        key = f"config.{architecture.KEY}"
        path = commandline.flag_value(argv, key) or config.model.path
        words = configs.component_words(commandline.split_value(value)[1])
        key = f"config.{architecture.PREPROCESS_KEY}"
        preprocess = commandline.flag_value(argv, key) or config.model.preprocess
        architecture.begin(config, path, folder, words, preprocess)
        before = config.copy_and_resolve_references()
    chosen = config.copy_and_resolve_references()
    values = commandline.parse(argv, config, workdir="", **own)
    if before is not None:
        config, chosen = (
            architecture.settle(config, before),
            architecture.settle(chosen),
        )
    config_check.validate(config, chosen)
    return config, values, folder, config_check.changes(chosen, config)


def workdir(argv: list[str]) -> str:
    """The folder that --workdir names, or that of a command which names none."""
    value = commandline.config_value(argv) or ""
    named = commandline.flag_value(argv, "workdir")
    return named or f"runs/{pathlib.Path(commandline.split_value(value)[0]).stem}"
