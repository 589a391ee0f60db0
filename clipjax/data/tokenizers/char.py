"""One token a character, over 33 characters: letters, blank and some punctuation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from clipjax.data import text
from clipjax.data.text import Captions

CHARACTERS = " abcdefghijklmnopqrstuvwxyz.,!?'-"
START = len(CHARACTERS) + 1
END = START + 1


class CharTokenizer:
    """See `make`. Needs no training and has no state."""

    pad_id = 0

    def __init__(self, context_length: int, special: bool):
        text.check_length("char", context_length, 3 if special else 1)
        self.context_length = context_length
        self.special = special
        self.vocab_size = len(CHARACTERS) + (3 if special else 1)
        self._ids = {char: i for i, char in enumerate(CHARACTERS, start=1)}

    def __call__(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Returns ids int32 [b context_length] and mask bool; see types.Tokenizer."""
        texts = text.check_list(texts)
        if self.special:
            rows = [
                [self._ids[char] for char in text.clean(one) if char in self._ids]
                for one in texts
            ]
            return text.pack(rows, self.context_length, start=START, end=END)
        ids = np.zeros((len(texts), self.context_length), np.int32)
        mask = np.zeros(ids.shape, bool)
        for i, one in enumerate(texts):
            text.check(one)
            row = [self._ids.get(c, 0) for c in one.lower()[: self.context_length]]
            ids[i, : len(row)] = row
            mask[i, : max(len(row), 1)] = True
        return ids, mask

    def state(self) -> None:
        """None: nothing is learnt."""
        return None


def make(
    captions: Captions | None,
    state: str | None,
    *,
    context_length: int = 77,
    special: bool = True,
) -> CharTokenizer:
    """The character tokenizer; ids 1 to 33 are the characters, 0 is padding.

    Args:
      captions, state: not used; it is not trained.
      context_length: tokens of a row.
      special: frame a text by a start token (34) and an end token (35), so that pooling
        at the end of the text is meaningful; clean it, and drop unknown characters.
        False gives the plain rows of early character models, for parity: no frame, a
        text only lower-cased, an unknown character is 0 like the padding, 34 ids.

    Raises UserError for a context too short to hold a character.
    """
    del captions, state
    return CharTokenizer(context_length, special)
