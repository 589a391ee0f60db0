"""A source named on a command line: --data=NAME --data.KEY=VALUE --data.split=SPLIT."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from clipjax import registry
from clipjax.types import UserError

FLAG = "--data."


@dataclasses.dataclass(frozen=True)
class DataFlags:
    """The source on a command line.

    name, split: "" if not given. texts: option -> its text, without the split.
    """

    name: str = ""
    texts: Mapping[str, str] = dataclasses.field(default_factory=dict)
    split: str = ""

    def __bool__(self) -> bool:
        return bool(self.name or self.texts or self.split)

    def options(self, name: str) -> dict[str, Any]:
        """The options of a source by name.

        Raises UserError for one that the source does not have, and for a wrong type.
        """
        return registry.options_from_text("data", name, self.texts, FLAG)


NONE = DataFlags()  # a command line without a source


def read(items: list[str]) -> tuple[DataFlags, list[str]]:
    """The data flags of a command line, and its other items.

    Raises UserError for a flag without a value, and for a flag given twice.
    """
    flags: dict[str, str] = {}
    rest: list[str] = []
    remaining = iter(items)
    for item in remaining:
        flag, equals, value = item.partition("=")
        key = flag.lstrip("-")
        if not item.startswith("-") or key.partition(".")[0] != "data":
            rest.append(item)
            continue
        if not equals:
            value = next(remaining, "")
            if not value or value.startswith("--"):
                raise UserError(f"{item}: write it as {item}=VALUE")
        if key in flags:
            raise UserError(f"--{key} is given twice")
        flags[key] = value
    name, split = flags.pop("data", ""), flags.pop("data.split", "")
    texts = {key.removeprefix("data."): value for key, value in flags.items()}
    return DataFlags(name, texts, split), rest
