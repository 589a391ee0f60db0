"""Ids and cleaned texts against open_clip's own code, on strings of every kind."""

from __future__ import annotations

import collections
import json
import re

import make_clip_ids
import numpy as np
import pytest
import tokenizer_tools
import varied_texts

from clipjax import config
from clipjax.data.text import clip_vocab
from clipjax.data.tokenizers import clip_bpe, sentence_piece
from clipjax.weights.beside import tokenizer_choice

pytest.importorskip("torch")

pytestmark = pytest.mark.parity

COUNT = 5000
SPECIAL = re.compile("<start_of_text>|<end_of_text>")


@pytest.fixture(scope="module")
def open_clip():
    """Its module of tokenizers."""
    found = make_clip_ids.open_clip_tokenizer()
    if found is None:
        pytest.skip("needs the parity extra (open_clip_torch)")
    return found


@pytest.fixture(scope="module")
def varied():
    """(kind, text); kinds in turn."""
    return varied_texts.made(COUNT)


@pytest.fixture(params=["wheel", "file"])
def place(request):
    if request.param == "wheel":
        pytest.importorskip("instant_clip_tokenizer")
        return clip_vocab.WHEEL
    folder = request.getfixturevalue("shared_data")
    return str(folder / "clip_vocab" / clip_vocab.FILE)


def literal(theirs):
    """The same without its search for special tokens in texts."""
    import regex

    first = "<start_of_text>|<end_of_text>|"
    assert theirs.pat.pattern.startswith(first)
    theirs.pat = regex.compile(theirs.pat.pattern[len(first) :], theirs.pat.flags)
    return theirs


def test_the_strings_are_varied(varied):
    texts = [text for _, text in varied]
    assert len(set(texts)) > 0.95 * COUNT
    counts = collections.Counter(kind for kind, _ in varied)
    assert counts.keys() == varied_texts.KINDS.keys() and min(counts.values()) > 100
    assert "" in texts and max(map(len, texts)) > 5000


@pytest.mark.parametrize("clean", ["lower", "canonicalize"])
def test_clip_bpe(open_clip, varied, place, clean):
    texts = [text for _, text in varied]
    ours = clip_bpe.ClipTokenizer(place, 77, clean == "canonicalize")
    ids, mask = ours(texts)
    theirs = open_clip.SimpleTokenizer(clean=clean)
    different = (ids != theirs(texts).numpy()).any(axis=1)
    # The exception, and the only one: a special token that a caption spells.
    spelt = [bool(SPECIAL.search(theirs.clean_fn(text))) for text in texts]
    assert sum(spelt) == (0 if clean == "canonicalize" else 185)
    wrong = np.flatnonzero(different != spelt)
    assert [varied[i] for i in wrong] == []
    # It is no more than that: as text, the ids are theirs again.
    np.testing.assert_array_equal(ids, literal(theirs)(texts).numpy())
    ends = np.take_along_axis(ids, mask.sum(axis=1)[:, None] - 1, axis=1)
    assert (ends == clip_bpe.END).all()


def test_half_a_surrogate_pair(open_clip, place):
    """No file can hold one; both take it for U+FFFD."""
    ours, theirs = clip_bpe.ClipTokenizer(place, 77), open_clip.SimpleTokenizer()
    texts = ["a \ud800 b", "\udc00", "dog\ud83d"]
    np.testing.assert_array_equal(ours(texts)[0], theirs(texts).numpy())


PADS = {"unigram_json": "<pad>", "gemma_json": "<pad>", "clip_json": "<|endoftext|>"}


@pytest.mark.parametrize("clean", tokenizer_choice.CLEAN)
@pytest.mark.parametrize("form", PADS)
def test_a_json_beside_open_clips_weights(open_clip, varied, tmp_path, form, clean):
    """Its HFTokenizer, and what we take for it by the model's settings."""
    pytest.importorskip("transformers")
    spec = getattr(tokenizer_tools, form)()
    (tmp_path / "tokenizer.json").write_text(spec, encoding="utf-8")
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": PADS[form],
        "padding_side": "right",
    }
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    theirs = open_clip.HFTokenizer(str(tmp_path), context_length=64, clean=clean)
    said = {"hf_tokenizer_name": "x", "tokenizer_kwargs": {"clean": clean}}
    chosen = tokenizer_choice.choose_open_clip(tmp_path, said)
    section = config.base(None, tokenizer=chosen["tokenizer"]).data.tokenizer
    section.update(chosen["tokenizer_options"], context_length=64)
    ours = config.create("tokenizer", section, None, None)
    # transformers makes special tokens of those that a text spells.
    texts = [text for kind, text in varied[::2] if "special" not in kind]
    assert len(texts) > 2000
    np.testing.assert_array_equal(ours(texts)[0], theirs(texts).numpy())


@pytest.mark.parametrize("clean", tokenizer_choice.CLEAN)
def test_cleaning_before_sentence_piece(open_clip, varied, tmp_path, clean):
    pytest.importorskip("sentencepiece")
    path = str(tokenizer_tools.sentence_piece_model(tmp_path / "spiece.model"))
    options = tokenizer_choice.CLEAN[clean]
    ours = sentence_piece.make(None, None, path=path, repair=True, **options)
    plain = sentence_piece.make(
        None, None, path=path, lowercase=False, canonicalize=False
    )
    theirs = open_clip.get_clean_fn(clean)
    # The mark that SentencePiece itself writes for a blank is a blank to us.
    texts = [text for _, text in varied[::2] if "\u2581" not in text]
    for one, other in zip(ours(texts), plain([theirs(t) for t in texts]), strict=True):
        np.testing.assert_array_equal(one, other)
