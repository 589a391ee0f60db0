"""The inputs of evaluators: a source's examples, encoded once for all evaluators."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from clipjax.encoder import Encoder, Progress
from clipjax.evals.common import image_digests
from clipjax.evals.common.stored_rows import StoredRows
from clipjax.types import Example, Source, UserError, Variables


class Seen(NamedTuple):
    """n examples as read and encoded.

    embed: float32 [n e], of unit norm (a classifier's: logits), zeros if not valid.
    valid: bool [n], false if the image could not be read or decoded.
    captions: each valid example's; None replaces a caption that is not text.
    labels: each valid example's label set -> class index.
    keys: each valid example's.
    broken: place -> (key, reason) of each example that is not valid, whose entries in
      `captions`, `labels` and `keys` are empty.
    pooled: float32 [n d], the tower's features before projection, zeros if not valid;
      None unless `need_pooled` asked for them.
    digests: each valid example's image as `image_digests.digest`, "" if not valid; None
      unless `need_digests` asked for them.
    """

    embed: np.ndarray
    valid: np.ndarray
    captions: list[list[str | None]]
    labels: list[dict[str, int]]
    keys: list[str]
    broken: Mapping[int, tuple[str, str]]
    pooled: np.ndarray | None = None
    digests: list[str] | None = None

    def labelled(self, label_set: str) -> tuple[np.ndarray, np.ndarray]:
        """int64 [k] each: the places of the valid examples with a label in a set, and
        their labels."""
        labels = np.array([own.get(label_set, -1) for own in self.labels], np.int64)
        kept = np.flatnonzero(self.valid & (labels >= 0))
        return kept, labels[kept]

    @property
    def first_reason(self) -> str:
        """Why the first broken example is, "" if none is broken."""
        return next(iter(self.broken.values()), ("", ""))[1]

    def without(self, problem: Callable[[int], str]) -> Seen:
        """The same with further examples marked as broken.

        problem: a valid example's place -> why it cannot be used, "" if it can.
        """
        new = {
            place: (self.keys[place], reason)
            for place in np.flatnonzero(self.valid).tolist()
            if (reason := problem(place))
        }
        if not new:
            return self
        embed, valid, pooled = (
            None if array is None else array.copy()
            for array in (self.embed, self.valid, self.pooled)
        )
        for array in (embed, valid, pooled):
            if array is not None:
                array[list(new)] = 0
        broken = dict(sorted({**self.broken, **new}.items()))
        return self._replace(embed=embed, valid=valid, broken=broken, pooled=pooled)

    def with_captions(self) -> Seen:
        """The same with examples marked as broken that lack captions, or have one that
        is not text.
        """
        return self.without(
            lambda place: (
                "its captions are missing or not text"
                if not self.captions[place] or None in self.captions[place]
                else ""
            )
        )


class Inputs:
    """A source and an encoder, as an evaluator's `make` takes them.

    It caches what it encodes until it gets other variables or `forget` is called, so
    evaluators that share their Inputs read and encode an image, or the same texts,
    once.

    An evaluator whose `make` calls `need_pooled` gets the towers' pooled features from
    the same pass. One that alters images uses altered_inputs.py, or `encoder` and
    `source` themselves.

    stored: embeddings of the source by the same model, which are taken in place of
    encoding its images and captions; other texts are encoded.
    open_split: opens another split of the source, for `of_split`.

    >>> from clipjax import registry
    >>> inputs = Inputs(clip.encoder, registry.load("data", "scenes")("val"))
    >>> seen = inputs.images(clip.variables, [0, 1])
    >>> seen.embed.shape, seen.keys
    ((2, 16), ['scenes/val/0', 'scenes/val/1'])
    """

    def __init__(
        self,
        encoder: Encoder,
        source: Source,
        stored: StoredRows | None = None,
        open_split: Callable[[str], Source] | None = None,
    ):
        self.encoder = encoder
        self.source = source
        self._stored = stored
        self._open_split = open_split
        self._splits: dict[str, Inputs] = {}
        self._pooled: set[str] = set()
        self._digests = False
        self.forget()

    @property
    def are_stored(self) -> bool:
        """Whether stored embeddings are taken in place of encoding the images."""
        return self._stored is not None

    def need_pooled(self, *sides: str) -> None:
        """Asks for pooled features of "image", "text" or both: what the towers give
        before projection. Called by `make`, so that no image is encoded twice.

        Raises UserError if the model gives none of a side.
        """
        for side in sides:
            self._check_pooled(side)
        if not self._pooled.issuperset(sides):
            self._pooled.update(sides)
            self.forget()

    def need_digests(self) -> None:
        """Asks for digests of the images; called by `make`, as `need_pooled`.

        For stored embeddings the images' files are read for them.
        """
        if not self._digests:
            self._digests = True
            self.forget()

    def has_pooled(self, side: str) -> bool:
        """Whether the model gives a side's pooled features, and stored embeddings, if
        they are taken, hold them."""
        try:
            self._check_pooled(side)
        except UserError:
            return False
        return True

    def _check_pooled(self, side: str) -> None:
        self.encoder.check_pooled(side)
        if self._stored is not None:
            self._stored.check_pooled(side)

    def of_split(self, split: str) -> Inputs:
        """The inputs of another split of the source, such as the training images of a
        probe; evaluators that share these share those too.

        Raises UserError if there is no such split.
        """
        if self._open_split is None:
            raise UserError(
                "these Inputs have no other splits: give Inputs the function open_split"
            )
        if split not in self._splits:
            self._splits[split] = Inputs(self.encoder, self._open_split(split))
        return self._splits[split]

    def forget(self) -> None:
        """Clears the cache and releases the variables, of other splits too."""
        for inputs in self._splits.values():
            inputs.forget()
        self._variables: Variables | None = None
        self._seen: dict[int, _Row] = {}
        self._texts: dict[tuple[str, ...], tuple[np.ndarray, np.ndarray | None]] = {}

    def images(
        self,
        variables: Variables,
        indices: Sequence[int],
        *,
        progress: Progress | None = None,
    ) -> Seen:
        """Returns these examples of the source; reads and encodes those that are
        neither stored nor cached.

        With several processes, every process makes the same calls.
        """
        self._use(variables)
        new = [index for index in indices if index not in self._seen]
        if new and self._stored is not None:
            self._recall(new)
            new = []
        if new:
            images = self.encoder.images(
                variables,
                self.source,
                new,
                keep=facts_and_digest if self._digests else facts_of,
                progress=progress,
                pooled="image" in self._pooled,
            )
            broken = iter(images.broken)
            pooled = [None] * len(new) if images.pooled is None else images.pooled
            for index, embed, features, facts in zip(
                new, images.embed, pooled, images.kept, strict=True
            ):
                why = ("", "") if facts is not None else next(broken)
                self._seen[index] = _Row(embed, features, facts, why)
        elif progress is not None:
            progress(len(indices), len(indices))
        rows = [self._seen[index] for index in indices]
        facts = [row.facts or _NONE for row in rows]
        pooled = None
        if "image" in self._pooled:
            arrays = [row.pooled for row in rows if row.pooled is not None]
            pooled = np.stack(arrays) if rows else _EMPTY
        return Seen(
            np.stack([row.embed for row in rows]) if rows else _EMPTY,
            np.array([row.facts is not None for row in rows], bool),
            [fact["captions"] for fact in facts],
            [fact["labels"] for fact in facts],
            [fact["key"] for fact in facts],
            {i: row.why for i, row in enumerate(rows) if row.facts is None},
            pooled,
            [fact.get("digest", "") for fact in facts] if self._digests else None,
        )

    def _recall(self, indices: Sequence[int]) -> None:
        """Takes examples from the stored embeddings."""
        assert self._stored is not None
        embed, pooled, facts, why = self._stored.examples(
            indices, pooled="image" in self._pooled
        )
        for place, index in enumerate(indices):
            features = None if pooled is None else pooled[place]
            self._seen[index] = _Row(embed[place], features, facts[place], why[place])
        if not self._digests:
            return
        known = [index for index in indices if self._seen[index].facts is not None]
        for index, found in zip(
            known, image_digests.read(self.source, known), strict=True
        ):
            row = self._seen[index]
            assert row.facts is not None
            if isinstance(found, str):
                new = row._replace(facts={**row.facts, "digest": found})
            else:
                zeros = np.zeros_like(row.embed)
                why = (row.facts["key"], found.reason)
                new = row._replace(embed=zeros, facts=None, why=why)
            self._seen[index] = new

    def texts(
        self,
        variables: Variables,
        texts: Sequence[str],
        *,
        progress: Progress | None = None,
    ) -> np.ndarray:
        """Returns float32 [m e] of unit norm; see Encoder.texts."""
        return self._encoded(variables, texts, progress)[0]

    def pooled_texts(
        self,
        variables: Variables,
        texts: Sequence[str],
        *,
        progress: Progress | None = None,
    ) -> np.ndarray:
        """Returns float32 [m d], the text tower's features before projection, of the
        same pass as `texts`.

        Raises UserError unless `need_pooled("text")` has asked for them.
        """
        if "text" not in self._pooled:
            raise UserError('pooled_texts: make needs inputs.need_pooled("text") first')
        pooled = self._encoded(variables, texts, progress)[1]
        assert pooled is not None  # it was asked for
        return pooled

    def _encoded(
        self, variables: Variables, texts: Sequence[str], progress: Progress | None
    ) -> tuple[np.ndarray, np.ndarray | None]:
        self._use(variables)
        key = tuple(texts)
        if key not in self._texts:
            pair = self._new_texts(variables, texts, progress)
            for array in pair:
                if array is not None:
                    array.flags.writeable = False  # other evaluators get it too
            self._texts[key] = pair
        elif progress is not None:
            progress(len(texts), len(texts))
        return self._texts[key]

    def _new_texts(
        self, variables: Variables, texts: Sequence[str], progress: Progress | None
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """The texts that are stored, and the others encoded."""
        if self._stored is None:
            return self._encode_texts(variables, texts, progress)
        known, embed, pooled = self._stored.texts(texts, pooled="text" in self._pooled)
        if not known.any():
            return self._encode_texts(variables, texts, progress)
        if progress is not None:
            progress(int(known.sum()), len(texts))
        if not known.all():
            numbers = np.flatnonzero(~known).tolist()
            new = self._encode_texts(variables, [texts[i] for i in numbers], progress)
            embed = _merged(known, embed, new[0])
            if pooled is not None and new[1] is not None:
                pooled = _merged(known, pooled, new[1])
        return embed, pooled

    def _encode_texts(
        self, variables: Variables, texts: Sequence[str], progress: Progress | None
    ) -> tuple[np.ndarray, np.ndarray | None]:
        if "text" in self._pooled:
            return self.encoder.pooled_texts(variables, texts, progress=progress)
        return self.encoder.texts(variables, texts, progress=progress), None

    def _use(self, variables: Variables) -> None:
        if self._variables is not variables:
            self.forget()
            self._variables = variables


class _Row(NamedTuple):
    """One example as cached. facts: see `facts_of`; None if it is broken. why: its key
    and the reason.
    """

    embed: np.ndarray
    pooled: np.ndarray | None
    facts: dict[str, Any] | None
    why: tuple[str, str]


def _merged(known: np.ndarray, old: np.ndarray, new: np.ndarray) -> np.ndarray:
    """The rows of two arrays: those of `old` at the places that are known."""
    found = np.empty((len(known), new.shape[1]), np.float32)
    found[known], found[~known] = old, new
    return found


_EMPTY = np.zeros((0, 0), np.float32)
_NONE: dict[str, Any] = {"captions": [], "labels": {}, "key": ""}


def facts_of(example: Example) -> dict[str, Any]:
    """An example's captions, labels and key, as JSON values."""
    captions = example.captions
    return {
        "captions": [text if isinstance(text, str) else None for text in captions],
        "labels": {name: int(label) for name, label in example.labels.items()},
        "key": example.key,
    }


def facts_and_digest(example: Example) -> dict[str, Any]:
    """The same, and the digest of the image."""
    return {**facts_of(example), "digest": image_digests.digest(example)}
