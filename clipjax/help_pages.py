"""The pages of --help TOPIC: a component, a section, or one value's address."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Callable
from typing import Any

from clipjax import commandline, config_addresses, registry
from clipjax.config_addresses import SECTIONS
from clipjax.config_keys import KEYS
from clipjax.types import UserError

WIDTH = 80
TOPICS = """\
more of one thing: --help loss=sogclr, --help optim, --help model.image.variant"""
_ENTRY = re.compile(r"  (\w+(?:, \w+)*): +(.*)")


def help_text(argv: list[str], general: str) -> str:
    """The text for a command line with --help: general, or the words' pages.

    Raises UserError for a word that names nothing, with the nearest.
    """
    topics = []
    for index, item in enumerate(argv):
        if item in ("--help", "-h"):
            topics = [
                word for word in argv[index + 1 :] if word not in ("--help", "-h")
            ]
            break
    if not topics:
        return commandline.spell_commands(f"{general.rstrip()}\n\n{TOPICS}\n")
    return "\n".join(page(topic) for topic in topics)


def page(topic: str) -> str:
    """The page of "loss=sogclr", "optim", or "model.image.variant".

    Raises UserError for any other topic.
    """
    address = topic.lstrip("-").removeprefix("config.")
    section, equals, name = address.partition("=")
    holder = {"eval_data": "data.eval"}.get(section, SECTIONS.get(section, section))
    kind = config_addresses.family(holder)
    if equals and kind and name:
        joined = [name] if registry.wrappers(kind) else name.split("+")
        parts = [part.partition("@")[0] for part in joined]
        return "\n".join(_component(holder, kind, part) for part in parts)
    if section in KEYS and section or kind:
        return _section(section if section in KEYS else holder, kind)
    return _value(section)


def meanings(factory: Callable[..., Any]) -> dict[str, str]:
    """Option -> its meaning in the factory's docstring, as one line.

    An entry is "name: text" or "first, second: text", indented below a heading such as
    "Args:"; its further lines are indented deeper.
    """
    texts: dict[str, str] = {}
    names: list[str] = []
    for line in (inspect.getdoc(factory) or "").splitlines():
        entry = _ENTRY.fullmatch(line)
        if entry:
            names = entry[1].split(", ")
            texts.update(dict.fromkeys(names, entry[2].strip()))
        elif line.startswith("    ") and names:
            texts.update({name: f"{texts[name]} {line.strip()}" for name in names})
        else:
            names = []
    return {name: texts[name] for name in registry.options(factory) if name in texts}


def _component(holder: str, kind: str, name: str) -> str:
    factory = registry.load(kind, name)
    options, texts = registry.options(factory), meanings(factory)
    described = inspect.getmodule(factory) if factory.__name__ == "make" else factory
    summary = (inspect.getdoc(described) or "").split("\n\n")[0]
    word = config_addresses.argument_word(holder)
    lines = [*_wrapped(f"{word}={name}: {' '.join(summary.split())}", ""), ""]
    flag = f"--config.{holder}.KEY=VALUE"
    if kind == "data":
        flag += "; prepare, embed, evaluate --data.KEY=VALUE"
    lines += [f"set by {flag}" if options else "It has no options.", ""]
    for key, option in options.items():
        value = _default(option.default, option.annotation)
        lines += _entry(key, value, texts.get(key, ""))
    return "\n".join(lines)


def _section(section: str, kind: str) -> str:
    lines = [section, ""]
    for name, key in KEYS.get(section, {}).items():
        value = _default(key.default, type(key.default))
        lines += _entry(f"{section}.{name}", value, key.meaning)
    if kind:
        word = config_addresses.argument_word(section)
        listing = f"{word}=NAME chooses: {', '.join(registry.names(kind))}"
        lines += _wrapped(listing, "")
        if outer := registry.wrappers(kind):
            text = f"before NAME, one or more: {', '.join(f'{x}+' for x in outer)}"
            lines += _wrapped(f"{text} ({word}={outer[0]}+NAME)", "")
        lines += [f"its options: --help {word}=NAME", ""]
    return "\n".join(lines)


def _value(address: str) -> str:
    section, _, name = address.rpartition(".")
    if section in KEYS and name in KEYS[section]:
        key = KEYS[section][name]
        value = _default(key.default, type(key.default))
        return "\n".join(_entry(f"--config.{address}", value, key.meaning))
    section = SECTIONS.get(section, section)
    address, holder = f"{section}.{name}", _holder(section)
    kind = config_addresses.family(holder)
    label = holder and section.removeprefix(holder).strip(".")
    groups: dict[tuple[str, str], list[str]] = {}
    for component in registry.names(kind) if kind else ():
        factory = registry.load(kind, component)
        option = registry.options(factory).get(name)
        if option and label in ("", component):
            value = _default(option.default, option.annotation)
            entry = value, meanings(factory).get(name, "")
            groups.setdefault(entry, []).append(component)
    if not groups:
        address = address.strip(".")
        hint = registry.suggest(address, [*filter(None, KEYS), *SECTIONS])
        hint = hint or config_addresses.nearest(address, _addresses(), "")
        raise UserError(
            f"--help {address}: there is no such section, component or key.{hint} "
            f"{TOPICS}"
        )
    lines = [f"--config.{address}", ""]
    for (value, meaning), components in groups.items():
        words = ", ".join(f"{kind}={component}" for component in components)
        lines += [*_wrapped(words, ""), *_entry(name, value, meaning)]
    return "\n".join(lines)


def _holder(section: str) -> str:
    """The section of components in an address, "loss" in "loss.clip"; "" if none."""
    if config_addresses.family(section):
        return section
    outer = section.rpartition(".")[0]
    return outer if outer in (SECTIONS[k] for k in _SEVERAL) else ""


_SEVERAL = (
    "loss",
    "augment",
    "text_augment",
    "evals",
)  # families that may have several components


def _addresses() -> list[str]:
    """The addresses of all values, for every component."""
    addresses = [
        f"{section}.{key}" for section in filter(None, KEYS) for key in KEYS[section]
    ]
    addresses += KEYS[""]
    for kind, section in SECTIONS.items():
        for name in registry.names(kind):
            options = registry.options(registry.load(kind, name))
            addresses += [f"{section}.{key}" for key in options]
    return list(dict.fromkeys(addresses))


def _default(value: Any, annotation: Any) -> str:
    generic = "[" in str(annotation) or "|" in str(annotation)
    kind = str(annotation) if generic else annotation.__name__
    return f"{value!r} ({kind})"


def _entry(name: str, value: str, meaning: str) -> list[str]:
    head = f"  {name} = {value}"
    if len(head) > WIDTH:
        return [f"  {name}", *_wrapped(f"= {value}", " " * 4), *_wrapped(meaning), ""]
    return [head, *_wrapped(meaning), ""]


def _wrapped(text: str, indent: str = " " * 6) -> list[str]:
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=indent,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
