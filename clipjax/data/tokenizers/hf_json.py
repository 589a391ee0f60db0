"""Any tokenizer of the `tokenizers` library, from its tokenizer.json.

CLIP, BERT, T5, SigLIP 2 (Gemma) and others are released in this form. The library gives
the ids; this module truncates and pads them. Needs the `text` extra.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from clipjax import downloads
from clipjax.data.text import cleaning, packing
from clipjax.data.text.cleaning import Captions
from clipjax.types import UserError

WHAT = "a tokenizer.json of the tokenizers library"
# The prefix of special tokens inside the library, so that no caption can spell them: a
# code point that is not a character; `_cleaned` replaces it in captions.
HIDDEN = "\U0010ffff"


class HfTokenizer:
    """The tokenizer that `make` describes. state: the tokenizer.json; name, place: for
    messages.
    """

    def __init__(
        self,
        state: str,
        context_length: int,
        pad_token: str = "",
        lowercase: bool = False,
        canonicalize: bool = False,
        repair: bool = False,
        name: str = "hf_json",
        place: str = "",
    ):
        options = (pad_token, lowercase, canonicalize, repair, name)
        self._arguments = (state, context_length, *options)
        self._state = state
        self.lowercase = lowercase
        self.canonicalize = canonicalize
        self.repair = repair
        self.context_length = context_length
        library = packing.library("tokenizers", name)
        place = f"{place} is not {WHAT}" if place else packing.damage_message(name)
        try:
            spec = json.loads(state)
            tokenizer = library.Tokenizer.from_str(state)
            in_library = lowercase and not (repair or canonicalize)  # else in _clean
            self._encode = library.Tokenizer.from_str(_unspelt(spec, in_library)).encode
            prefix, suffix = _frame(library, tokenizer)
            self.vocab_size = 1 + max(tokenizer.get_vocab().values())
            self._unknown_id = _unknown_id(spec["model"], tokenizer)
        except BaseException as error:  # a Rust panic is not an Exception
            if isinstance(error, (KeyboardInterrupt, SystemExit)):
                raise
            raise UserError(f"{place} ({downloads.one_line(error)})") from error
        self.pad_id = _pad_id(spec, tokenizer, pad_token, name)
        self._frame = packing.Frame(prefix, suffix, self.pad_id)
        cleaning.check_length(name, context_length, self._frame.least())

    def __call__(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Returns ids int32 [b context_length] and mask bool; see types.Tokenizer.

        A caption that spells a special token gives its characters' ids.
        """
        rows = []
        for text in cleaning.check_list(texts):
            encoding = self._encode(self._cleaned(text), add_special_tokens=False)
            rows.append(encoding.ids)
        return self._frame.pack(rows, self.context_length)

    def unknown(self, caption: str) -> list[str]:
        """Returns the pieces that become the file's unknown token."""
        cleaned = self._cleaned(caption)
        encoding = self._encode(cleaned, add_special_tokens=False)
        pairs = zip(encoding.ids, encoding.offsets, strict=True)
        return [cleaned[i:j] for id, (i, j) in pairs if id == self._unknown_id]

    def _cleaned(self, caption: str) -> str:
        """Returns a caption in the form that the library receives."""
        return self._clean(packing.encodable(caption)).replace(HIDDEN, "\ufffd")

    def _clean(self, caption: str) -> str:
        """Cleans a caption. The library does `lowercase` if it is the only step; it has
        no final sigma.
        """
        if self.repair:
            lower, canonical = self.lowercase, self.canonicalize
            return cleaning.clean(caption, lower=lower, canonical=canonical)
        if self.canonicalize:
            caption = cleaning.canonicalize(caption)
            return caption.lower() if self.lowercase else caption
        return caption

    def state(self) -> str:
        """Returns the tokenizer.json."""
        return self._state

    def __reduce__(self):
        return HfTokenizer, self._arguments


def make(
    captions: Captions | None,
    state: str | None,
    *,
    path: str = "",
    context_length: int = 77,
    pad_token: str = "",
    lowercase: bool = False,
    canonicalize: bool = False,
    repair: bool = False,
) -> HfTokenizer:
    """Makes a tokenizer.json's tokenizer, with the frame that its post-processor adds.

    Args:
      captions: not used; it is not trained.
      state: an earlier run's state; then path has no effect.
      path: the file.
      context_length: tokens per row, the frame included.
      pad_token: the token that pads rows, to the right; empty: the one in the file's
        padding section. OpenAI's CLIP pads with id 0, which is "!", Hugging Face's
        with "<|endoftext|>"; towers that use the mask do not see the difference.
      lowercase: lower-case texts first, as SigLIP 2 does outside its file.
      canonicalize: drop ASCII punctuation and collapse white space first.
      repair: before the other steps, repair broken encodings, undo HTML escapes and
        collapse white space, as open_clip does for every tokenizer.

    Raises UserError without the library or the file, for one that is not a
    tokenizer.json, without a padding token, or for a context too short for the frame.
    """
    del captions
    place = ""
    if state is None:
        place = packing.require_path(path, "hf_json", WHAT)
        state = downloads.read_text(place, WHAT)
    options = (pad_token, lowercase, canonicalize, repair)
    return HfTokenizer(state, context_length, *options, place=place)


def _unspelt(spec: dict[str, Any], lowercase: bool) -> str:
    """Returns the tokenizer without its post-processor and with special tokens hidden.

    Ids and everything else stay. Otherwise the library would match special tokens in
    captions; a Unigram model does so whatever its settings.
    """
    special = {
        token["content"] for token in spec.get("added_tokens", []) if token["special"]
    }

    def hide(token: Any) -> Any:
        return HIDDEN + token if token in special else token

    model = dict(spec["model"])
    if isinstance(model["vocab"], dict):
        model["vocab"] = {hide(token): i for token, i in model["vocab"].items()}
    else:  # Unigram: [token, score] in the order of ids
        model["vocab"] = [[hide(token), score] for token, score in model["vocab"]]
    if model.get("unk_token") is not None:
        model["unk_token"] = hide(model["unk_token"])
    if "merges" in model:
        pairs = ((merge, _pair(merge)) for merge in model["merges"])
        model["merges"] = [
            merge for merge, (a, b) in pairs if not special & {a, b, a + b}
        ]
    normalizer = spec.get("normalizer")
    if lowercase:
        steps = [{"type": "Lowercase"}, *([normalizer] if normalizer else [])]
        normalizer = {"type": "Sequence", "normalizers": steps}
    changed = {
        "model": model,
        "normalizer": normalizer,
        "post_processor": None,
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {**token, "content": hide(token["content"])}
            for token in spec.get("added_tokens", [])
        ],
    }
    return json.dumps({**spec, **changed})


def _pair(merge: Any) -> Sequence[str]:
    """Returns the two parts of a merge, which older files write as one string."""
    return merge.split(" ", 1) if isinstance(merge, str) else merge


def _unknown_id(model: dict[str, Any], tokenizer: Any) -> int | None:
    """Returns the id of the model's unknown token."""
    if isinstance(model.get("unk_id"), int):  # Unigram
        return model["unk_id"]
    token = model.get("unk_token")
    return tokenizer.token_to_id(token) if isinstance(token, str) else None


def _frame(library: Any, tokenizer: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Returns the ids that the post-processor adds before and after a text."""
    tokenizer.no_padding()
    tokenizer.no_truncation()
    probe = library.Tokenizer(library.models.WordLevel({"x": 0}, unk_token="x"))
    framed = tokenizer.post_process(probe.encode("x"))
    if framed.special_tokens_mask.count(0) != 1:
        raise ValueError("its post-processor repeats or drops the text")
    text_position = framed.special_tokens_mask.index(0)
    return tuple(framed.ids[:text_position]), tuple(framed.ids[text_position + 1 :])


def _pad_id(spec: dict[str, Any], tokenizer: Any, pad_token: str, name: str) -> int:
    pad_token = pad_token or (spec.get("padding") or {}).get("pad_token", "")
    pad_id = tokenizer.token_to_id(pad_token) if pad_token else None
    if pad_id is None:
        known = ", ".join(
            token["content"] for token in spec.get("added_tokens", [])[:8]
        )
        raise UserError(
            f"data.tokenizer.pad_token={pad_token!r} is not a token of the file; set "
            f"--config.data.tokenizer.pad_token to one that is (it names {known})"
        )
    return pad_id
