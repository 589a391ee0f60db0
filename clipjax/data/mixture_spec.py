"""Reads sources written as text: `webdataset path=DATA/cc3m split.val=test weight=2`.

data=mixture names its parts so.
"""

from __future__ import annotations

import dataclasses
import os
import shlex
from collections.abc import Mapping
from typing import Any

from clipjax import paths, registry
from clipjax.types import Source, UserError

FORM = "webdataset path=FOLDER weight=2 + captions path=FOLDER"
PATHS = ("path", "data_dir")  # options that name a file or folder
OWN = ("weight", "split", "as")  # keys of the part itself, not options of its source


@dataclasses.dataclass(frozen=True)
class Part:
    """One source of a mixture.

    label: its name in messages. weight: None if not given. splits: the mixture's split
    -> this source's split; the key "" stands for all others.
    """

    name: str
    options: Mapping[str, Any]
    label: str
    weight: float | None
    splits: Mapping[str, str]

    def make(self, split: str) -> Source:
        """Makes the source for a split of the mixture; a UserError names the part."""
        split = self.splits.get(split, self.splits.get("", split))
        try:
            return registry.load("data", self.name)(split, **self.options)
        except UserError as error:
            raise UserError(f"{self.label}: {error}") from error


def parts(text: str) -> list[Part]:
    """Parses `NAME key=value ... + NAME key=value ...`, values quoted as in a shell.

    Besides its source's options, a part may set `as=` (its label), `weight=` and
    `split=` or, for one split of the mixture, `split.val=`.

    Raises UserError for text of another form.
    """
    try:
        tokens = shlex.split(text)
    except ValueError as error:
        raise UserError(f"parts={text!r}: {error}") from error
    groups: list[list[str]] = [[]]
    for token in tokens:
        if token == "+":
            groups.append([])
        else:
            groups[-1].append(token)
    mixture: list[Part] = []
    for group in groups:
        if not group or "=" in group[0]:
            raise UserError(f"parts={text!r}: write them as {FORM}")
        mixture.append(_part(group[0], group[1:]))
    labels = [part.label for part in mixture]
    for label in labels:
        if labels.count(label) > 1:
            raise UserError(
                f"parts={text!r}: {label!r} appears twice; name them by as=, such as "
                f"{label} as=first ... + {label} as=second ..."
            )
    return mixture


def absolute(path: str) -> str:
    """The absolute form of a path; URLs stay unchanged."""
    if not path or "://" in path:
        return path
    return os.path.abspath(paths.expand(path))


def absolute_parts(text: str) -> str:
    """The text with the paths of its parts made absolute; see `parts`."""
    try:
        tokens = shlex.split(text)
    except ValueError:
        return text  # `parts` raises the error when the source is made
    rewritten = []
    for token in tokens:
        key, equals, value = token.partition("=")
        if equals and key in PATHS:
            token = f"{key}={absolute(value)}"
        rewritten.append(token)
    return text if rewritten == tokens else shlex.join(rewritten)


def _part(name: str, pairs: list[str]) -> Part:
    options: dict[str, str] = {}
    own: dict[str, str] = {}
    splits: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not value:
            raise UserError(f"{name}: {pair!r} is not of the form key=value")
        if key in options or key in own or key in splits:
            raise UserError(f"{name}: {key} is given twice")
        if key == "split" or key.startswith("split."):
            splits[key.partition(".")[2]] = value
        elif key in OWN:
            own[key] = value
        else:
            options[key] = value
    label = own.get("as", name.rpartition(".")[2])
    weight = None
    if "weight" in own:
        weight = registry.from_text(own["weight"], float, f"{label}: weight")
        if not 0 < weight < float("inf"):
            raise UserError(f"{label}: weight={weight}: must be above 0")
    values = registry.options_from_text("data", name, options, f"{label}: ")
    return Part(name, values, label, weight, splits)
