"""Byte-pair encoding trained on the run's own captions; needs the `text` extra.

Sennrich et al. 2016 (arXiv:1508.07909), over bytes, so that no text is unknown.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np

from clipjax.data.text import cleaning, packing
from clipjax.data.text.cleaning import Captions
from clipjax.data.text.packing import Frame
from clipjax.types import UserError

PAD, START, END = range(3)
# Special ids come before the trained ones, so that a caption cannot spell them.
SPECIALS = 3
FRAME = Frame((START,), (END,), PAD)
BYTES = 256


class BpeTokenizer:
    """The tokenizer that `make` describes. state: the trained part as the `tokenizers`
    library's JSON.
    """

    pad_id = PAD

    def __init__(self, state: str, context_length: int, lowercase: bool):
        cleaning.check_length("bpe", context_length, FRAME.least())
        self.context_length = context_length
        self.lowercase = lowercase
        self._state = state
        library = packing.library("tokenizers", "bpe")
        try:
            self._trained = library.Tokenizer.from_str(state)
        except Exception as error:  # the library raises plain Exception
            raise UserError(
                f"the saved state of tokenizer bpe is damaged ({error}); restore the "
                f"run's tokenizer.json"
            ) from error
        self.vocab_size = SPECIALS + self._trained.get_vocab_size()

    def __call__(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Returns ids int32 [b context_length] and mask bool; see types.Tokenizer."""
        rows = []
        for text in cleaning.check_list(texts):
            cleaned = cleaning.clean(text, lower=self.lowercase)
            rows.append([SPECIALS + i for i in self._trained.encode(cleaned).ids])
        return FRAME.pack(rows, self.context_length)

    def state(self) -> str:
        """Returns the trained part in JSON."""
        return self._state

    def released(self) -> str:
        """Returns a tokenizer.json; see packing.as_library."""
        model = json.loads(self._state)["model"]
        pairs = [tuple(pair) for pair in model["merges"]]
        return packing.as_library(
            "bpe",
            {piece: SPECIALS + i for piece, i in model["vocab"].items()},
            FRAME,
            lambda library, ids: library.models.BPE(ids, pairs),
            lambda library: library.pre_tokenizers.ByteLevel(add_prefix_space=True),
            lower=self.lowercase,
        )

    def __reduce__(self):
        return BpeTokenizer, (self._state, self.context_length, self.lowercase)


def make(
    captions: Captions | None,
    state: str | None,
    *,
    vocab_size: int = 4096,
    context_length: int = 32,
    lowercase: bool = True,
) -> BpeTokenizer:
    """Makes the trained tokenizer: padding 0, start 1, end 2, then bytes and merges.

    Args:
      captions: training captions, read once if there is no state.
      state: an earlier run's state; then vocab_size has no effect.
      vocab_size: maximum number of ids, special ones included; few captions may yield
        fewer.
      context_length: tokens per row, start and end included.
      lowercase: lower-case captions after cleaning.

    Raises UserError without the library or captions, or for a bad option or state.
    """
    if state is None:
        if vocab_size < SPECIALS + BYTES:
            raise UserError(
                f"data.tokenizer.vocab_size={vocab_size} is below the "
                f"{SPECIALS + BYTES} ids of bytes and special tokens"
            )
        state = _train(captions, vocab_size - SPECIALS, lowercase)
    return BpeTokenizer(state, context_length, lowercase)


def _train(captions: Captions | None, size: int, lowercase: bool) -> str:
    library = packing.library("tokenizers", "bpe")
    tokenizer = library.Tokenizer(library.models.BPE())
    tokenizer.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=True)
    trainer = library.trainers.BpeTrainer(
        vocab_size=size,
        initial_alphabet=library.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    cleaned = (
        cleaning.clean(caption, lower=lowercase)
        for caption in cleaning.training_captions("bpe", captions)
    )
    tokenizer.train_from_iterator(cleaned, trainer)
    return tokenizer.to_str()
