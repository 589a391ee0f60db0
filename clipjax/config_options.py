"""Reads a config file's options by their addresses, and checks that all are known."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

from clipjax import registry
from clipjax.config_addresses import (
    SECTIONS,
    component_sections,
    family,
    suggest_address,
)
from clipjax.config_keys import SHARED
from clipjax.config_sections import ANY_SOURCE, by_label, check_known
from clipjax.types import UserError

logger = logging.getLogger(__name__)

Options = dict[str, dict[str, Any]]


def read(given: Mapping[str, Any], default: Mapping[str, str], evals: str) -> Options:
    """The options of a config file by address; those of every component are checked.

    Args:
      given: "SECTION" -> keys that every config has, "SECTION=COMPONENT" -> options
        that apply if it is chosen, and keys of the config itself. The keys of earlier
        versions ("optim.adamw", "data.eval" with its source's options) are accepted;
        one logged line names the new ones.
      default: the file's choice of components by word.
      evals: the evaluators chosen, "retrieval+zeroshot@scenes".

    Raises:
      UserError: for an address or an option that does not exist, and for a wrong type.
    """
    options: Options = {}
    renamed: dict[str, str] = {}

    def add(key: str, values: Mapping[str, Any]) -> None:
        options[key] = {**options.get(key, {}), **values}

    labels = _labels(default["evals"], evals)
    for key, values in given.items():
        if key in SHARED[""] and not isinstance(values, Mapping):
            add("", {key: values})
            continue
        if not isinstance(key, str) or not isinstance(values, Mapping):
            form = "a section's name, and its keys with their values"
            raise UserError(
                f"options: {registry.short_repr({key: values})} is not {form}"
            )
        section, equals, name = key.partition("=")
        kind = family(section)
        old, _, rest = key.partition(".")
        if kind and section.startswith("evals."):
            _check_label(key, section.split(".")[1], labels)
        if equals and kind and name:
            add(key, _checked(section, name, values))
        elif section in SHARED and not equals:
            add(key, values)
        elif kind == "data" and not equals:
            of_source = dict(values)
            if "split" in of_source:
                split = registry.check_type(of_source.pop("split"), str, f"{key}.split")
                add(key, {"split": split})
            if not of_source:
                continue
            chosen = _source(section, default)
            if section == "data.train" or not chosen:
                raise _of_component(section, of_source, chosen)
            renamed[key] = f"{section}={chosen}"
            add(f"{section}={chosen}", _checked(section, chosen, of_source))
        elif kind and not equals:
            raise _of_component(section, values, default[kind])
        elif old in SECTIONS and rest and not equals:
            section = SECTIONS[old]
            renamed[key] = f"{section}={rest}"
            any_of = ANY_SOURCE if old == "data" else section
            add(f"{any_of}={rest}", _checked(section, rest, values))
        else:
            sections = [
                *filter(None, SHARED),
                *(f"{name}=NAME" for name in component_sections()),
            ]
            raise UserError(
                f"options[{key!r}]: no such section.{_near(key)} "
                f"Known: {', '.join(sections)}"
            )
    if renamed:
        _warn(renamed)
    return options


def _near(key: str) -> str:
    return suggest_address(key) or registry.suggest(key, filter(None, SHARED))


def _labels(*chosen: str) -> set[str]:
    """Labels of evaluators that a file may name, chosen or not."""
    items = [
        label
        for evals in chosen
        if evals != "none"
        for label in by_label("evals", evals)
    ]
    return {*items, *registry.names("evals")}


def _check_label(key: str, label: str, labels: Iterable[str]) -> None:
    if label not in labels:
        near = registry.suggest(label, labels)
        raise UserError(
            f"options[{key!r}]: there is no evaluator {label!r}.{near} "
            f"Known: {', '.join(sorted(labels))}"
        )


def _source(section: str, default: Mapping[str, str]) -> str:
    """The file's own choice of source for a section; "" if it chooses none."""
    if section == "data.train":
        return default["data"]
    if section == "data.eval":
        return default["eval_data"] or default["data"]
    items = by_label("evals", "" if default["evals"] == "none" else default["evals"])
    return items.get(section.split(".")[1], "").partition("@")[2]


def _checked(section: str, name: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a component, chosen or not; raises UserError for a wrong one."""
    kind = family(section)
    options = registry.options(registry.load(kind, name))
    types = {key: option.annotation for key, option in options.items()}
    if kind == "data":
        types["split"] = str
    check_known(values, types, f"option of {section}={name}:")
    return {
        key: registry.check_type(value, types[key], f"{section}.{key}")
        for key, value in values.items()
    }


def _of_component(section: str, values: Mapping[str, Any], name: str) -> UserError:
    keys = ", ".join(str(key) for key in values) or "every key"
    return UserError(
        f'options["{section}"]: {keys} belongs to a component: write it below '
        f'"{section}={name or "NAME"}"'
    )


def _warn(renamed: Mapping[str, str]) -> None:
    pairs = ", ".join(f'"{old}" as "{new}"' for old, new in renamed.items())
    line = f"options of the config: write {pairs}"
    if any(old.startswith("data.") and old != "data.eval" for old in renamed):
        line += ' (of evaluation alone: "data.eval=NAME", "evals.LABEL.data=NAME")'
    logger.warning("%s", line)
