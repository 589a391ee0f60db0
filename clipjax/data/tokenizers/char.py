"""One token per character: by default 33 letters, blank and punctuation marks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from clipjax.data.text import cleaning, packing
from clipjax.data.text.cleaning import Captions, clean
from clipjax.data.text.packing import Frame
from clipjax.types import UserError

CHARACTERS = " abcdefghijklmnopqrstuvwxyz.,!?'-"


class CharTokenizer:
    """The tokenizer that `make` describes; it needs no training and has no state."""

    pad_id = 0

    def __init__(
        self, context_length: int, special: bool, characters: str, unknown: bool
    ):
        end = len(characters) + 2
        self._frame = Frame((end - 1,), (end,), 0) if special else Frame((), (), 0)
        cleaning.check_length("char", context_length, self._frame.least())
        self.context_length = context_length
        self.special = special
        self._ids = {char: i for i, char in enumerate(characters, start=1)}
        self._unknown = end + 1 if unknown else None
        self.vocab_size = end + 1 + unknown if special else end - 1

    def __call__(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Returns ids int32 [b context_length] and mask bool; see types.Tokenizer."""
        texts = cleaning.check_list(texts)
        if self.special:
            rows = [
                [self._ids.get(char, self._unknown) for char in clean(text)]
                for text in texts
            ]
            rows = [[id for id in row if id is not None] for row in rows]
        else:
            for text in texts:
                cleaning.check(text)
            rows = [[self._ids.get(char, 0) for char in text.lower()] for text in texts]
        return self._frame.pack(rows, self.context_length)

    def unknown(self, text: str) -> list[str]:
        """Returns the characters that have no id."""
        cleaned = clean(text) if self.special else text.lower()
        return [char for char in cleaned if char not in self._ids]

    def state(self) -> None:
        """Returns None, because nothing is learnt."""
        return None

    def released(self) -> str:
        """Returns a tokenizer.json; see packing.as_library.

        Raises UserError for plain rows, because they have no end token to pool at.
        """
        if not self.special:
            raise UserError(
                "data.tokenizer.special=False cannot be exported: no other library "
                "makes such rows"
            )
        unknown = {} if self._unknown is None else {packing.UNKNOWN: self._unknown}
        return packing.as_library(
            "char",
            {**self._ids, **unknown},
            self._frame,
            lambda library, ids: library.models.WordLevel(
                ids, unk_token=packing.UNKNOWN if unknown else packing.PAD
            ),
            lambda library: library.pre_tokenizers.Split(
                library.Regex("(?m)."), "isolated"
            ),
            only="" if unknown else "".join(self._ids),
        )


def make(
    captions: Captions | None,
    state: str | None,
    *,
    context_length: int = 77,
    special: bool = True,
    characters: str = CHARACTERS,
    unknown: bool = False,
) -> CharTokenizer:
    """Makes the character tokenizer: padding 0, then the characters.

    Args:
      captions, state: not used; it is not trained.
      context_length: tokens per row.
      special: clean a text, drop unknown characters, and frame it by a start and an
        end token, whose ids follow the characters', so that a model can pool at the
        end. False gives the plain rows of early character models, for parity: no
        frame, texts are only lower-cased, unknown characters are 0 like the padding.
      characters: lower-case, each once.
      unknown: with special, one token for all other characters; its id is the last.

    Raises UserError for a context too short to hold a character, and for empty or
    repeated characters.
    """
    del captions, state
    if not characters or len({*characters}) < len(characters):
        raise UserError(
            f"data.tokenizer.characters={characters!r}: give each character once"
        )
    if unknown and not special:
        raise UserError("data.tokenizer.unknown: needs data.tokenizer.special")
    return CharTokenizer(context_length, special, characters, unknown)
