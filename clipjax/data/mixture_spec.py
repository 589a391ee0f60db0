"""Sources written in words: `webdataset path=DATA/cc3m split.val=test weight=2`.

If several sources, or one outside a config, are to be named: the parts of
data=mixture, and the data of `clipjax.prepare`.
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
PATHS = ("path", "data_dir")  # options that name a place
OWN = ("weight", "split", "as")  # words of a part that are no option of its source


@dataclasses.dataclass(frozen=True)
class Part:
    """One source of several.

    label: what it is called. weight: None if none is given. splits: the split of
    this source for a split of the whole; "" for any.
    """

    name: str
    options: Mapping[str, Any]
    label: str
    weight: float | None
    splits: Mapping[str, str]

    def make(self, split: str) -> Source:
        """The source for a split of the whole; a UserError names the part."""
        split = self.splits.get(split, self.splits.get("", split))
        try:
            return registry.load("data", self.name)(split, **self.options)
        except UserError as error:
            raise UserError(f"{self.label}: {error}") from error


def parts(text: str) -> list[Part]:
    """`NAME key=value ... + NAME key=value ...`, values quoted as in a shell.

    Beside the options of its source a part may say `as=` (what it is called), `weight=`
    and `split=` or, for one split of the whole, `split.val=`.

    Raises UserError for anything else.
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
    found: list[Part] = []
    for group in groups:
        if not group or "=" in group[0]:
            raise UserError(f"parts={text!r}: write them as {FORM}")
        found.append(_part(group[0], group[1:]))
    labels = [part.label for part in found]
    for label in labels:
        if labels.count(label) > 1:
            raise UserError(
                f"parts={text!r}: {label!r} is there twice; name them by as=, such as "
                f"{label} as=first ... + {label} as=second ..."
            )
    return found


def absolute(path: str) -> str:
    """A place of data as it can be named from any folder; addresses as they are."""
    if not path or "://" in path:
        return path
    return os.path.abspath(paths.given(path))


def absolute_parts(text: str) -> str:
    """The words of several sources with their folders absolute; see `parts`."""
    try:
        tokens = shlex.split(text)
    except ValueError:
        return text  # whoever makes the source says what is wrong
    found = []
    for token in tokens:
        key, equals, value = token.partition("=")
        if equals and key in PATHS:
            token = f"{key}={absolute(value)}"
        found.append(token)
    return text if found == tokens else shlex.join(found)


def _part(name: str, words: list[str]) -> Part:
    given: dict[str, str] = {}
    own: dict[str, str] = {}
    splits: dict[str, str] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not value:
            raise UserError(f"{name}: {word!r} is not of the form key=value")
        if key in given or key in own or key in splits:
            raise UserError(f"{name}: {key} is given twice")
        if key == "split" or key.startswith("split."):
            splits[key.partition(".")[2]] = value
        elif key in OWN:
            own[key] = value
        else:
            given[key] = value
    label = own.get("as", name.rpartition(".")[2])
    weight = None
    if "weight" in own:
        weight = registry.from_text(own["weight"], float, f"{label}: weight")
        if not 0 < weight < float("inf"):
            raise UserError(f"{label}: weight={weight}: must be above 0")
    options = registry.options_from_text("data", name, given, f"{label}: ")
    return Part(name, options, label, weight, splits)
