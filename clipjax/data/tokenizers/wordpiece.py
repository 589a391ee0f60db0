"""BERT's and DistilBERT's WordPiece, from a released vocab.txt.

Devlin et al. 2018 (arXiv:1810.04805): it removes control characters, splits at white
space, punctuation and Chinese characters, then takes the longest pieces from the left.
Needs the `text` extra.
"""

from __future__ import annotations

from clipjax import downloads, paths
from clipjax.data.storage import local
from clipjax.data.text import packing
from clipjax.data.text.cleaning import Captions
from clipjax.data.tokenizers.hf_json import HfTokenizer
from clipjax.types import UserError

WHAT = "a vocab.txt of BERT"
PAD, UNKNOWN, START, END = "[PAD]", "[UNK]", "[CLS]", "[SEP]"
SPECIALS = (PAD, UNKNOWN, START, END)
MASK = "[MASK]"


def make(
    captions: Captions | None,
    state: str | None,
    *,
    path: str = "",
    context_length: int = 64,
    lowercase: bool = True,
) -> HfTokenizer:
    """Makes BERT's tokenizer: [CLS] text [SEP], padded with [PAD]; ids as in the file.

    Args:
      captions: not used; it is not trained.
      state: an earlier run's state; then path and lowercase have no effect.
      path: the file, one token per line.
      context_length: tokens per row, [CLS] and [SEP] included.
      lowercase: lower-case and strip accents, for the uncased models.

    Raises UserError without the library or the file, for a file without BERT's special
    tokens, or for a context too short to hold a token.
    """
    del captions
    if state is None:
        state = _build(packing.require_path(path, "wordpiece", WHAT), lowercase)
    return HfTokenizer(state, context_length, name="wordpiece")


def _build(path: str, lowercase: bool) -> str:
    """Returns a vocab.txt's tokenizer as the library's JSON."""
    library = packing.library("tokenizers", "wordpiece")
    downloads.opening(path, WHAT)
    lines = local.read_lines(paths.expand(path))
    vocab = {token: i for i, token in enumerate(lines)}
    missing = [token for token in SPECIALS if token not in vocab]
    if missing:
        raise UserError(f"{path} is not {WHAT}: it has no line {', '.join(missing)}")
    tokenizer = library.Tokenizer(library.models.WordPiece(vocab, unk_token=UNKNOWN))
    tokenizer.normalizer = library.normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = library.pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = library.processors.TemplateProcessing(
        single=f"{START} $A {END}",
        special_tokens=[(token, vocab[token]) for token in (START, END)],
    )
    tokenizer.add_special_tokens([t for t in (*SPECIALS, MASK) if t in vocab])
    tokenizer.enable_padding(pad_id=vocab[PAD], pad_token=PAD)
    return tokenizer.to_str()
