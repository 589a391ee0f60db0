"""Evaluators named on a command line: --evals=zeroshot --evals.zeroshot.KEY=VALUE."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from clipjax import config_parts, data_flags, registry
from clipjax.config_sections import evals_section
from clipjax.types import Config, UserError

FLAG = "--evals."


@dataclasses.dataclass(frozen=True)
class EvalsFlags:
    """What a command line, or a call, says of evaluators.

    names: "retrieval+zeroshot", "" if it names none. values: "LABEL.KEY" -> an option's
    value, or its text.
    """

    names: str = ""
    values: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.names or self.values)

    @property
    def words(self) -> str:
        """The evaluators as a part of a file's name."""
        return self.names.replace("+", "-").replace("@", "-")

    def put(self, config: Config) -> Config:
        """The config with these evaluators in place of its own, if any are named, and
        with these options.

        Raises UserError for an evaluator or option that does not exist.
        """
        found = config.copy_and_resolve_references()
        with found.unlocked():
            if self.names:
                found.evals = evals_section(self.names, {})
            labels = config_parts.labels(found.evals, "evals")
            for address, value in self.values.items():
                label, _, key = address.partition(".")
                if label not in labels or not key:
                    near = registry.suggest(label, labels)
                    raise UserError(
                        f"{FLAG}{address}: write {FLAG}LABEL.KEY=VALUE, with a label "
                        f"of {', '.join(labels) or 'an evaluator by --evals=NAME'}."
                        f"{near}"
                    )
                section = found.evals[label]
                options = registry.options_from_text(
                    "evals", section.name, {key: value}, f"{FLAG}{label}."
                )
                section.update(options)
        return found.lock()


NONE = EvalsFlags()  # a command line that names no evaluator


def read(items: list[str]) -> tuple[EvalsFlags, list[str]]:
    """The evaluators' flags of a command line, and the rest of it.

    Raises UserError for a flag without a value, and for one that is given twice.
    """
    found, rest = data_flags.split_flags(items, "evals")
    names = found.pop("evals", "")
    return EvalsFlags(
        names, {key.removeprefix("evals."): value for key, value in found.items()}
    ), rest
