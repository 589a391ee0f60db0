"""Writes our tokenizers as the files that transformers and open_clip load."""

from __future__ import annotations

import base64
import json
import pathlib
import re
import string
from collections.abc import Mapping
from typing import Any, NamedTuple

from clipjax.data.text import clip_vocab, packing
from clipjax.data.tokenizers import clip_bpe
from clipjax.types import Tokenizer, UserError
from clipjax.weights.beside import tokenizer_choice

CLIP_START, CLIP_END = "<|startoftext|>", "<|endoftext|>"
# The words that clip_bpe splits a text into, and the special tokens.
CLIP_WORD = (
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|"
    r"[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
)
EXPORTED = ("clip_bpe", "hf_json", "sentence_piece")


class Ends(NamedTuple):
    """The ids of a text's first token, its last one and padding."""

    begin: int
    end: int
    pad: int


def ends(tokenizer: Tokenizer) -> Ends:
    """The ids that a tokenizer puts around a text."""
    ids, mask = tokenizer(["a"])
    length = int(mask[0].sum())
    return Ends(int(ids[0, 0]), int(ids[0, length - 1]), tokenizer.pad_id)


def open_clip_keys(section: Mapping[str, Any], folder: str) -> dict[str, Any]:
    """The keys of a text_cfg for a tokenizer that `write` writes.

    section: its name and options, data.tokenizer of a config. folder: the name of the
    folder from which open_clip loads its files.
    """
    name = section["name"]
    check(section)
    if name == "clip_bpe":
        canonical = {"tokenizer_kwargs": {"clean": "canonicalize"}}
        return canonical if section["canonicalize"] else {}
    clean = "canonicalize" if name == "sentence_piece" else "whitespace"
    return {"hf_tokenizer_name": folder, "tokenizer_kwargs": {"clean": clean}}


def write(
    section: Mapping[str, Any], tokenizer: Tokenizer, folder: pathlib.Path
) -> None:
    """Writes the files of a tokenizer that AutoTokenizer of transformers loads.

    section: its name and options, data.tokenizer of a config. The files do not repair
    broken encodings and HTML, because transformers cannot.

    Raises UserError for a tokenizer that transformers lacks.
    """
    check(section)
    if section["name"] == "clip_bpe":
        _write_clip(section, tokenizer, folder)
    elif section["name"] == "hf_json":
        _write_json(section, tokenizer, folder)
    else:
        _write_sentence_piece(section, tokenizer, folder)


def check(section: Mapping[str, Any]) -> None:
    """Raises UserError for a tokenizer that transformers lacks; see `write`."""
    name = section["name"]
    if name not in EXPORTED:
        raise UserError(
            f"data.tokenizer.name={name!r} cannot be exported: it is none of "
            f"{', '.join(EXPORTED)} and has no released()"
        )
    if name == "sentence_piece" and not section["canonicalize"]:
        raise UserError(
            "data.tokenizer.canonicalize=False cannot be exported: transformers' "
            "SiglipTokenizer always drops punctuation"
        )


def _settings(folder: pathlib.Path, tokenizer: Any, kind: str, **tokens: Any) -> None:
    settings = {
        "tokenizer_class": kind,
        "model_max_length": tokenizer.context_length,
        **{name: token for name, token in tokens.items() if token is not None},
    }
    write_json(folder / tokenizer_choice.SETTINGS, settings)


def write_json(path: pathlib.Path, value: Any) -> None:
    path.write_text(
        json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
    )


def _write_clip(
    section: Mapping[str, Any], tokenizer: Any, folder: pathlib.Path
) -> None:
    lines = clip_vocab.read_lines(tokenizer.place)
    pairs = [tuple(line.split(" ")) for line in lines]
    symbols = list(clip_vocab.byte_symbols().values())
    pieces = [*symbols, *(f"{symbol}</w>" for symbol in symbols)]
    pieces += ["".join(pair) for pair in pairs]
    pieces += [CLIP_START, CLIP_END]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    text = "\n".join(["#version: 0.2", *lines]) + "\n"
    (folder / tokenizer_choice.MERGES).write_text(text, encoding="utf-8")
    write_json(folder / "vocab.json", vocabulary)
    spec = json.loads(_clip_library(vocabulary, pairs).to_str())
    _clean_first(spec, lowercase=True, canonicalize=section["canonicalize"])
    write_json(folder / tokenizer_choice.JSON, spec)
    _settings(
        folder,
        tokenizer,
        "CLIPTokenizer",
        bos_token=CLIP_START,
        eos_token=CLIP_END,
        unk_token=CLIP_END,
        pad_token=CLIP_END,
    )


def _clip_library(vocabulary: dict[str, int], pairs: list[tuple[str, ...]]) -> Any:
    """CLIP's tokenizer in the `tokenizers` library."""
    library = packing.library("tokenizers", "clip_bpe")
    tokenizer = library.Tokenizer(
        library.models.BPE(
            vocab=vocabulary,
            merges=pairs,
            unk_token=CLIP_END,
            continuing_subword_prefix="",
            end_of_word_suffix="</w>",
            fuse_unk=False,
        )
    )
    normalizers, splits = library.normalizers, library.pre_tokenizers
    blanks = normalizers.Replace(library.Regex(r"\s+"), " ")
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), blanks, normalizers.Lowercase()]
    )
    words = splits.Split(library.Regex(CLIP_WORD), behavior="removed", invert=True)
    tokenizer.pre_tokenizer = splits.Sequence(
        [words, splits.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = library.decoders.ByteLevel()
    tokenizer.post_processor = library.processors.RobertaProcessing(
        (CLIP_END, clip_bpe.END), (CLIP_START, clip_bpe.START), False, False
    )
    tokenizer.add_special_tokens([CLIP_START, CLIP_END])
    return tokenizer


def _write_json(
    section: Mapping[str, Any], tokenizer: Tokenizer, folder: pathlib.Path
) -> None:
    spec = json.loads(tokenizer.state() or "")
    _clean_first(spec, section["lowercase"], section["canonicalize"])
    write_json(folder / tokenizer_choice.JSON, spec)
    names = {token["id"]: token["content"] for token in spec.get("added_tokens", [])}
    around = ends(tokenizer)
    _settings(
        folder,
        tokenizer,
        "PreTrainedTokenizerFast",
        eos_token=names.get(around.end),
        bos_token=names.get(around.begin),
        pad_token=names.get(around.pad) or _piece(spec, around.pad),
    )


def _clean_first(spec: dict[str, Any], lowercase: bool, canonicalize: bool) -> None:
    """Adds the cleaning that hf_json's options name before a tokenizer.json's own."""
    steps: list[dict[str, Any]] = []
    if canonicalize:
        marks = re.escape(string.punctuation.replace("_", ""))
        for pattern, content in (("_", " "), (f"[{marks}]", ""), (r"\s+", " ")):
            replaced = {"pattern": {"Regex": pattern}, "content": content}
            steps.append({"type": "Replace", **replaced})
        steps.append({"type": "Strip", "strip_left": True, "strip_right": True})
    if lowercase:
        steps.append({"type": "Lowercase"})
    if steps:
        steps += [spec["normalizer"]] if spec.get("normalizer") else []
        spec["normalizer"] = {"type": "Sequence", "normalizers": steps}


def _piece(spec: dict[str, Any], number: int) -> str:
    """The vocabulary's token with an id."""
    vocabulary = spec["model"]["vocab"]
    if isinstance(vocabulary, dict):
        return next(piece for piece, i in vocabulary.items() if i == number)
    return vocabulary[number][0]


def _write_sentence_piece(
    section: Mapping[str, Any], tokenizer: Tokenizer, folder: pathlib.Path
) -> None:
    content = base64.b64decode(tokenizer.state() or "")
    (folder / tokenizer_choice.SENTENCE_PIECE).write_bytes(content)
    _settings(
        folder,
        tokenizer,
        "SiglipTokenizer",
        do_lower_case=section["lowercase"],
        pad_token=section["pad_token"] or "</s>",  # SigLIP's end token
    )
