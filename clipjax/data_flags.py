"""A source named on a command line: --data=NAME --data.KEY=VALUE --data.split=SPLIT.

--against names another one in the same way.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from clipjax import registry
from clipjax.config_sections import source_section
from clipjax.types import Config, UserError

FLAG = "--data."


@dataclasses.dataclass(frozen=True)
class DataFlags:
    """The source on a command line, or in a call.

    name, split: "" if not given. values: option -> its value or text, without the
    split. flag: the prefix of its flags. alone: --against was given without a name.
    """

    name: str = ""
    values: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    split: str = ""
    flag: str = FLAG
    alone: bool = False

    def __bool__(self) -> bool:
        return bool(self.name or self.values or self.split or self.alone)

    def options(self, name: str) -> dict[str, Any]:
        """The options of a source by name.

        Raises UserError for one that the source does not have, and for a wrong type.
        """
        return registry.options_from_text("data", name, self.values, self.flag)

    def put(self, config: Config) -> Config:
        """The config with this source, or these options, as its evaluation data.

        Raises UserError as `options`.
        """
        found = config.copy_and_resolve_references()
        with found.unlocked():
            if self.name and self.name != found.data.eval.name:
                found.data.eval = source_section("data.eval", self.name, {}, "val")
            section = found.data.eval
            section.split = self.split or section.split
            section.update(self.options(section.name))
        return found.lock()


NONE = DataFlags()  # a command line without a source


def read(items: list[str]) -> tuple[DataFlags, list[str]]:
    """The data flags of a command line, and its other items.

    Raises UserError for a flag without a value, and for a flag given twice.
    """
    return _read(items, "data", can_be_alone=False)


def read_against(items: list[str]) -> tuple[DataFlags, list[str]]:
    """As `read`, of --against, which needs no name."""
    return _read(items, "against", can_be_alone=True)


def _read(
    items: list[str], stem: str, can_be_alone: bool
) -> tuple[DataFlags, list[str]]:
    found, rest = split_flags(items, stem, can_be_alone=can_be_alone)
    alone = stem in found and not found[stem]
    name, split = found.pop(stem, ""), found.pop(f"{stem}.split", "")
    values = {key.removeprefix(f"{stem}."): value for key, value in found.items()}
    return DataFlags(name, values, split, f"--{stem}.", alone), rest


def split_flags(
    items: list[str], stem: str, *, can_be_alone: bool = False
) -> tuple[dict[str, str], list[str]]:
    """The flags --STEM and --STEM.KEY of a command line with their texts, and the rest.

    can_be_alone: --STEM needs no value; its text is "" then.

    Raises UserError for a flag without a value, and for one that is given twice.
    """
    found: dict[str, str] = {}
    rest: list[str] = []
    remaining = list(reversed(items))
    while remaining:
        item = remaining.pop()
        flag, equals, value = item.partition("=")
        key = flag.lstrip("-")
        if not item.startswith("-") or key.partition(".")[0] != stem:
            rest.append(item)
            continue
        if not equals:
            if remaining and remaining[-1] and not remaining[-1].startswith("--"):
                value = remaining.pop()
            elif not (can_be_alone and key == stem):
                raise UserError(f"{item}: write it as {item}=VALUE")
        if key in found:
            raise UserError(f"--{key} is given twice")
        found[key] = value
    return found, rest
