"""Chooses our tokenizer component for the tokenizer files beside foreign weights."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

from clipjax import atomic_files, downloads
from clipjax.data.tokenizers import clip_bpe
from clipjax.types import UserError

JSON = "tokenizer.json"
SENTENCE_PIECE = "spiece.model"
MERGES = "merges.txt"
SETTINGS = "tokenizer_config.json"

# Values of open_clip's `clean` -> options of our tokenizers.
CLEAN = {
    "whitespace": {"lowercase": False, "canonicalize": False},
    "lower": {"lowercase": True, "canonicalize": False},
    "canonicalize": {"lowercase": True, "canonicalize": True},
}

# The fields of model_description.Settings that start with `tokenizer` or are
# `no_tokenizer`.
Choice = dict[str, Any]


def choose_clip(folder: pathlib.Path, vocab_size: int) -> Choice:
    """For Hugging Face's CLIP: tokenizer.json, else CLIP's own vocabulary."""
    if (folder / JSON).is_file():
        return _json(folder)
    if vocab_size != clip_bpe.VOCAB_SIZE:
        return _none(f"it holds no {JSON}, and {vocab_size} ids are not CLIP's own")
    merges = folder / MERGES
    return clip(vocab=str(merges)) if merges.is_file() else clip()


def choose_siglip(folder: pathlib.Path, lowercase: bool = True) -> Choice:
    """For SigLIP the SentencePiece model, for SigLIP 2 Gemma's tokenizer.json.

    Both were trained on lower-cased texts; SigLIP 2's file does not lower-case them.
    """
    if (folder / SENTENCE_PIECE).is_file():
        return _sentence_piece(folder)
    if (folder / JSON).is_file():
        return _json(folder, lowercase=lowercase)
    return _none(f"it holds neither {SENTENCE_PIECE} nor {JSON}")


def choose_open_clip(folder: pathlib.Path | None, text: Mapping[str, Any]) -> Choice:
    """For the text_cfg of an open_clip_config.json; cleans texts as open_clip does."""
    options = dict(text.get("tokenizer_kwargs") or {})
    clean = options.pop("clean", None)
    mode = text.get("tokenizer_mode")
    if options or mode:
        return _none(f"clipjax has no tokenizer with {mode or options}")
    if not text.get("hf_tokenizer_name"):
        size = text["vocab_size"]
        if clean not in (None, "lower", "canonicalize"):
            return _none(f"clipjax has no CLIP tokenizer with clean={clean!r}")
        if size != clip_bpe.VOCAB_SIZE:
            return _none(f"{size} ids are not CLIP's own")
        return clip(canonicalize=True) if clean == "canonicalize" else clip()
    if clean not in (None, *CLEAN):
        return _none(f"clipjax has no tokenizer with clean={clean!r}")
    if folder is None:
        return _none("it is a file, not a folder with a tokenizer")
    options = {"repair": True, **CLEAN[clean or "whitespace"]}
    if clean == "canonicalize" and (folder / SENTENCE_PIECE).is_file():
        return _sentence_piece(folder, **options)
    if (folder / JSON).is_file():
        return _json(folder, **options)
    return _none(f"it holds no {JSON}")


def clip(**options: Any) -> Choice:
    """CLIP's own tokenizer."""
    return {"tokenizer": "clip_bpe", "tokenizer_options": options}


def read_json(path: pathlib.Path) -> dict[str, Any]:
    """The JSON object in a file, {} if there is no file.

    Raises UserError if the file is damaged.
    """
    if not path.is_file():
        return {}
    try:
        value = atomic_files.parse_json(downloads.read_text(path, "a JSON file"))
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}): fetch it again") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} is damaged (not a JSON object): fetch it again")
    return value


def _sentence_piece(folder: pathlib.Path, **options: Any) -> Choice:
    path = str(folder / SENTENCE_PIECE)
    options = {"path": path, "pad_token": _pad_token(folder), **options}
    return {"tokenizer": "sentence_piece", "tokenizer_options": options}


def _json(folder: pathlib.Path, **options: Any) -> Choice:
    path = str(folder / JSON)
    options = {"path": path, "pad_token": _pad_token(folder), **options}
    return {"tokenizer": "hf_json", "tokenizer_options": options}


def _pad_token(folder: pathlib.Path) -> str:
    for name in (SETTINGS, "special_tokens_map.json"):
        token = read_json(folder / name).get("pad_token")
        token = token.get("content") if isinstance(token, dict) else token
        if token:
            return token
    return ""


def _none(why: str) -> Choice:
    return {"no_tokenizer": f"no tokenizer fits: {why}"}
