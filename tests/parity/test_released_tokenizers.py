"""Our readers of released tokenizers against those of transformers, id for id."""

from __future__ import annotations

import gzip
import json
import string
from unicodedata import normalize

import numpy as np
import pytest

from clipjax.data.text import clip_vocab
from clipjax.data.tokenizers import clip_bpe, hf_json, sentence_piece, wordpiece

transformers = pytest.importorskip("transformers")
pytest.importorskip("tokenizers")
import tokenizer_tools  # noqa: E402

pytestmark = pytest.mark.parity


def assert_same(ours, theirs, texts, length):
    ids, mask = ours(texts)
    found = theirs(
        texts,
        padding="max_length",
        truncation=True,
        max_length=length,
        padding_side="right",
        return_tensors="np",
    )
    different = [
        (text, a.tolist(), b.tolist())
        for text, a, b in zip(texts, ids, found["input_ids"], strict=True)
        if (a != b).any()
    ]
    assert different == []
    np.testing.assert_array_equal(mask, found["attention_mask"])


@pytest.mark.parametrize("lowercase", [True, False])
@pytest.mark.parametrize("length", [7, 64, 512])
def test_distilbert(tmp_path, lowercase, length):
    path = tokenizer_tools.bert_vocab(tmp_path / "vocab.txt")
    theirs = transformers.DistilBertTokenizer.from_pretrained(
        tmp_path, do_lower_case=lowercase
    )
    ours = wordpiece.make(
        None, None, path=str(path), lowercase=lowercase, context_length=length
    )
    texts = tokenizer_tools.texts(3000)
    assert len(texts) > 2500
    assert_same(ours, theirs, [*texts, *WORDS], length)
    # Spelt special tokens, of which transformers keeps the text only where asked to.
    spelt = [*tokenizer_tools.SPELT, *SPELT]
    found = theirs(spelt, padding="max_length", max_length=64, return_tensors="np")
    assert (found["input_ids"] == theirs.mask_token_id).any()
    theirs.split_special_tokens = True
    assert_same(ours, theirs, spelt, length)


SPELT = ["a [MASK] dog", "[MASK][SEP][CLS]", "[PAD] cat [UNK]", "x[mask]y", "[ MASK ]"]
# At the longest word of 100 letters, in code points and in pieces.
WORDS = [
    "dog" * 33 + "x",
    "dog" * 33 + "xy",
    "\u00e9" * 100,
    "\u00e9" * 101,
    "e\u0301" * 60,
]


def clip_tokenizer(path):
    """transformers' CLIPTokenizer over the 48,894 merges of OpenAI's file."""
    lines = gzip.decompress(path.read_bytes()).decode().split("\n")
    merges = [tuple(line.split(" ")) for line in lines[1 : 1 + clip_vocab.MERGES]]
    symbols = list(clip_vocab.byte_symbols().values())
    pieces = [*symbols, *(s + "</w>" for s in symbols), *(a + b for a, b in merges)]
    pieces += ["<|startoftext|>", "<|endoftext|>"]
    return transformers.CLIPTokenizer(
        vocab={piece: i for i, piece in enumerate(pieces)}, merges=merges
    )


@pytest.mark.parametrize("length", [8, 77])
def test_clip(shared_data, length):
    path = shared_data / "clip_vocab" / clip_bpe.FILE
    theirs = clip_tokenizer(path)
    state = theirs.backend_tokenizer.to_str()
    ours = hf_json.make(None, state, pad_token="<|endoftext|>", context_length=length)
    assert (ours.vocab_size, ours.pad_id) == (49408, 49407)
    texts = tokenizer_tools.texts()
    assert_same(ours, theirs, texts, length)

    # The same file filled as OpenAI does is OpenAI's tokenizer, but for its cleaning.
    openai = clip_bpe.make(None, None, vocab=str(path), context_length=length)
    filled = hf_json.make(None, state, pad_token="!", context_length=length)
    plain = [text for text in texts if text.isascii() and text.isprintable()]
    plain = [*tokenizer_tools.corpus(), *(t for t in plain if "&" not in t)]
    for one, other in zip(filled(plain), openai(plain), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("form", ["unigram_json", "gemma_json", "clip_json"])
def test_any_json(tmp_path, form):
    path = tmp_path / "tokenizer.json"
    path.write_text(getattr(tokenizer_tools, form)(), encoding="utf-8")
    pad = "<|endoftext|>" if form == "clip_json" else "<pad>"
    theirs = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(path), pad_token=pad
    )
    ours = hf_json.make(None, None, path=str(path), pad_token=pad, context_length=40)
    assert_same(ours, theirs, tokenizer_tools.texts(), 40)


def test_t5(tmp_path):
    pytest.importorskip("sentencepiece")
    path = tokenizer_tools.sentence_piece_model(tmp_path / "spiece.model")
    import sentencepiece

    model = sentencepiece.SentencePieceProcessor(model_file=str(path))
    pieces = [(model.id_to_piece(i), model.get_score(i)) for i in range(len(model))]
    theirs = transformers.T5Tokenizer(vocab=pieces, extra_ids=5)
    state = theirs.backend_tokenizer.to_str()
    ours = hf_json.make(None, state, pad_token="<pad>", context_length=30)
    assert ours.vocab_size == len(theirs)
    assert_same(ours, theirs, tokenizer_tools.texts(), 30)


def test_siglip2(tmp_path):
    spec = json.loads(tokenizer_tools.gemma_json())
    theirs = transformers.Siglip2Tokenizer(
        vocab=spec["model"]["vocab"], merges=[tuple(m) for m in spec["model"]["merges"]]
    )
    theirs.backend_tokenizer.post_processor = hf_processor()
    ours = hf_json.make(None, json.dumps(spec), lowercase=True, context_length=64)
    assert_same(ours, theirs, tokenizer_tools.texts(), 64)


def hf_processor():
    import tokenizers

    return tokenizers.processors.TemplateProcessing(
        single="$A <eos>", special_tokens=[("<eos>", 1)]
    )


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
@pytest.mark.parametrize("length", [5, 64])
def test_siglip(tmp_path, kind, length):
    pytest.importorskip("sentencepiece")
    path = tokenizer_tools.sentence_piece_model(
        tmp_path / "spiece.model", model_type=kind
    )
    # transformers keeps a blank that begins a text as a piece of its own; big_vision,
    # whose models these are, strips it, and so do we.
    no_punctuation = str.maketrans("\u2581", " ", string.punctuation)
    texts = [
        text
        for text in tokenizer_tools.texts()
        if not normalize("NFKC", text.translate(no_punctuation))[:1].isspace()
    ]
    assert len(texts) > 300
    for pad in ("</s>", "<pad>"):
        theirs = transformers.SiglipTokenizer(str(path), pad_token=pad)
        ours = sentence_piece.make(
            None, None, path=str(path), context_length=length, pad_token=pad
        )
        assert_same(ours, theirs, texts, length)
