"""Lists a config's sections, and checks that each holds exactly its keys."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict, FrozenConfigDict

from clipjax import registry
from clipjax.config_addresses import nearest
from clipjax.config_keys import PLAIN, SHARED
from clipjax.types import Config, UserError

DATA_PARTS = ("tokenizer", "preprocess", "augment", "text_augment")
# Sections of components in addition to those in SHARED.
COMPONENTS = ("model", "loss", "evals")

Part = tuple[str, Any, str]  # family, section, path


def sections(config: Config) -> list[Part]:
    """(family, section, path) of every component of a config."""
    data = config.data
    parts = [
        ("model", config.model, "model"),
        *(
            (tower, config.model[tower], f"model.{tower}")
            for tower in ("image", "text")
            if tower in config.model
        ),
        ("data", data.train, "data.train"),
        ("data", data.eval, "data.eval"),
        *(
            part
            for name in DATA_PARTS
            if name in data
            for part in _parts(name, data[name], f"data.{name}")
        ),
        *losses(config),
        ("optim", config.optim, "optim"),
        ("schedule", config.optim.schedule, "optim.schedule"),
    ]
    for label in _known_labels(config.evals):
        section = config.evals[label]
        parts.append(("evals", section, f"evals.{label}"))
        if "data" in section:
            parts.append(("data", section.data, f"evals.{label}.data"))
    return parts


def losses(config: Config) -> list[Part]:
    """("loss", section, path) of the loss, or of each part of a sum."""
    return _parts("loss", config.loss, "loss")


def labels(section: Mapping[str, Any], path: str) -> tuple[str, ...]:
    """The labels of a section with several components, in their order.

    The labels of a section that was saved without an order are sorted.

    Raises UserError for an order that names no label, or an unknown one.
    """
    known = tuple(key for key in _keys(section, path) if key != "order")
    order = section.get("order", known)
    if not isinstance(order, tuple) or not set(order) <= set(known):
        raise UserError(
            f"{path}.order={registry.short_repr(order)}: name some of "
            f"{', '.join(known)}"
        )
    if known and not order:
        raise UserError(f"{path}.order=(): name some of {', '.join(known)}")
    return order


def with_shared_data(config: Config) -> list[str]:
    """The labels of the evaluators that read the data of `data.eval`."""
    return [
        label
        for label in labels(config.evals, "evals")
        if "data" not in (section := config.evals[label]) and not is_summary(section)
    ]


def is_summary(section: Mapping[str, Any]) -> bool:
    """Whether an evaluator's section is of a types.Summary, which reads no data."""
    factory = registry.load("evals", section["name"])
    return bool(registry.module_of(factory, "SUMMARY"))


def _known_labels(section: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(label for label in section if label != "order")


def _parts(family: str, section: Any, path: str) -> list[Part]:
    """(family, section, path) of a component, or of each of several."""
    if "name" in section:
        return [(family, section, path)]
    return [
        (family, section[label], f"{path}.{label}") for label in _known_labels(section)
    ]


def check(config: Config) -> None:
    """Checks that a config holds every key of its components, and no other.

    A config may come from elsewhere than `clipjax.config.base`, and an unknown key
    would be ignored silently.

    Raises UserError naming the first key that is absent, unknown or of a wrong type.
    """
    if not _is_section(config):
        raise UserError(
            f"the config is {type(config).__name__}: make it by clipjax.config.base"
        )
    groups = {"", *SHARED, *COMPONENTS}
    _need(config, "", {*SHARED[""], *groups - {""}})
    for name in groups - {""}:
        _section(config[name], name)
    for path, section, allowed, kinds in _expected(config):
        _need(section, path, allowed)
        for key, kind in kinds.items():
            registry.check_type(section[key], kind, f"{path}.{key}" if path else key)
            _check_json(section[key], f"{path}.{key}" if path else key)


def _expected(config: Config) -> Iterator[tuple[str, Any, set[str], dict[str, Any]]]:
    """Yields (path, section, its keys, its values' types) for all sections."""
    shared = {
        name: {key: type(value) for key, value in keys.items()}
        for name, keys in SHARED.items()
    }
    yield "", config, {*shared[""], *(set(SHARED) - {""}), *COMPONENTS}, shared[""]
    for name in PLAIN:
        yield name, config[name], set(shared[name]), shared[name]
    inner = {"train", "eval", "preprocess", "augment"}
    more = {"tokenizer"} if "text" in _towers(config.model) else set()
    more |= {"text_augment"} & set(config.data)
    yield "data", config.data, {*shared["data"], *inner, *more}, shared["data"]
    for name in sorted(inner | more):
        _section(config.data[name], f"data.{name}")
    for name in DATA_PARTS:
        if name in inner | more:
            yield from _several(name, config.data[name], f"data.{name}", {})
    yield from _component("data", config.data.train, "data.train", {"split": str})
    yield from _component("data", config.data.eval, "data.eval", {"split": str})
    yield from _model(config.model)
    weight = {} if "name" in config.loss else {"weight": float}
    yield from _several("loss", config.loss, "loss", weight)
    yield from _component("optim", config.optim, "optim", shared["optim"], ["schedule"])
    yield from _component("schedule", config.optim.schedule, "optim.schedule")
    for label in labels(config.evals, "evals"):
        section, path = config.evals[label], f"evals.{label}"
        own = ["data"] * ("data" in _section(section, path))
        yield from _component("evals", section, path, {}, own)
        if own:
            path = f"{path}.data"
            yield from _component("data", section.data, path, {"split": str})


def _several(
    family: str, section: Any, path: str, kinds: dict[str, Any]
) -> Iterator[tuple[str, Any, set[str], dict[str, Any]]]:
    """What `_expected` yields for a component, or for each of several."""
    if "name" in section:
        yield from _component(family, section, path, kinds)
        return
    for label in labels(section, path):
        yield from _component(family, section[label], f"{path}.{label}", kinds)


def _model(
    section: Any,
) -> Iterator[tuple[str, Any, set[str], dict[str, Any]]]:
    towers = _towers(section)
    yield from _component("model", section, "model", {}, towers)
    for tower in towers:
        yield from _component(tower, section[tower], f"model.{tower}")


def _towers(section: Any) -> tuple[str, ...]:
    factory = registry.load("model", _name(section, "model"))
    return registry.module_of(factory, "TOWERS") or ("image", "text")


def _component(
    family: str,
    section: Any,
    path: str,
    kinds: Mapping[str, Any] | None = None,
    inner: Any = (),
) -> Iterator[tuple[str, Any, set[str], dict[str, Any]]]:
    """What `_expected` yields for one component.

    kinds: types of its keys that are not options. inner: its sections.
    """
    options = registry.options(registry.load(family, _name(section, path)))
    types = {key: option.annotation for key, option in options.items()}
    types = {"name": str, **(kinds or {}), **types}
    yield path, section, {*types, *inner}, types


def _is_section(value: Any) -> bool:
    """Whether a value is a section; a frozen one is not, as flags cannot change it."""
    return isinstance(value, ConfigDict) and not isinstance(value, FrozenConfigDict)


def _keys(section: Any, path: str) -> list[str]:
    """The keys of a section; raises UserError for a key that no flag can name."""
    keys: list[Any] = [None]
    with contextlib.suppress(TypeError):  # ConfigDict sorts its keys
        keys = list(section)
    for key in keys:
        if not isinstance(key, str) or not key or set(key) & set("/="):
            shown = registry.short_repr(key) if isinstance(key, str) else "not text"
            raise UserError(
                f"{path or 'the config'} has a key that is {shown}: write keys as names"
            )
    return keys


def section_at(config: Config, path: str) -> Any:
    """The section that a dotted path names, "data.train"; None if there is none."""
    section: Any = config
    for part in path.split("."):
        if (section := section.get(part)) is None:
            return None
    return section


def _section(section: Any, path: str) -> Any:
    if not _is_section(section):
        raise UserError(f"{path}={registry.short_repr(section)}: must be a section")
    return section


def _name(section: Any, path: str) -> str:
    name = _section(section, path).get("name")
    if not isinstance(name, str):
        raise UserError(
            f"{path}.name={registry.short_repr(name)}: must name a component"
        )
    return name


def _need(section: Any, path: str, keys: set[str]) -> None:
    """Raises UserError unless a section holds exactly these keys."""
    prefix = f"{path}." if path else ""
    what = f"{path} ({section['name']})" if "name" in section else path or "the config"
    for key in _keys(section, path):
        if key not in keys:
            hint = registry.suggest(str(key), keys) or nearest(str(key), keys, prefix)
            raise UserError(
                f"unknown config key {f'{prefix}{key}'!r}: {what} has no such key."
                f"{hint} It has {', '.join(sorted(keys))}"
            )
    for key in sorted(keys):
        if key not in section:
            raise UserError(
                f"the config lacks {prefix}{key}: make it by clipjax.config.base, "
                "which sets every key"
            )


def _check_json(value: Any, path: str) -> None:
    """Raises UserError for a value that cannot be saved with the run."""
    try:
        text = json.dumps(value)
    except (TypeError, ValueError, RecursionError):
        text = ""
    if not text or "\\u0000" in text.replace(r"\\", ""):
        raise UserError(
            f"{path}={registry.short_repr(value)}: cannot be saved as JSON: use plain "
            "values"
        )
