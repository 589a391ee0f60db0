"""What evaluators take from a source and a model, encoded once for all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from clipjax.encoder import Encoder, Progress
from clipjax.types import Example, Source, Variables


class Seen(NamedTuple):
    """What became of n examples.

    embed: float32 [n e], of unit norm (of a classifier: logits), and zeros if not
      valid.
    valid: bool [n], false if the image could not be read or decoded.
    captions: each valid example's; None in place of one that is not text.
    labels: label set -> class index, of each valid example.
    keys: of each valid example.
    broken: place -> (key, reason) of the others; what `captions`, `labels` and `keys`
      hold there is empty.
    """

    embed: np.ndarray
    valid: np.ndarray
    captions: list[list[str | None]]
    labels: list[dict[str, int]]
    keys: list[str]
    broken: Mapping[int, tuple[str, str]]

    def without(self, problem: Callable[[int], str]) -> Seen:
        """The same with further examples broken.

        problem: the place of a valid example -> why it cannot be used, "" if it can.
        """
        wrong = {
            place: (self.keys[place], reason)
            for place in np.flatnonzero(self.valid).tolist()
            if (reason := problem(place))
        }
        if not wrong:
            return self
        valid, embed = self.valid.copy(), self.embed.copy()
        valid[list(wrong)] = False
        embed[list(wrong)] = 0
        broken = dict(sorted({**self.broken, **wrong}.items()))
        return self._replace(embed=embed, valid=valid, broken=broken)


class Inputs:
    """A source and an encoder, as `make` of an evaluator takes them.

    What is encoded with one model's variables is kept until other variables come or
    `forget` is called, so evaluators that share their Inputs read and encode an image,
    or the same texts, once.

    An evaluator that alters images uses `encoder` and `source` themselves.
    """

    def __init__(self, encoder: Encoder, source: Source):
        self.encoder = encoder
        self.source = source
        self.forget()

    def forget(self) -> None:
        """Lets go of everything that was encoded, and of the variables."""
        self._variables: Variables | None = None
        self._seen: dict[int, tuple[np.ndarray, dict | None, tuple[str, str]]] = {}
        self._texts: dict[tuple[str, ...], np.ndarray] = {}

    def images(
        self,
        variables: Variables,
        indices: Sequence[int],
        *,
        progress: Progress | None = None,
    ) -> Seen:
        """Reads and encodes examples of the source, as far as they are not known.

        On several processes every process makes the same calls.
        """
        self._use(variables)
        new = [index for index in indices if index not in self._seen]
        if new:
            found = self.encoder.images(
                variables, self.source, new, keep=_facts, progress=progress
            )
            broken = iter(found.broken)
            for index, row, facts in zip(new, found.embed, found.kept, strict=True):
                why = ("", "") if facts is not None else next(broken)
                self._seen[index] = (row, facts, why)
        elif progress is not None:
            progress(len(indices), len(indices))
        rows = [self._seen[index] for index in indices]
        facts = [facts or _NONE for _, facts, _ in rows]
        return Seen(
            np.stack([row for row, _, _ in rows]) if rows else _EMPTY,
            np.array([facts is not None for _, facts, _ in rows], bool),
            [one["captions"] for one in facts],
            [one["labels"] for one in facts],
            [one["key"] for one in facts],
            {i: why for i, (_, facts, why) in enumerate(rows) if facts is None},
        )

    def texts(
        self,
        variables: Variables,
        texts: Sequence[str],
        *,
        progress: Progress | None = None,
    ) -> np.ndarray:
        """Returns float32 [m e] of unit norm; see Encoder.texts."""
        self._use(variables)
        key = tuple(texts)
        if key not in self._texts:
            found = self.encoder.texts(variables, texts, progress=progress)
            found.flags.writeable = False  # others get it too
            self._texts[key] = found
        elif progress is not None:
            progress(len(texts), len(texts))
        return self._texts[key]

    def _use(self, variables: Variables) -> None:
        if self._variables is not variables:
            self.forget()
            self._variables = variables


_EMPTY = np.zeros((0, 0), np.float32)
_NONE: dict[str, Any] = {"captions": [], "labels": {}, "key": ""}


def _facts(example: Example) -> dict[str, Any]:
    """What an example has beside its image, as JSON values."""
    captions = example.captions
    return {
        "captions": [text if isinstance(text, str) else None for text in captions],
        "labels": {name: int(label) for name, label in example.labels.items()},
        "key": example.key,
    }
