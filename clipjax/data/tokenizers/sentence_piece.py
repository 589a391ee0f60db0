"""SentencePiece models, such as T5's in SigLIP: a text and its end token.

Kudo and Richardson 2018 (arXiv:1808.06226); Zhai et al. 2023 (arXiv:2303.15343). Texts
have google-research/big_vision's canonical form. Needs the `text` extra.
"""

from __future__ import annotations

import base64
import string
from collections.abc import Sequence

import numpy as np

from clipjax import downloads, paths
from clipjax.data.text import cleaning, packing
from clipjax.data.text.cleaning import Captions
from clipjax.types import UserError

NAME = "sentence_piece"
WHAT = "a .model file of SentencePiece"
# Removes punctuation; SentencePiece's own mark for a blank becomes a blank.
CANONICAL = str.maketrans("\u2581", " ", string.punctuation)


class SentencePieceTokenizer:
    """The tokenizer that `make` describes. proto: the model file's bytes; place: for
    messages.
    """

    def __init__(
        self,
        proto: bytes,
        context_length: int,
        pad_token: str,
        lowercase: bool,
        canonicalize: bool,
        repair: bool,
        place: str = "",
    ):
        options = (pad_token, lowercase, canonicalize, repair)
        self._arguments = (proto, context_length, *options)
        self._proto = proto
        self.context_length = context_length
        self.lowercase = lowercase
        self.canonicalize = canonicalize
        self.repair = repair
        library = packing.library("sentencepiece", NAME)
        self._model = library.SentencePieceProcessor()
        fault = f"{place} is not {WHAT}" if place else packing.damage_message(NAME)
        try:
            self._model.LoadFromSerializedProto(proto)
        except (RuntimeError, OSError) as error:
            raise UserError(f"{fault} ({downloads.one_line(error)})") from error
        self.vocab_size = self._model.get_piece_size()
        end = self._model.eos_id()
        if end < 0 or not self.vocab_size:
            raise UserError(f"{fault} (it has no end token)")
        self.pad_id = self._model.piece_to_id(pad_token) if pad_token else end
        if pad_token and self._model.id_to_piece(self.pad_id) != pad_token:
            raise UserError(
                f"tokenizer {NAME}: pad_token={pad_token!r} is not a piece of the "
                f"model; leave it empty to pad with the end token"
            )
        self._frame = packing.Frame((), (end,), self.pad_id)
        cleaning.check_length(NAME, context_length, self._frame.least())

    def __call__(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Returns ids int32 [b context_length] and mask bool; see types.Tokenizer.

        The mask is true up to the first end token. SigLIP's text tower ignores it,
        because it was trained without a mask.
        """
        rows = [self._model.encode(self._clean(t)) for t in cleaning.check_list(texts)]
        return self._frame.pack(rows, self.context_length)

    def _clean(self, caption: str) -> str:
        caption = packing.encodable(caption)
        if self.repair:
            lower, canonical = self.lowercase, self.canonicalize
            caption = cleaning.clean(caption, lower=lower, canonical=canonical)
        if self.lowercase:
            caption = caption.lower()
        if self.canonicalize:
            caption = " ".join(caption.translate(CANONICAL).split())
        return caption

    def unknown(self, caption: str) -> list[str]:
        """Returns the pieces that become the model's unknown id."""
        cleaned = self._clean(caption)
        ids = self._model.encode(cleaned)
        pieces = self._model.encode(cleaned, out_type=str)
        unknown = self._model.unk_id()
        pairs = zip(ids, pieces, strict=True)
        return [piece for id, piece in pairs if id == unknown]

    def state(self) -> str:
        """Returns the model file in base64."""
        return base64.b64encode(self._proto).decode("ascii")

    def __reduce__(self):
        return SentencePieceTokenizer, self._arguments


def make(
    captions: Captions | None,
    state: str | None,
    *,
    path: str = "",
    context_length: int = 64,
    pad_token: str = "",
    lowercase: bool = True,
    canonicalize: bool = True,
    repair: bool = False,
) -> SentencePieceTokenizer:
    """Makes a SentencePiece model's tokenizer; the defaults are SigLIP's.

    Args:
      captions: not used; it is not trained.
      state: an earlier run's state; then path has no effect.
      path: the model file.
      context_length: tokens per row, the end token included.
      pad_token: the piece that pads rows; empty: the end token, as in SigLIP.
      lowercase: lower-case texts first.
      canonicalize: drop ASCII punctuation and collapse white space. False for SigLIP 2.
      repair: first repair broken encodings, undo HTML escapes and collapse white space,
        as open_clip does; its canonical form replaces "_" by a blank.

    Raises UserError without the library or the file, for a file that is not a model or
    has no end token, for an unknown pad_token, or for a context too short to hold a
    token.
    """
    del captions
    place = ""
    if state is None:
        place = packing.require_path(path, NAME, WHAT)
        downloads.opening(place, WHAT)
        try:
            proto = paths.expand(place).read_bytes()
        except OSError as error:
            raise UserError(
                f"cannot read {place}: {downloads.one_line(error)}"
            ) from error
    else:
        try:
            proto = base64.b64decode(state, validate=True)
        except (ValueError, TypeError) as error:
            raise UserError(f"{packing.damage_message(NAME)} ({error})") from error
    return SentencePieceTokenizer(
        proto, context_length, pad_token, lowercase, canonicalize, repair, place
    )
