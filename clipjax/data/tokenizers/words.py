"""One token per word or punctuation mark; training captions give the vocabulary."""

from __future__ import annotations

import collections
import json
import re
from collections.abc import Sequence

import numpy as np

from clipjax import atomic_files
from clipjax.data.text import cleaning, packing
from clipjax.data.text.cleaning import Captions
from clipjax.data.text.packing import Frame
from clipjax.types import UserError

PAD, START, END, UNKNOWN = range(4)
SPECIALS = 4
FRAME = Frame((START,), (END,), PAD)
# WORD for the `tokenizers` library, whose \\w also matches accents.
RELEASED_WORD = r"[\p{L}\p{N}_]+(?:['’][\p{L}\p{N}_]+)*|[^\p{L}\p{N}_\s]"
WORD = re.compile(r"\w+(?:['’]\w+)*|[^\w\s]")


class WordTokenizer:
    """The tokenizer that `make` describes. words: the vocabulary in order."""

    pad_id = PAD

    def __init__(self, words: Sequence[str], context_length: int):
        cleaning.check_length("words", context_length, FRAME.least())
        self.context_length = context_length
        self.vocab_size = SPECIALS + len(words)
        self._ids = {word: i for i, word in enumerate(words, start=SPECIALS)}

    def __call__(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Returns ids int32 [b context_length] and mask bool; see types.Tokenizer."""
        rows = [
            [self._ids.get(word, UNKNOWN) for word in split(text)]
            for text in cleaning.check_list(texts)
        ]
        return FRAME.pack(rows, self.context_length)

    def unknown(self, text: str) -> list[str]:
        """Returns the words that are not in the vocabulary."""
        return [word for word in split(text) if word not in self._ids]

    def state(self) -> str:
        """Returns the vocabulary in JSON."""
        return json.dumps({"words": list(self._ids)}, ensure_ascii=False)

    def released(self) -> str:
        """Returns a tokenizer.json; see packing.as_library."""
        return packing.as_library(
            "words",
            {packing.UNKNOWN: UNKNOWN, **self._ids},
            FRAME,
            lambda library, ids: library.models.WordLevel(
                ids, unk_token=packing.UNKNOWN
            ),
            lambda library: library.pre_tokenizers.Split(
                library.Regex(RELEASED_WORD), "removed", invert=True
            ),
        )


def split(caption: str) -> list[str]:
    """Cleans a caption and returns its lower-cased words and punctuation marks."""
    return WORD.findall(cleaning.clean(caption))


def make(
    captions: Captions | None,
    state: str | None,
    *,
    vocab_size: int = 8192,
    min_count: int = 1,
    context_length: int = 32,
) -> WordTokenizer:
    """Makes the word tokenizer: padding 0, start 1, end 2, unknown 3, then the words.

    Args:
      captions: training captions, read once if there is no state.
      state: an earlier run's state; then vocab_size and min_count have no effect.
      vocab_size: maximum number of ids, the four special ones included. The most
        frequent words are kept; equally frequent ones in the order of code points.
      min_count: how often a word must occur to be kept.
      context_length: tokens per row, start and end included.

    Raises UserError for options out of range, without captions, or for a bad state.
    """
    if state is not None:
        return WordTokenizer(_words(state), context_length)
    if vocab_size <= SPECIALS or min_count < 1:
        raise UserError(
            f"tokenizer words: vocab_size={vocab_size}, min_count={min_count}: use a "
            f"vocab_size above {SPECIALS} and a min_count of 1 or more"
        )
    counts: collections.Counter[str] = collections.Counter()
    for caption in cleaning.training_captions("words", captions):
        counts.update(split(caption))
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    words = [word for word, count in ordered if count >= min_count]
    return WordTokenizer(words[: vocab_size - SPECIALS], context_length)


def _words(state: str) -> list[str]:
    try:
        words = atomic_files.parse_json(state)["words"]
        if not all(isinstance(word, str) for word in words):
            raise TypeError("words must be strings")
        return list(words)
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"the saved state of tokenizer words is damaged ({error!r}); restore the "
            f"run's tokenizer.json"
        ) from error
