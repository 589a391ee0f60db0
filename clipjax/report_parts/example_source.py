"""The examples that a run or an evaluation is of, read from the data they name."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from clipjax import config_check, registry
from clipjax.report_parts.run_files import RunFiles
from clipjax.report_parts.thumbnails import Pictures
from clipjax.results import Evaluation
from clipjax.types import BadExample, Example, Source

SCANNED = 20_000  # examples that are looked through for a key


class Examples:
    """One source's examples by number or key; reads nothing until it is asked.

    Attributes:
      gap: why images are not shown, "" as long as they are.
    """

    def __init__(self, section: Mapping[str, Any]):
        """section: the source's, as a config has it: its name, split and options."""
        self.section = dict(section)
        self.gap = ""
        self._of = json.dumps(self.section, sort_keys=True, default=str)
        self._source: Source | None = None
        self._places: dict[str, int] | None = None

    @property
    def name(self) -> str:
        name, split = self.section.get("name", "?"), self.section.get("split", "?")
        return f"{name}, split {split}"

    def source(self) -> Source | None:
        """The source; None, with `gap`, if it cannot be opened."""
        if self._source is None and not self.gap:
            try:
                self._source = _opened(self.section)
            except Exception as error:  # of a source of the user's own, too
                reason = " ".join(str(error).split()) or type(error).__name__
                self.gap = (
                    f"The images of {self.name} are not shown, as the data cannot be "
                    f"read: {reason}"
                )
        return self._source

    def picture(self, pictures: Pictures, key: str, index: int = -1) -> str:
        """The name of an example's picture; "" if it cannot be read.

        key: its own. index: its number in the source, -1 if it is not known.
        """
        if known := pictures.known((self._of, key)):
            return known
        example = self.example(key, index)
        return "" if example is None else self.keep(pictures, example)

    def keep(self, pictures: Pictures, example: Example) -> str:
        """The name of the picture of an example of this source."""
        return pictures.add((self._of, example.key), example.image)

    def example(self, key: str, index: int = -1) -> Example | None:
        """An example whose key is this one; None, perhaps with `gap`, if there is
        none."""
        source = self.source()
        if source is None:
            return None
        if index < 0:
            index = self._place(source, key)
        try:
            found = source[index] if 0 <= index < len(source) else None
        except (BadExample, OSError, IndexError):
            return None
        if found is None or (key and found.key != key):
            self.gap = self.gap or (
                f"Some images of {self.name} are not shown: the data have no example "
                f"{registry.short_repr(key)} where the evaluation had it."
            )
            return None
        return found

    def _place(self, source: Source, key: str) -> int:
        """The number of the example with a key; -1 if there is none."""
        if self._places is None:
            key_of = getattr(source, "key_of", None)
            count = len(source) if key_of else min(len(source), SCANNED)
            self._places = {}
            for index in range(count):
                try:
                    own = key_of(index) if key_of else source[index].key
                except (BadExample, OSError):
                    continue
                self._places.setdefault(own, index)
        return self._places.get(key, -1)


class Sources:
    """The Examples of a page: one object per source, so that each is opened once."""

    def __init__(self) -> None:
        self._found: dict[str, Examples] = {}

    def of(self, section: Any) -> Examples | None:
        """The examples of a source's section; None if it is none."""
        if not isinstance(section, Mapping) or "name" not in section:
            return None
        name = json.dumps(section, sort_keys=True, default=str)
        return self._found.setdefault(name, Examples(section))

    def of_evaluator(self, evaluation: Evaluation, label: str) -> Examples | None:
        """The examples that an evaluator's rows are of."""
        own = evaluation.meta.get("evals", {}).get(label, {}).get("data")
        return self.of(own or evaluation.meta.get("data"))

    def of_run(self, run: RunFiles, part: str) -> Examples | None:
        """part: "train" or "eval"."""
        return self.of(run.section("data", part))


def _opened(section: Mapping[str, Any]) -> Source:
    from clipjax.engine import assemble  # here: a page without images needs none of it

    options = {k: tuple(v) if isinstance(v, list) else v for k, v in section.items()}
    # Options that are newer than the run have their defaults, as when it resumes.
    factory = registry.load("data", section["name"])
    for key, option in registry.options(factory).items():
        until = config_check.UNTIL_ADDED.get(("data", section["name"], key))
        options.setdefault(key, option.default if until is None else until)
    return assemble.source(options, "--config.data.eval.")


def sampled(source: Source, most: int) -> list[Example]:
    """At most so many examples, evenly spread, without those that cannot be read."""
    found = []
    for index in spread(len(source), most):
        try:
            found.append(source[index])
        except (BadExample, OSError):
            continue
    return found


def spread(count: int, most: int) -> Iterable[int]:
    """At most so many of the numbers below count, evenly spread."""
    if count <= most:
        return range(count)
    return [round(place * (count - 1) / max(most - 1, 1)) for place in range(most)]
