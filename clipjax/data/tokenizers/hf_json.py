"""Any tokenizer of the `tokenizers` library, from its tokenizer.json.

CLIP, BERT, T5, SigLIP 2 (Gemma) and others are released in this form. Ids are those of
the library; cutting and padding are done here. Needs the `text` extra.
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
# Put before the special tokens inside the library, so that no caption can spell them:
# a code point that no text may contain, and `encodable` texts are cleared of it.
HIDDEN = "\U0010ffff"


class HfTokenizer:
    """See `make`. state: the tokenizer.json; name, place: for messages."""

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
        place = f"{place} is not {WHAT}" if place else packing.damaged(name)
        try:
            spec = json.loads(state)
            whole = library.Tokenizer.from_str(state)
            inside = lowercase and not (repair or canonicalize)  # else see _clean
            self._encode = library.Tokenizer.from_str(_unspelt(spec, inside)).encode
            prefix, suffix = _frame(library, whole)
            self.vocab_size = 1 + max(whole.get_vocab().values())
            self._unknown_id = _unknown_id(spec["model"], whole)
        except BaseException as error:  # a Rust panic is no Exception
            if isinstance(error, (KeyboardInterrupt, SystemExit)):
                raise
            raise UserError(f"{place} ({downloads.one_line(error)})") from error
        self.pad_id = _pad_id(spec, whole, pad_token, name)
        self._frame = packing.Frame(prefix, suffix, self.pad_id)
        cleaning.check_length(name, context_length, self._frame.least())

    def __call__(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Returns ids int32 [b context_length] and mask bool; see types.Tokenizer.

        A caption that spells a special token gives the ids of its characters.
        """
        rows = []
        for one in cleaning.check_list(texts):
            found = self._encode(self._cleaned(one), add_special_tokens=False)
            rows.append(found.ids)
        return self._frame.pack(rows, self.context_length)

    def unknown(self, caption: str) -> list[str]:
        """The pieces that get the file's token for unknown ones."""
        cleaned = self._cleaned(caption)
        found = self._encode(cleaned, add_special_tokens=False)
        pairs = zip(found.ids, found.offsets, strict=True)
        return [cleaned[i:j] for id, (i, j) in pairs if id == self._unknown_id]

    def _cleaned(self, caption: str) -> str:
        """What the library is given."""
        return self._clean(packing.encodable(caption)).replace(HIDDEN, "\ufffd")

    def _clean(self, caption: str) -> str:
        """What the library does not do; its lower case alone has no final sigma."""
        if self.repair:
            lower, canonical = self.lowercase, self.canonicalize
            return cleaning.clean(caption, lower=lower, canonical=canonical)
        if self.canonicalize:
            caption = cleaning.canonicalize(caption)
            return caption.lower() if self.lowercase else caption
        return caption

    def state(self) -> str:
        """The tokenizer.json."""
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
    """The tokenizer of a tokenizer.json, with the frame that its post-processor adds.

    Args:
      captions: not used; it is not trained.
      state: of an earlier run; then path has no effect.
      path: the file.
      context_length: tokens of a row, the frame included.
      pad_token: the token that fills rows, to the right; empty: that of the file's
        padding section. OpenAI's CLIP fills with id 0, which is "!", Hugging Face's
        with "<|endoftext|>"; towers that heed the mask do not see the difference.
      lowercase: lower-case texts first, as SigLIP 2 does beside its file.
      canonicalize: drop ASCII punctuation and squeeze white space first.
      repair: mend broken encodings, undo HTML escapes and squeeze white space before
        all that, as open_clip does for every tokenizer.

    Raises UserError without the library or the file, for one that is no
    tokenizer.json, without a padding token, or for a context too short for the frame.
    """
    del captions
    place = ""
    if state is None:
        place = packing.given(path, "hf_json", WHAT)
        state = downloads.read_text(place, WHAT)
    options = (pad_token, lowercase, canonicalize, repair)
    return HfTokenizer(state, context_length, *options, place=place)


def _unspelt(spec: dict[str, Any], lowercase: bool) -> str:
    """The tokenizer without its post-processor, the special tokens' names hidden.

    Ids and everything else stay. The library would find special tokens in captions, and
    a Unigram model would even if it is told not to.
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
    """The two parts of a merge, which older files write as one string."""
    return merge.split(" ", 1) if isinstance(merge, str) else merge


def _unknown_id(model: dict[str, Any], whole: Any) -> int | None:
    """The id of the model's token for what it does not know."""
    if isinstance(model.get("unk_id"), int):  # Unigram
        return model["unk_id"]
    token = model.get("unk_token")
    return whole.token_to_id(token) if isinstance(token, str) else None


def _frame(library: Any, whole: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The ids that the post-processor puts before and after a text."""
    whole.no_padding()
    whole.no_truncation()
    probe = library.Tokenizer(library.models.WordLevel({"x": 0}, unk_token="x"))
    framed = whole.post_process(probe.encode("x"))
    if framed.special_tokens_mask.count(0) != 1:
        raise ValueError("its post-processor repeats or drops the text")
    middle = framed.special_tokens_mask.index(0)
    return tuple(framed.ids[:middle]), tuple(framed.ids[middle + 1 :])


def _pad_id(spec: dict[str, Any], whole: Any, pad_token: str, name: str) -> int:
    pad_token = pad_token or (spec.get("padding") or {}).get("pad_token", "")
    pad_id = whole.token_to_id(pad_token) if pad_token else None
    if pad_id is None:
        known = ", ".join(
            token["content"] for token in spec.get("added_tokens", [])[:8]
        )
        raise UserError(
            f"data.tokenizer.pad_token={pad_token!r} is no token of the file; set "
            f"--config.data.tokenizer.pad_token to one that is (it names {known})"
        )
    return pad_id
