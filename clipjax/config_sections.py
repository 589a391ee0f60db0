"""Builds the sections of `config.base`: one component's, several's, evaluators'."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any

from ml_collections import ConfigDict, config_dict

from clipjax import registry
from clipjax.config_addresses import SECTIONS
from clipjax.config_parts import is_summary
from clipjax.types import Config, UserError

Options = Mapping[str, Mapping[str, Any]]  # by address; see config_options.read
ANY_SOURCE = "data"  # options of a source in every section, "data=scenes"


def check_known(
    given: Mapping[str, Any], known: Iterable[str], what: str
) -> dict[str, Any]:
    """A copy of `given`; raises UserError for an unknown key."""
    known = list(known)
    for name in given:
        if name not in known:
            hint = registry.suggest(str(name), known)
            raise UserError(
                f"unknown {what} {name!r}.{hint} Known: {', '.join(sorted(known))}"
            )
    return dict(given)


def component(section: str, family: str, name: str, options: Options) -> Config:
    """The section of one component: its name and every option of its factory.

    Options given for a component apply within "lookahead+NAME" too.
    """
    factory = registry.load(family, name)
    given: dict[str, Any] = {}
    parts = name.split("+")
    for start in reversed(range(len(parts))):
        given.update(options.get(f"{section}={'+'.join(parts[start:])}", {}))
    filled = ConfigDict({"name": name})
    for key, option in registry.options(factory).items():
        value = given.get(key, option.default)
        filled[key] = field(value, option.annotation, f"{section}.{key}")
    return filled


def field(value: Any, annotation: Any, path: str) -> Any:
    """A value for a config; a flag can set it even if it is None."""
    members = typing.get_args(annotation)
    if isinstance(annotation, types.UnionType) and type(None) in members:
        (kind,) = (member for member in members if member is not type(None))
        reference = config_dict.placeholder(kind)
        if value is not None:
            reference.set(registry.check_type(value, kind, path))
        return reference
    return registry.check_type(value, annotation, path)


def source_section(section: str, name: str, options: Options, split: str) -> Config:
    """The section of a source, with this split unless options name another."""
    source = component(ANY_SOURCE, "data", name, options)
    source["split"] = split
    set_source(source, section, options)
    return source


def set_source(source: Any, section: str, options: Options) -> None:
    """Sets the options of an address in a source's section."""
    given = options.get(f"{section}={source['name']}", {})
    for key, value in {**options.get(section, {}), **given}.items():
        source[key] = value


def losses_section(chosen: str, options: Options) -> Config:
    """One loss's section, or labelled ones with weights for "clip+cyclip"."""
    if "+" not in chosen:
        return component("loss", "loss", chosen, options)
    losses = section_per_label("loss", chosen, options)
    for label in losses:
        if "weight" in losses[label]:
            raise TypeError(f"option loss.{label}.weight collides with that of a sum")
        losses[label]["weight"] = 1.0
    return losses


def chain(family: str, chosen: str, options: Options) -> Config:
    """One component's section, or labelled ones for "crop+blur" with their order, which
    a config's keys lose."""
    if "+" not in chosen:
        return component(SECTIONS[family], family, chosen, options)
    sections = section_per_label(family, chosen, options)
    sections["order"] = tuple(by_label(family, chosen))
    return sections


def by_label(family: str, chosen: str) -> dict[str, str]:
    """Label -> its choice, "retrieval" or "zeroshot@scenes", in order."""
    items: dict[str, str] = {}
    for item in chosen.split("+") if chosen else ():
        if not item:
            raise UserError(f"{family}={chosen}: write it as one+another")
        label = item.partition("@")[0].rpartition(".")[2]
        if label in items:
            raise UserError(f"{family}={chosen}: {label!r} is given twice")
        if label == "order":
            raise UserError(f"{family}={chosen}: 'order' is a key beside the labels")
        items[label] = item
    return items


def section_per_label(family: str, chosen: str, options: Options) -> Config:
    sections = ConfigDict()
    for label, name in by_label(family, chosen).items():
        sections[label] = component(SECTIONS[family], family, name, options)
    return sections


def evals_section(chosen: str, options: Options) -> Config:
    """Labelled sections and their order; "retrieval+zeroshot@imagefolder" has two."""
    evals = ConfigDict()
    items = by_label("evals", "" if chosen == "none" else chosen)
    for label, item in items.items():
        name, _, source = item.partition("@")
        section = evals[label] = component("evals", "evals", name, options)
        if source and is_summary(section):
            raise UserError(f"evals={item}: {name} reads no data: leave @{source} out")
        if source:
            address = f"evals.{label}.data"
            section["data"] = source_section(address, source, options, "val")
    if len(items) > 1:
        evals["order"] = tuple(items)
    return evals
