"""Components by name: `load("loss", "clip")` is the factory of clipjax/losses/clip.py.

A family is a package with one file per component, whose factory is called `make`, or a
module whose public functions are the components, or whose table COMPONENTS holds them.
If it has WRAPPERS too, its function `compose` makes "lookahead+adamw" of two names.
A dotted path ("my_code.losses.mine") loads the `make` of your own module.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import importlib
import inspect
import pathlib
import re
import traceback
import types
import typing
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from clipjax.types import UserError

FAMILIES = {
    "model": "clipjax.models",
    "image": "clipjax.models.image",
    "text": "clipjax.models.text",
    "loss": "clipjax.losses",
    "optim": "clipjax.optim.optimizers",
    "schedule": "clipjax.optim.schedules",
    "data": "clipjax.data.sources",
    "tokenizer": "clipjax.data.tokenizers",
    "preprocess": "clipjax.data.images.preprocess",
    "augment": "clipjax.data.images.augment",
    "text_augment": "clipjax.data.text.text_augment",
    "evals": "clipjax.evals",
}


@dataclasses.dataclass(frozen=True)
class Option:
    """One keyword-only parameter of a factory: its default and annotation."""

    default: Any
    annotation: Any


def suggest(word: str, known: typing.Iterable[str]) -> str:
    """Returns ' Did you mean ...?' if a known word is similar, else ''."""
    near = difflib.get_close_matches(word, list(known), n=1)
    return f" Did you mean {near[0]!r}?" if near else ""


def short_repr(value: Any) -> str:
    """A value for a message: its repr, truncated if it is long."""
    try:
        text = repr(value)
    except Exception:  # ints of thousands of digits, deep values, users' own types
        text = f"{type(value).__name__} too large to show"
    return text if len(text) <= 200 else f"{text[:150]}... ({len(text)} characters)"


def describe_error(error: BaseException, file: str = "") -> str:
    """An exception from a user's code as one line, with file and line number.

    file: whose line to give if the traceback has several files; by default, and if it
      is not among them, the last.
    """
    kind = type(error).__name__
    try:
        text = " ".join(str(error).split())
    except Exception:  # raised by the user's code too
        text = ""
    if isinstance(error, SyntaxError) and error.filename:
        location = f"{error.filename}, line {error.lineno}: "
        text = error.msg
    else:
        frames = traceback.extract_tb(error.__traceback__)
        in_file = [frame for frame in frames if frame.filename == file]
        if not in_file:
            in_file = [f for f in frames if "importlib" not in f.filename]
        location = (
            f"{in_file[-1].filename}, line {in_file[-1].lineno}: " if in_file else ""
        )
    return f"{location}{kind}: {text[:500]}" if text else f"{location}{kind}"


def names(family: str) -> list[str]:
    """The components of a family, sorted; does not import a package's files."""
    package = importlib.import_module(FAMILIES[family])
    if hasattr(package, "__path__"):
        folder = pathlib.Path(package.__path__[0])
        return sorted(path.stem for path in folder.glob("*.py") if _has_make(path))
    if table := getattr(package, "COMPONENTS", None):
        return sorted(table)
    return sorted(
        name
        for name, value in vars(package).items()
        if isinstance(value, types.FunctionType)
        and value.__module__ == package.__name__
        and not name.startswith("_")
    )


def _has_make(path: pathlib.Path) -> bool:
    """Whether a file defines a factory; reads it without importing it."""
    return re.search(r"^def make\(", path.read_text(encoding="utf-8"), re.M) is not None


def wrappers(family: str) -> list[str]:
    """What a family's component can have before its name, "lookahead+adamw"."""
    return list(getattr(importlib.import_module(FAMILIES[family]), "WRAPPERS", ()))


def load(family: str, name: str) -> Callable[..., Any]:
    """Returns the factory of a component.

    Raises UserError for an unknown name, with the known ones and the nearest.

    >>> load("schedule", "cosine")(0.1, 100, 10, floor=0.01)(100)
    Array(0.01, dtype=float32...)
    """
    known = names(family)
    package = importlib.import_module(FAMILIES[family])
    if wrappers(family) and (made := package.compose(name, partial(load, family))):
        return made
    if name in known:
        if table := getattr(package, "COMPONENTS", None):
            return table[name]
        if not hasattr(package, "__path__"):
            return getattr(package, name)
        return importlib.import_module(f"{package.__name__}.{name}").make
    if "." in name:
        return _own(family, name)
    raise UserError(
        f"unknown {family} {short_repr(name)}.{suggest(name, known)} "
        f"Known: {', '.join(known)}"
    )


def _own(family: str, name: str) -> Callable[..., Any]:
    """The factory in a user's module; raises UserError if there is none."""
    what = f"{family}={name}: cannot load it:"
    if not all(part.isidentifier() for part in name.split(".")):
        raise UserError(f"{what} write a module as package.module, in letters and dots")
    try:
        factory = importlib.import_module(name).make
        options(factory)
    except ModuleNotFoundError as error:
        raise UserError(f"{what} {error}") from error
    except AttributeError as error:
        raise UserError(
            f"{what} {describe_error(error)}; it needs a function `make`"
        ) from error
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # from the user's code, SystemExit included
        raise UserError(f"{what} {describe_error(error)}") from error
    return factory


def module_of(factory: Callable[..., Any], name: str) -> Any:
    """A constant of a factory's module, None if the module lacks it."""
    return getattr(inspect.getmodule(factory), name, None)


def options(factory: Callable[..., Any]) -> dict[str, Option]:
    """A factory's keyword-only parameters, in order, which a config can set.

    Raises TypeError for one without an annotation or a default, which is a defect in
    the component.
    """
    hints = typing.get_type_hints(factory)
    parameters = {}
    for name, parameter in inspect.signature(factory).parameters.items():
        if parameter.kind is not inspect.Parameter.KEYWORD_ONLY:
            continue
        if name not in hints or parameter.default is inspect.Parameter.empty:
            raise TypeError(
                f"{factory.__module__}: option {name!r} needs a type and a default"
            )
        parameters[name] = Option(parameter.default, hints[name])
    return parameters


def check_type(value: Any, annotation: Any, path: str) -> Any:
    """Returns the value, ints widened to floats; raises UserError for a wrong type."""
    union = typing.get_args(annotation)
    if type(None) in union:
        if value is None:
            return None
        (annotation,) = (member for member in union if member is not type(None))
    kind = typing.get_origin(annotation) or annotation
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            value = float(value)
        except OverflowError as error:
            raise UserError(
                f"{path}={short_repr(value)}: too large for a float"
            ) from error
    if kind is tuple and isinstance(value, list):
        value = tuple(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise UserError(f"{path}={short_repr(value)}: must be {_type_name(annotation)}")
    if kind is int and not -(2**63) <= value < 2**63:
        raise UserError(f"{path}={short_repr(value)}: must be within 64 bits")
    members = typing.get_args(annotation)
    if isinstance(value, tuple) and members:
        if members[-1] is Ellipsis:
            members = members[:1] * len(value)
        if len(value) != len(members):
            raise UserError(
                f"{path}={short_repr(value)}: must have {len(members)} entries"
            )
        return tuple(
            check_type(v, m, path) for v, m in zip(value, members, strict=True)
        )
    return value


def from_text(text: str, annotation: Any, path: str) -> Any:
    """Parses a text as an option's type; raises UserError.

    One value of a tuple of any length needs neither brackets nor a comma.
    """
    if annotation is str:
        return text
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = {"true": True, "false": False}.get(text.lower(), text)
    members = typing.get_args(annotation)
    of_any_length = typing.get_origin(annotation) is tuple and members[-1] is Ellipsis
    if of_any_length and not isinstance(value, (tuple, list)):
        # A number, too, may be a name: a class's, or a label set's.
        named = members[0] is str and not isinstance(value, str)
        value = (text if named else value,)
    return check_type(value, annotation, path)


def options_from_text(
    family: str, name: str, given: Mapping[str, Any], flag: str
) -> dict[str, Any]:
    """Parses a component's options from their texts; other values are checked.

    flag: the prefix of their flags, for messages ("--data."). Raises UserError for an
    option that the component lacks, and for a value of a wrong type.
    """
    known = options(load(family, name))
    values = {}
    for key, text in given.items():
        if key not in known:
            raise UserError(
                f"{family}={name} has no option {flag}{key}.{suggest(key, known)} "
                f"It has {', '.join(known)}"
            )
        read = from_text if isinstance(text, str) else check_type
        values[key] = read(text, known[key].annotation, f"{flag}{key}")
    return values


def _type_name(annotation: Any) -> str:
    return getattr(annotation, "__name__", str(annotation))
