"""The sections of `config.base`: those of one component, of several, of evaluators."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any

from ml_collections import ConfigDict, config_dict

from clipjax import registry
from clipjax.types import Config, UserError


def only_known(
    given: Mapping[str, Any], known: Iterable[str], what: str
) -> dict[str, Any]:
    """A copy of what is given; raises UserError for a key that is not known."""
    known = list(known)
    for name in given:
        if name not in known:
            hint = registry.suggest(str(name), known)
            raise UserError(
                f"unknown {what} {name!r}.{hint} Known: {', '.join(sorted(known))}"
            )
    return dict(given)


def component(family: str, name: str, options) -> Config:
    """The section of one component: its name and every option of its factory."""
    factory = registry.load(family, name)
    known = registry.options(factory)
    given = options.get(f"{family}.{name}", {})
    only_known(given, known, f"option of {family}.{name}")
    section = ConfigDict({"name": name})
    for key, option in known.items():
        value = given.get(key, option.default)
        section[key] = field(value, option.annotation, f"{family}.{name}.{key}")
    return section


def field(value: Any, annotation: Any, path: str) -> Any:
    """A value as one of a config, which can be overridden while it is None."""
    members = typing.get_args(annotation)
    if isinstance(annotation, types.UnionType) and type(None) in members:
        (kind,) = (member for member in members if member is not type(None))
        field = config_dict.placeholder(kind)
        if value is not None:
            field.set(registry.typed(value, kind, path))
        return field
    return registry.typed(value, annotation, path)


def source_section(name: str, options, split: str) -> Config:
    """The section of a source."""
    section = component("data", name, options)
    section["split"] = split
    return section


def losses_section(chosen: str, options) -> Config:
    """One loss's section, or for "clip+cyclip" labelled ones, each with a weight."""
    if "+" not in chosen:
        return component("loss", chosen, options)
    losses = labelled("loss", chosen, options)
    for label in losses:
        if "weight" in losses[label]:
            raise TypeError(f"option loss.{label}.weight collides with that of a sum")
        losses[label]["weight"] = 1.0
    return losses


def chain(family: str, chosen: str, options) -> Config:
    """One component's section, or for "crop+blur" labelled ones and their order, which
    the keys of a config do not keep."""
    if "+" not in chosen:
        return component(family, chosen, options)
    sections = labelled(family, chosen, options)
    sections["order"] = tuple(by_label(family, chosen))
    return sections


def by_label(family: str, chosen: str) -> dict[str, str]:
    """Label -> what is chosen, "retrieval" or "zeroshot@scenes", in order."""
    found: dict[str, str] = {}
    for item in chosen.split("+") if chosen else ():
        if not item:
            raise UserError(f"{family}={chosen}: write it as one+another")
        label = item.partition("@")[0].rpartition(".")[2]
        if label in found:
            raise UserError(f"{family}={chosen}: {label!r} is there twice")
        if label == "order":
            raise UserError(f"{family}={chosen}: 'order' is a key beside the labels")
        found[label] = item
    return found


def labelled(family: str, chosen: str, options) -> Config:
    sections = ConfigDict()
    for label, name in by_label(family, chosen).items():
        sections[label] = component(family, name, options)
    return sections


def evals_section(chosen: str, default: str, options) -> Config:
    """Labelled sections: "retrieval+zeroshot@imagefolder" makes two and their order."""
    evals = ConfigDict()
    items = by_label("evals", "" if chosen == "none" else chosen)
    for label, item in items.items():
        name, _, source = item.partition("@")
        section = evals[label] = component("evals", name, options)
        if source:
            section["data"] = source_section(source, options, "val")
            given = options.pop(f"evals.{label}.data", {})
            if item in default.split("+"):
                set_keys(section["data"], given, f"evals.{label}.data")
    if len(items) > 1:
        evals["order"] = tuple(items)
    return evals


def set_keys(section: Any, given: Mapping[str, Any], path: str) -> None:
    """Sets keys of a file's own choice of source; another source has its own."""
    for key, value in only_known(given, section, f"key of {path}").items():
        section[key] = value
