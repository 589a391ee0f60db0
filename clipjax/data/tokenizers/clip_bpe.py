"""OpenAI CLIP's byte-pair encoding: 49,408 ids, those of its released models.

Radford et al. 2021 (arXiv:2103.00020). The vocabulary is not part of this project. It
comes from the option `vocab`, the user's cache folder or the wheel
`instant-clip-tokenizer`, in this order; else the published file is downloaded to the
cache. All give the same ids.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable, Sequence

import numpy as np
import regex

from clipjax import cache, downloads
from clipjax.data.text import cleaning, clip_vocab
from clipjax.data.text.cleaning import Captions
from clipjax.data.text.clip_vocab import FILE, URL, WHEEL
from clipjax.data.text.packing import Frame
from clipjax.types import UserError

VOCAB_SIZE = 49408
START = 49406
END = 49407
FRAME = Frame((START,), (END,), 0)
KEPT_WORDS = 1 << 16

WORD = regex.compile(
    r"'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+", regex.IGNORECASE
)


class ClipTokenizer:
    """The tokenizer that `make` describes. place: a file of merges, or WHEEL.

    Unpickling loads the vocabulary again.
    """

    vocab_size = VOCAB_SIZE
    pad_id = 0

    def __init__(self, place: str, context_length: int, canonicalize: bool = False):
        cleaning.check_length("clip_bpe", context_length, FRAME.least())
        self.context_length = context_length
        self.canonicalize = canonicalize
        self.place = place
        if place == WHEEL:
            encode = _Wheel()
        else:
            encode = clip_vocab.Merges(clip_vocab.read_lines(place))
        self._encode: Callable[[str], Sequence[int]] = functools.lru_cache(KEPT_WORDS)(
            encode
        )

    def __call__(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Returns ids int32 [b context_length] and mask bool; see types.Tokenizer.

        A caption that spells "<end_of_text>" gives its characters' ids, not the special
        id that OpenAI's code gives.
        """
        rows = [
            [i for word in self._words(text) for i in self._encode(word)]
            for text in cleaning.check_list(texts)
        ]
        return FRAME.pack(rows, self.context_length)

    def _words(self, caption: str) -> list[str]:
        return WORD.findall(cleaning.clean(caption, canonical=self.canonicalize))

    def state(self) -> None:
        """Returns None, because the vocabulary is fixed."""
        return None

    def __reduce__(self):
        return ClipTokenizer, (self.place, self.context_length, self.canonicalize)


def make(
    captions: Captions | None,
    state: str | None,
    *,
    context_length: int = 77,
    vocab: str = "",
    canonicalize: bool = False,
) -> ClipTokenizer:
    """Makes CLIP's tokenizer: start 49406, end 49407, padding 0.

    Args:
      captions, state: not used; it is not trained.
      context_length: tokens per row, start and end included.
      vocab: the file bpe_simple_vocab_16e6.txt.gz (or its merges.txt form); empty:
        the cache, the wheel instant-clip-tokenizer or a download.
      canonicalize: drop punctuation, as open_clip with clean="canonicalize". Released
        models were trained without it.

    Raises UserError if the vocabulary is missing or is another one.
    """
    del captions, state
    return ClipTokenizer(vocab or _find(), context_length, canonicalize)


def _find() -> str:
    cached = cache.folder("clip_vocab") / FILE
    if cached.is_file():
        return str(cached)
    if importlib.util.find_spec("instant_clip_tokenizer") is not None:
        return WHEEL
    try:
        clip_vocab.download(cached)
    except OSError as error:
        raise UserError(
            f"tokenizer clip_bpe needs OpenAI's vocabulary, and the download failed "
            f"({downloads.one_line(error)}): download {URL} elsewhere and save it as "
            f"{cached}, or name the file by --config.data.tokenizer.vocab"
        ) from error
    return str(cached)


class _Wheel:
    """Encodes one word; the wheel, which is faster, encodes ASCII words.

    The wheel splits words again by its own rules. They are the same for ASCII, but miss
    letters of later Unicode versions and the long s of "it'\u017f".
    """

    def __init__(self):
        self._plain = clip_vocab.wheel().encode

    def __call__(self, word: str) -> Sequence[int]:
        encode = self._plain if word.isascii() else clip_vocab.wheel_merges()
        return encode(word)
