"""Flags shared by the commands: --config, dotted overrides, and one-line errors."""

from __future__ import annotations

import io
import os
import pathlib
import re
import signal
import sys
import time
import traceback
from collections.abc import Callable, Collection, Mapping
from typing import Any

from absl import flags
from ml_collections import config_flags

from clipjax import (
    atomic_files,
    config_addresses,
    config_check,
    config_parts,
    paths,
    peers,
    registry,
    user_files,
)
from clipjax.types import Config, UserError

LONGEST = 1500  # characters in an error's line
_BLAME_SECONDS = 5.0


def run(main: Callable[[list[str]], int]) -> None:
    """Calls a command's main(argv) and exits; a UserError is one line and status 2.

    If one of several processes fails, the others end too, each with its own line.
    """
    _open_output()
    message = ""
    try:
        status = main(sys.argv)
    except (UserError, flags.Error) as error:
        message = spell_commands(" ".join(str(error).split()))
        if message.startswith("FATAL Flags parsing error:"):
            message = message.removeprefix("FATAL Flags parsing error:").strip()
        if len(message) > LONGEST:  # it quotes a long value
            half = LONGEST // 2
            message = f"{message[:half]} ... {message[-half:]}"
        _tell(f"error: {message}")
        status = 2
    except KeyboardInterrupt:
        message = "interrupted"
        _tell(message)
        status = 130
    except BrokenPipeError:  # the reader of a pipe has closed it, such as `| head`
        _discard_output()
        message, status = "its output was closed", 1
    except Exception as error:
        if isinstance(error, OSError) and error.errno and not _of_peers(error):
            message, status = output_error() or atomic_files.describe_os_error(error), 2
            _tell(f"error: {message}")
        elif message := _of_memory(error):
            _tell(f"error: {message}")
            status = 2
        elif peers.group() is None:
            raise
        else:
            # If an ended process is the cause, the watch names it in this time.
            time.sleep(_BLAME_SECONDS)
            _tell(traceback.format_exc())
            message, status = f"{type(error).__name__}: {error}".split("\n")[0], 1
    if status > 128:  # a second interrupt must not stop the cleanup below
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    if told := output_error():
        if not status:
            _tell(f"error: {told}")
        _discard_output()
        status = status or 1
    if message and (group := peers.group()):
        group.fail(message, status)
    sys.exit(status)


def spell_commands(text: str) -> str:
    """Commands in a text as the user started this one, by `clipjax` or by Python."""
    if pathlib.PurePath(sys.argv[0]).name != "clipjax":
        return text
    return text.replace("python -m clipjax.", "clipjax ")


def _tell(line: str) -> None:
    """Prints why this process ends, unless it is ending because of another."""
    if group := peers.group():
        group.claim_ending()
    print(line, file=sys.stderr)


def output_error() -> str:
    """Why stdout cannot be written, such as to a full disk; "" if it can."""
    try:
        sys.stdout.flush()
    except OSError as error:
        return f"the output cannot be written ({error.strerror})"
    return ""


def _of_peers(error: OSError) -> bool:
    return isinstance(error, ConnectionError) and peers.group() is not None


def _of_memory(error: Exception) -> str:
    """What lacks memory, and the fix, if that is the cause; else ""."""
    text = str(error).partition("\n")[0][:300]
    of_device = type(error).__name__ in ("JaxRuntimeError", "XlaRuntimeError")
    if of_device and text.startswith("RESOURCE_EXHAUSTED"):
        owner = "a device"
    elif isinstance(error, MemoryError):
        owner = "the machine"
    else:
        return ""
    return (
        f"the memory of {owner} is too small ({text or 'MemoryError'}): use a smaller "
        "data.batch_size, data.image_size or model, or more train.micro_batches; "
        "--dry_run says what a step takes"
    )


def _discard_output() -> None:
    """Discards further output, because stdout cannot be written."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _open_output() -> None:
    """Makes stdout and stderr writable, so that printing cannot end a run.

    Characters that their encoding lacks are escaped. Closed streams become /dev/null,
    because the next opened files would otherwise get their descriptors and output.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def parse(
    argv: list[str], config: Config | None, **others: str | bool | int
) -> flags.FlagValues:
    """The flags of a command: `others` with their defaults, and --config.KEY=VALUE.

    Each call has its own FlagValues, so that a command can run many times.

    Args:
      config: the config that --config names; dotted flags change it in place. None for
        a command without one.

    Raises:
      UserError: for a flag or config key that does not exist, with the nearest; for a
        value of a wrong type; and for stray words, most often a flag without dashes.
    """
    known = [*others, "config"] if config is not None else list(others)
    argv = _without_config(argv) if config is not None else argv
    for item in argv[1:]:
        name = item.lstrip("-").partition("=")[0]
        stem = name.partition(".")[0]
        if item.startswith("-"):
            if config is None and stem.removeprefix("no") == "config" and "." in name:
                option = re.match(r"-+config\.data\.(?:eval|train)\.(.+)", item)
                hint = ""
                if option and "data" in known:
                    hint = f", or write --data.{option[1]}"
                raise UserError(f"{item!r} needs --config FILE.py before it{hint}")
            if stem not in known and stem.removeprefix("no") not in known:
                hint = registry.suggest(stem, known)
                if config is not None and not hint:
                    key = item.lstrip("-").partition("=")[0]
                    hint = config_addresses.nearest(key, config_check.flat(config))
                listing = ", ".join(f"--{flag}" for flag in known)
                raise UserError(f"unknown flag {item!r}.{hint} Known: {listing}")
        elif "=" in item and stem in known:
            raise UserError(f"{item!r}: did you forget the dashes? --{item}")
    if config is not None:
        check_overrides(argv, config)
    values = flags.FlagValues()
    try:
        _define(values, others)
        if config is not None:
            config_flags.DEFINE_config_dict(
                "config", config, flag_values=values, sys_argv=argv
            )
        left = values(argv)[1:]
    except flags.Error:
        raise
    except Exception as error:  # such as literals that are too deep or too long
        reason = str(error) or type(error).__name__
        raise UserError(f"bad flag value: {reason[:500]}") from error
    if left:
        raise UserError(f"{left[0]!r}: not understood. Flags are written --name=value")
    return values


def _define(values: flags.FlagValues, others: dict[str, str | bool | int]) -> None:
    for name, default in others.items():
        if isinstance(default, bool):
            flags.DEFINE_bool(name, default, "", flag_values=values)
        elif isinstance(default, int):
            flags.DEFINE_integer(name, default, "", flag_values=values)
        else:
            flags.DEFINE_string(name, default, "", flag_values=values)


def _without_config(argv: list[str]) -> list[str]:
    """A command line without --config FILE or --config=FILE."""
    left, items = [], iter(argv)
    for item in items:
        if item in ("--config", "-config"):
            next(items, None)
        elif item.partition("=")[0] not in ("--config", "-config"):
            left.append(item)
    return left


def split_value(value: str) -> tuple[str, str]:
    """Splits --config's value into the file and the argument after the colon, or "".

    A folder's name may contain a colon: the value is split at the first colon after an
    existing file, else at the first after .py.
    """
    cuts = [match.start() for match in re.finditer(":|$", value)]
    existing = [cut for cut in cuts if paths.expand(value[:cut]).is_file()]
    likely = [cut for cut in cuts if value[:cut].endswith(".py")]
    cut = (existing or likely or cuts)[0]
    return value[:cut], value[cut + 1 :]


def load_file(value: str) -> Config:
    """The config of FILE.py or FILE.py:ARGUMENT, before overrides.

    Raises UserError, with the line, for a file that is missing, does not run or has no
    get_config, and for a config that lacks a key or has an unknown one.
    """
    file, argument = split_value(value)
    label = f"--config={value}"
    path = user_files.find(label, file, "a config")
    form = "it needs a function get_config(arg=None) that returns a config"
    get_config = user_files.function(label, path, "get_config", form, None)
    with user_files.of_users(label, path):
        config = get_config(argument or None)
    try:
        config_parts.check(config)
    except UserError as error:
        raise UserError(f"--config={value}: {error}") from error
    return config


def check_overrides(argv: list[str], chosen: Config) -> None:
    """Raises UserError for a dotted flag whose key does not exist, with the nearest."""
    leaves = config_check.flat(chosen)
    for item in argv[1:]:
        match = re.match(r"--?(?:no)?config\.([^=]+)", item)
        if match:
            check_key(match.group(1), leaves)


def check_key(key: str, leaves: Mapping[str, Any], flag: str = "--config.") -> None:
    """Raises UserError for a key that a config lacks, with the nearest.

    leaves: the config's, by config_check.flat. flag: before a key, for messages.
    """
    components = {
        key.removesuffix(".name"): name
        for key, name in leaves.items()
        if key.endswith(".name")
    }
    inside = [leaf for leaf in leaves if leaf.startswith(f"{key}.")]
    if inside:
        raise UserError(
            f"{flag}{key} is a section; set a key of it: {', '.join(inside)}"
        )
    if key not in leaves:
        hint = config_addresses.of_others(key, components)
        hint = hint or config_addresses.nearest(key, leaves, flag)
        raise UserError(f"unknown config key {key!r}.{hint}")


def config_value(argv: list[str]) -> str | None:
    """The value of --config on the command line, in either form; None without it.

    Raises UserError if it is given twice.
    """
    given: list[str | None] = []
    for i, item in enumerate(argv):
        name, equals, value = item.partition("=")
        if name in ("--config", "-config"):
            given.append(value if equals else next(iter(argv[i + 1 :]), None))
    if len(given) > 1:
        raise UserError(
            f"--config is given {len(given)} times: give one FILE.py, with changes "
            "after its colon or in --config.KEY=VALUE flags"
        )
    return given[0] if given else None


def flag_value(argv: list[str], name: str) -> str:
    """The text of a flag before the flags are parsed; the last one counts, "" if none.

    name: without dashes, "workdir".
    """
    found = ""
    for i, item in enumerate(argv):
        flag, equals, value = item.partition("=")
        if flag in (f"--{name}", f"-{name}"):
            found = value if equals else next(iter(argv[i + 1 :]), "")
    return found


def split_words(
    argv: list[str], switches: Collection[str] = ()
) -> tuple[list[str], list[str]]:
    """The words of a command line that belong to no flag, and the rest of it.

    switches: the flags that take no value. A dash alone, or with a space after it, is
    a word.
    """
    words, rest, items = [], argv[:1], iter(argv[1:])
    for item in items:
        if not item.startswith("-") or item == "-" or item.startswith("- "):
            words.append(item)
            continue
        rest.append(item)
        alone = "=" in item or item.lstrip("-") in switches
        if not alone and (value := next(items, None)) is not None:
            rest.append(value)
    return words, rest


def model_flag(model: str, workdir: str) -> str:
    """What --model or --workdir says, which are one flag.

    Raises UserError if neither is given, or both are.
    """
    if model and workdir:
        raise UserError(
            f"--model={model} and --workdir={workdir} both name the model: give one"
        )
    if not model and not workdir:
        raise UserError(
            "no --model given: a run, e.g. runs/quickstart, or a released model's "
            "folder, file or hf-hub:ORG/NAME"
        )
    return model or workdir


def list_components() -> str:
    """Every family and its components, as --help prints them."""
    lines = []
    for family in registry.FAMILIES:
        lines.append(f"  {family:<12} {', '.join(registry.names(family))}")
    return "\n".join(lines)
