"""Where a run's numbers go besides its own files: Weights & Biases, and own modules.

A module that `log.writers` names has `open(workdir, config)`, called once on the first
process, with the run's folder (pathlib.Path) and its Config. It returns an object with

    write(step, values)   values: {name: float}, as in metrics.jsonl; "train/loss"
    close()               called once, at the end or on an error

A writer that raises is left out from then on, and a line says so: the run goes on, as
its own files have the numbers.
"""

from __future__ import annotations

import importlib
import inspect
import pathlib
import secrets
from collections.abc import Callable, Mapping
from typing import Any

from clipjax import atomic_files, config_check, registry
from clipjax.engine.metrics import MetricWriter
from clipjax.types import Config, UserError

Open = Callable[[pathlib.Path, Config], Any]
ID_FILE = "wandb_id.json"  # so that a resumed run goes on in the same one there


def check(config: Config) -> dict[str, Open]:
    """The writers that a config names: the key and value -> the function to open it.

    Raises UserError for a module that cannot be imported or has no such function.
    """
    found: dict[str, Open] = {}
    for name in filter(None, config.log.writers.split(",")):
        key = f"log.writers={name}"
        found[key] = _open_of(key, name)
    if config.log.wandb:
        key = f"log.wandb={config.log.wandb}"
        try:
            importlib.import_module("wandb")
        except ImportError as error:
            raise UserError(
                f"{key} needs the package wandb: pip install -e '.[wandb]' ({error})"
            ) from error
        found[key] = _Wandb
    return found


def _open_of(key: str, name: str) -> Open:
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise UserError(f"{key}: {error}") from error
    except Exception as error:  # from the user's code
        raise UserError(f"{key}: {registry.describe_error(error)}") from error
    form = "it needs a function open(workdir, config); see docs/training.md"
    opens = getattr(module, "open", None)
    if not callable(opens):
        raise UserError(f"{key}: {module.__file__} defines no open: {form}")
    try:
        inspect.signature(opens).bind(None, None)
    except (TypeError, ValueError) as error:
        raise UserError(
            f"{key}: its open cannot be called with two arguments: {form}"
        ) from error
    return opens


class Writers:
    """A run's own files, and the writers that `check` found."""

    def __init__(
        self,
        files: MetricWriter,
        opens: Mapping[str, Open],
        workdir: pathlib.Path,
        config: Config,
        say: Callable[[str], None],
    ):
        """Raises UserError for a writer that cannot be opened, or lacks a method."""
        self._files, self._say = files, say
        self._others: dict[str, Any] = {}
        try:
            for key, opened in opens.items():
                self._others[key] = _opened(key, opened, workdir, config)
        except BaseException:
            self.close()
            raise

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        self._files.write_scalars(step, scalars)
        values = {name: float(value) for name, value in scalars.items()}
        for key, writer in list(self._others.items()):
            self._guarded(key, lambda writer=writer: writer.write(step, dict(values)))

    def close(self) -> None:
        try:
            self._files.close()
        finally:
            for key, writer in list(self._others.items()):
                self._guarded(key, writer.close)

    def _guarded(self, key: str, call: Callable[[], Any]) -> None:
        try:
            call()
        except Exception as error:
            self._others.pop(key, None)
            self._say(
                f"warning: {key} gets no more numbers, which metrics.jsonl has: "
                f"{registry.describe_error(error)}"
            )


def _opened(key: str, opened: Open, workdir: pathlib.Path, config: Config) -> Any:
    try:
        made = opened(workdir, config)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{key}: {registry.describe_error(error)}") from error
    for method in ("write", "close"):
        if not callable(getattr(made, method, None)):
            raise UserError(
                f"{key}: its open returned {type(made).__name__}, which has no "
                f"{method}; see docs/training.md"
            )
    return made


class _Wandb:
    """A run of Weights & Biases; WANDB_MODE=offline keeps it in the run's folder."""

    def __init__(self, workdir: pathlib.Path, config: Config):
        import wandb

        place = workdir / ID_FILE
        if not place.is_file():
            atomic_files.write_json(place, {"id": secrets.token_hex(4)})
        name = atomic_files.parse_json(place.read_text(encoding="utf-8"))["id"]
        self._run = wandb.init(
            project=config.log.wandb,
            name=workdir.name,
            id=name,
            resume="allow",
            dir=str(workdir),
            config=config_check.to_dict(config),
        )
        # Its own steps only grow, and a resumed run repeats some.
        self._run.define_metric("*", step_metric="step")

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log({"step": step, **values})

    def close(self) -> None:
        self._run.finish()
