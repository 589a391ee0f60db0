"""Inputs whose images are encoded otherwise than those of others, with their texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from clipjax.encoder import Encoder, Progress
from clipjax.evals.common.inputs import Inputs, Seen
from clipjax.types import UserError, Variables


class SharedTexts(Inputs):
    """The images of another encoder, with the texts that `plain` encodes and keeps.

    encoder: of a model with the same text tower.
    """

    def __init__(self, encoder: Encoder, plain: Inputs):
        super().__init__(encoder, plain.source)
        self._plain = plain

    def texts(
        self,
        variables: Variables,
        texts: Sequence[str],
        *,
        progress: Progress | None = None,
    ) -> np.ndarray:
        """See Inputs.texts."""
        return self._plain.texts(variables, texts, progress=progress)


class AlteredInputs(SharedTexts):
    """As `inputs`, with the images that it can read altered; texts are its own.

    alter: an image's key and uint8 [s s 3], as preprocessed -> the same, altered; None
    for the images as they are. Altered images are encoded at every call and not kept.
    Keys are the images' numbers in the source, which keys need not tell apart.
    """

    def __init__(
        self,
        inputs: Inputs,
        alter: Callable[[str, np.ndarray], np.ndarray] | None = None,
    ):
        super().__init__(inputs.encoder, inputs)
        self._alter = alter

    def images(
        self,
        variables: Variables,
        indices: Sequence[int],
        *,
        progress: Progress | None = None,
    ) -> Seen:
        """See Inputs.images; `broken` are those of the images as they are.

        Raises UserError if an image that could be read before cannot be read now.
        """
        if self._alter is None:
            seen = self._plain.images(variables, indices, progress=progress)
        else:
            seen = self._plain.images(variables, indices)
            kept = np.flatnonzero(seen.valid)
            found = self.encoder.images(
                variables,
                self.source,
                [indices[place] for place in kept.tolist()],
                progress=progress,
                alter=self._alter,
            )
            if found.broken:
                key, reason = found.broken[0]
                raise UserError(
                    f"{key} has been read before and cannot be read again ({reason}): "
                    "check the disk or the connection, and evaluate again"
                )
            embed = np.zeros_like(seen.embed)
            embed[kept] = found.embed
            seen = seen._replace(embed=embed)
        return seen._replace(keys=[str(index) for index in indices])
