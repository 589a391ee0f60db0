"""A source's images with captions, read and encoded: what retrieval is made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from clipjax.encoder import part_of
from clipjax.evals.common.galleries import Captioned
from clipjax.evals.common.inputs import Inputs
from clipjax.evals.common.ranking import finite, spread
from clipjax.types import UserError, Variables


class Reading(NamedTuple):
    """The n images that could be read, and their m captions.

    data: their embeddings. keys: of the images. numbers: int64 [n], theirs in the
    source. captions: of each image. texts: m, the same one after another. digests: as
    of inputs.Seen. broken: how many images could not be read, or have a caption that is
    not text.
    """

    data: Captioned
    keys: list[str]
    numbers: np.ndarray
    captions: list[list[str]]
    texts: list[str]
    digests: list[str] | None
    broken: int

    @property
    def size(self) -> str:
        """How much was read, for EvalResult."""
        return f"{len(self.keys)} images x {len(self.texts)} captions"

    @property
    def not_finite(self) -> int:
        """The number of embeddings that are not finite."""
        sides = self.data.images, self.data.texts
        return sum(int((~finite(side)).sum()) for side in sides)


def choose(evals: str, inputs: Inputs, max_samples: int) -> list[int]:
    """The numbers of the images that have captions, or of some, evenly spread.

    Args:
      evals: the evaluator's name, for messages. max_samples: the most; 0: all.

    Raises UserError if these are fewer than two, or max_samples is below 0.
    """
    if max_samples < 0 or max_samples == 1:
        why = "leaves one image" if max_samples == 1 else "is below 0"
        raise UserError(
            f"evals={evals}: max_samples={max_samples} {why}; give 2 or more, or 0 for "
            "all"
        )
    captioned = np.flatnonzero(inputs.source.caption_counts)
    if len(captioned) < 2:
        raise UserError(
            f"evals={evals} needs two or more images with captions, and the data has "
            f"{len(captioned)}; choose other evaluation data or evals=zeroshot"
        )
    return captioned[spread(len(captioned), max_samples)].tolist()


def read(
    evals: str,
    inputs: Inputs,
    variables: Variables,
    indices: list[int],
    progress: Callable[[int, int], None] | None,
) -> Reading:
    """Reads and encodes these images and all their captions.

    Args:
      evals: the evaluator's name, for messages. indices: of images with captions.

    Raises UserError if fewer than two can be read.
    """
    asked = len(indices)
    total = asked + int(inputs.source.caption_counts[indices].sum())
    seen = inputs.images(variables, indices, progress=part_of(progress, 0, total))
    seen = seen.with_captions()
    if seen.valid.sum() < 2:
        key, reason = next(iter(seen.broken.values()))
        raise UserError(
            f"evals={evals}: {len(seen.broken)} of {asked} images cannot be read, the "
            f"first is {key}: {reason}; mend the evaluation data"
        )
    kept = np.flatnonzero(seen.valid)
    captions = [
        [text for text in seen.captions[place] if text is not None] for place in kept
    ]
    counts = np.array([len(own) for own in captions])
    texts = [text for own in captions for text in own]
    data = Captioned(
        seen.embed[seen.valid],
        inputs.texts(variables, texts, progress=part_of(progress, asked, total)),
        np.repeat(np.arange(len(captions)), counts),
        np.concatenate([np.arange(count) for count in counts]),
        kept,
        asked,
    )
    digests = seen.digests
    return Reading(
        data,
        [seen.keys[place] for place in kept],
        np.array(indices)[kept],
        captions,
        texts,
        None if digests is None else [digests[place] for place in kept],
        len(seen.broken),
    )


def cut(
    reading: Reading,
    words: int,
    inputs: Inputs,
    variables: Variables,
    progress: Callable[[int, int], None] | None,
) -> Reading:
    """The same with each caption cut to its first words, which are separated by white
    space. Only captions that have more are encoded, the same ones once.
    """
    texts = [_first(text, words) for text in reading.texts]
    pairs = zip(texts, reading.texts, strict=True)
    changed = [place for place, (new, old) in enumerate(pairs) if new != old]
    embed = reading.data.texts
    if changed:
        distinct = list(dict.fromkeys(texts[place] for place in changed))
        # Not kept in `inputs`, where they would stay beside those of all other cuts.
        new = inputs.encoder.texts(variables, distinct, progress=progress)
        numbers = {text: number for number, text in enumerate(distinct)}
        embed = embed.copy()
        embed[changed] = new[[numbers[texts[place]] for place in changed]]
    captions = [[_first(text, words) for text in own] for own in reading.captions]
    data = reading.data._replace(texts=embed)
    return reading._replace(data=data, texts=texts, captions=captions)


def _first(text: str, words: int) -> str:
    own = text.split()
    return " ".join(own[:words]) if len(own) > words else text
