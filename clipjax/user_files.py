"""Python files of users: configs and studies, run with their errors as one line."""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import pathlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

from clipjax import paths, registry
from clipjax.types import UserError


def find(label: str, file: str, what: str) -> pathlib.Path:
    """The place of a Python file; label: the flag that names it, for messages.

    Raises UserError if there is none.
    """
    path = paths.expand(file)
    if not path.is_file():
        near = sorted(path.parent.glob("*.py")) if path.parent.is_dir() else []
        hint = registry.suggest(path.name, [p.name for p in near])
        raise UserError(f"{label}: there is no file {path}.{hint}")
    if path.suffix != ".py":
        raise UserError(f"{label}: {what} is a Python file, not {path}")
    return path


def function(
    label: str, path: pathlib.Path, name: str, form: str, *arguments: Any
) -> Callable[..., Any]:
    """A file's function of this name.

    form: what the file needs, for messages. arguments: what it will be called with.

    Raises UserError if the file does not run, or the function cannot be called.
    """
    spec = importlib.util.spec_from_file_location(f"file {path}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickle look for it there
    with of_users(label, path):
        spec.loader.exec_module(module)
    found = getattr(module, name, None)
    if found is None:
        raise UserError(f"{label}: {path} defines no {name}: {form}")
    count = {0: "no arguments", 1: "one argument"}[len(arguments)]
    try:
        inspect.signature(found).bind(*arguments)
    except (TypeError, ValueError) as error:
        raise UserError(
            f"{label}: {name} of {path} cannot be called with {count}: {form}"
        ) from error
    if inspect.iscoroutinefunction(found):
        raise UserError(f"{label}: {name} of {path} is async: {form}")
    return found


@contextlib.contextmanager
def of_users(label: str, path: pathlib.Path) -> Iterator[None]:
    """Turns any exception or exit in a user's code into one line."""
    try:
        yield
    except (UserError, KeyboardInterrupt):
        raise
    except BaseException as error:
        line = registry.describe_error(error, str(path))
        raise UserError(f"{label}: {line}") from error
