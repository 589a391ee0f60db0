"""Whether two models take the same weights for the same thing.

Shapes do not tell: heads, activations, masks, poolings and epsilons have none. So
every field of a model and of its towers is compared, except those that its class
names:

    FREE          fields that change nothing that weights mean in evaluation: rates of
                  training, initial values, memory for compute, and sizes to which
                  weights are fitted
    FREE_ALONE    field -> the values between which it may change if a tower is taken
                  alone, with a fresh projection over it
    OPTIONS       field -> the option that sets it, if it has another name; several
                  of a field that is a tuple

All fields of a component that names none are compared.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from clipjax.models.common.frozen import FrozenParts
from clipjax.models.common.lora import LoraModel
from clipjax.types import UserError

# How to normalise pixels: compared by `pixels`.
PIXELS = ("mean", "std")
# Of any Linen module, and the precision of products.
COMMON = {"parent", "name", "dtype"}


class Difference(NamedTuple):
    """A setting in which two models differ. option: "model.image.heads"."""

    option: str
    ours: Any
    theirs: Any


def differences(
    ours: Any, theirs: Any, path: str = "model", alone: bool = False
) -> Iterator[Difference]:
    """The settings in which two models, or two towers, take weights otherwise.

    path: of their section in the config. alone: of towers under fresh projections.
    """
    ours, theirs = _bare(ours), _bare(theirs)
    if isinstance(ours, LoraModel) and isinstance(theirs, LoraModel):
        yield from _fields(ours, theirs, "lora", {"model"}, alone)
    ours, theirs = _without_lora(ours), _without_lora(theirs)
    if type(ours) is not type(theirs):
        yield Difference(path, type(ours).__name__, type(theirs).__name__)
        return
    left_out: set[str] = set(PIXELS) if path == "model" else set()
    yield from _fields(ours, theirs, path, left_out, alone)


def check(
    ours: Any, theirs: Any, place: str, path: str = "model", alone: bool = False
) -> None:
    """Raises UserError, naming each option and both values, if weights of `theirs`
    would mean something else in `ours`; see `differences`.

    place: where theirs come from, for the message.
    """
    if told := describe_differences(ours, theirs, place, path, alone):
        raise UserError(told)


def describe_differences(
    ours: Any, theirs: Any, place: str, path: str = "model", alone: bool = False
) -> str:
    """What `check` says; "" if the weights mean the same."""
    found = list(differences(ours, theirs, path, alone))
    if not found:
        return ""
    option, here, there = found[0]
    first = f"{option}: {here!r} does not fit {place}, which has {there!r}"
    rest = [f"{option}: {here!r}, there {there!r}" for option, here, there in found[1:]]
    return "; ".join([first, *rest])


def settings(model: Any, path: str = "model") -> dict[str, str]:
    """The settings that `differences` compares, by their options, as texts."""
    model, found = _bare(model), {}
    if isinstance(model, LoraModel):
        found = _texts(model, "lora", {"model"})
    model = _without_lora(model)
    found[path] = type(model).__name__
    return found | _texts(model, path, set(PIXELS) if path == "model" else set())


def pixels(ours: Any, theirs: Any) -> Iterator[Difference]:
    """How two models, or objects with a mean and std, normalise images differently.

    Empty values of theirs are unknown, and do not count.
    """
    ours, theirs = module_of(ours), module_of(theirs)
    for name in PIXELS:
        here, there = getattr(ours, name), getattr(theirs, name)
        if there and not np.allclose(here, there, atol=1e-4):
            yield Difference(f"model.{name}", here, there)


def module_of(model: Any) -> Any:
    """The Linen module inside whatever training has put around a model; of anything
    else itself."""
    while hasattr(model, "model"):
        model = model.model
    return getattr(model, "module", model)


def ignores_padding(model: Any) -> bool:
    """Whether a text's embedding does not depend on the padding after it."""
    tower = getattr(module_of(model), "text", None)
    return bool(getattr(tower, "padding_invariant", False))


def option_of(module: Any, field: str) -> str:
    """The option that sets a field of a tower or model."""
    name = getattr(type(module), "OPTIONS", {}).get(field, field)
    return name if isinstance(name, str) else ", ".join(name)


def _texts(module: Any, path: str, left_out: set[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for field in _compared(module, left_out):
        value = getattr(module, field)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            found |= settings(value, _below(path, field))
        else:  # a function's repr has its address
            name = getattr(value, "__qualname__", None)
            found[f"{path}.{option_of(module, field)}"] = name or repr(value)
    return found


def _compared(module: Any, left_out: set[str]) -> list[str]:
    """The fields of a module that change what weights mean."""
    free = COMMON | left_out | getattr(type(module), "FREE", set())
    return [f.name for f in dataclasses.fields(module) if f.name not in free]


def _below(path: str, field: str) -> str:
    """The section of a field; a types.Model holds the Linen module of its own."""
    return path if field == "module" else f"{path}.{field}"


def _bare(model: Any) -> Any:
    return model.model if isinstance(model, FrozenParts) else model


def _without_lora(model: Any) -> Any:
    """Additions that one of the two lacks start fresh, or are missed by name."""
    return model.model if isinstance(model, LoraModel) else model


def _fields(
    ours: Any, theirs: Any, path: str, left_out: set[str], alone: bool
) -> Iterator[Difference]:
    kind = type(ours)
    free_alone = getattr(kind, "FREE_ALONE", {}) if alone else {}
    for name in _compared(ours, left_out):
        here, there = getattr(ours, name), getattr(theirs, name)
        between = free_alone.get(name, ())
        if here in between and there in between:
            continue
        if dataclasses.is_dataclass(here) or dataclasses.is_dataclass(there):
            yield from differences(here, there, _below(path, name), alone)
        elif here != there:
            yield from _named(kind, name, here, there, path)


def _named(
    kind: type, field: str, here: Any, there: Any, path: str
) -> Iterator[Difference]:
    names = getattr(kind, "OPTIONS", {}).get(field, field)
    if isinstance(names, str):
        yield Difference(f"{path}.{names}", here, there)
        return
    for name, one, other in zip(names, here, there, strict=True):
        if one != other:
            yield Difference(f"{path}.{name}", one, other)
