"""Readers of released tokenizers: contract, state, special tokens, faults."""

from __future__ import annotations

import json
import pathlib
import pickle
import subprocess
import sys

import numpy as np
import pytest
import tokenizer_tools
from hypothesis import given, settings
from hypothesis import strategies as st

from clipjax import registry
from clipjax.types import BadExample, UserError

pytest.importorskip("tokenizers")

# name -> (reader, which file of `released`, options)
CASES = {
    "wordpiece": ("wordpiece", "vocab.txt", {}),
    "cased": ("wordpiece", "vocab.txt", {"lowercase": False}),
    "t5": ("hf_json", "t5.json", {"pad_token": "<pad>"}),
    "clip": ("hf_json", "clip.json", {}),
    "clip, padded by 0": ("hf_json", "clip.json", {"pad_token": "!"}),
    "siglip2": ("hf_json", "gemma.json", {"lowercase": True}),
    "siglip": ("sentence_piece", "spiece.model", {}),
    "gemma": (
        "sentence_piece",
        "spiece.model",
        {"canonicalize": False, "pad_token": "<pad>"},
    ),
}
LIBRARY = {
    "wordpiece": "tokenizers",
    "hf_json": "tokenizers",
    "sentence_piece": "sentencepiece",
}
# The tokens around a text.
FRAME = {
    "wordpiece": ("[CLS]", "[SEP]"),
    "cased": ("[CLS]", "[SEP]"),
    "t5": ("", "</s>"),
    "clip": ("<|startoftext|>", "<|endoftext|>"),
    "clip, padded by 0": ("<|startoftext|>", "<|endoftext|>"),
    "siglip2": ("", "<eos>"),
    "siglip": ("", "</s>"),
    "gemma": ("", "</s>"),
}


@pytest.fixture(scope="session")
def released(tmp_path_factory):
    """A folder with a file of every form."""
    folder = tmp_path_factory.mktemp("released")
    tokenizer_tools.bert_vocab(folder / "vocab.txt")
    for name in ("clip", "gemma"):
        made = getattr(tokenizer_tools, f"{name}_json")()
        (folder / f"{name}.json").write_text(made, encoding="utf-8")
    made = tokenizer_tools.unigram_json()
    (folder / "t5.json").write_text(made, encoding="utf-8")
    return folder


def path_of(released, file):
    if file == "spiece.model" and not (released / file).exists():
        pytest.importorskip("sentencepiece")
        tokenizer_tools.sentence_piece_model(released / file)
    return str(released / file)


def made(released, case, **more):
    name, file, options = CASES[case]
    make = registry.load("tokenizer", name)
    return make(None, None, path=path_of(released, file), **options | more)


def token_ids(released, case):
    """token -> id, as another reader of the file has them."""
    file = CASES[case][1]
    path = path_of(released, file)
    if file == "vocab.txt":
        lines = pathlib.Path(path).read_text(encoding="utf-8").split("\n")[:-1]
        return {token: i for i, token in enumerate(lines)}
    if file == "spiece.model":
        import sentencepiece

        model = sentencepiece.SentencePieceProcessor(model_file=path)
        return {model.id_to_piece(i): i for i in range(len(model))}
    import tokenizers

    return tokenizers.Tokenizer.from_file(path).get_vocab()


@pytest.mark.parametrize("case", CASES)
def test_contract(released, case):
    tokenizer = made(released, case, context_length=6)
    texts = tokenizer_tools.ODD
    ids, mask = tokenizer(texts)
    assert ids.shape == mask.shape == (len(texts), 6)
    assert ids.dtype == np.int32 and mask.dtype == np.bool_
    known = token_ids(released, case)
    assert tokenizer.vocab_size == 1 + max(known.values())
    assert 0 <= ids.min() and ids.max() < tokenizer.vocab_size
    lengths = mask.sum(1)
    assert lengths.min() >= 1
    assert (mask == (np.arange(6) < lengths[:, None])).all()  # no holes
    start, end = FRAME[case]
    if start:
        assert (ids[:, 0] == known[start]).all()
    assert (ids[np.arange(len(texts)), lengths - 1] == known[end]).all()
    assert (ids[~mask] == tokenizer.pad_id).all()
    assert lengths[0] == (2 if start else 1)  # the empty one
    assert lengths[-1] == 6  # the cut one
    assert tokenizer([])[0].shape == (0, 6)


PAD = {
    "wordpiece": "[PAD]",
    "cased": "[PAD]",
    "t5": "<pad>",
    "clip": "<|endoftext|>",
    "clip, padded by 0": "!",
    "siglip2": "<pad>",
    "siglip": "</s>",
    "gemma": "<pad>",
}


@pytest.mark.parametrize("case", CASES)
def test_padding(released, case):
    assert made(released, case).pad_id == token_ids(released, case)[PAD[case]]


@pytest.mark.parametrize("case", CASES)
def test_state_and_pickle_need_no_file(released, case, tmp_path):
    tokenizer = made(released, case, context_length=12)
    name, _, options = CASES[case]
    state = json.loads(json.dumps(tokenizer.state()))
    make = registry.load("tokenizer", name)
    # As the engine does: the options of the config, whose path may be gone.
    path = str(tmp_path / "gone")
    again = make(None, state, path=path, context_length=12, **options)
    copied = pickle.loads(pickle.dumps(tokenizer))
    texts = tokenizer_tools.texts(60)
    for other in (again, copied):
        assert other.state() == tokenizer.state()
        assert (other.vocab_size, other.pad_id) == (
            tokenizer.vocab_size,
            tokenizer.pad_id,
        )
        for one, two in zip(other(texts), tokenizer(texts), strict=True):
            np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("case", CASES)
def test_special_tokens_cannot_be_spelt(released, case):
    tokenizer = made(released, case, context_length=40)
    known = token_ids(released, case)
    special = {
        known[token]
        for token in ("[CLS]", "[SEP]", "[PAD]", "[MASK]", "<pad>", "</s>", "<eos>")
        + ("<bos>", "<|startoftext|>", "<|endoftext|>", "<extra_id_0>")
        if token in known
    }
    assert len(special) >= 2
    start, _ = FRAME[case]
    spelt = [*tokenizer_tools.SPELT, "[CLS]", "<pad>", "<extra_id_0>", "[MASK][PAD]"]
    for ids, mask in zip(*tokenizer(spelt), strict=True):
        assert not special & set(ids[bool(start) : mask.sum() - 1].tolist())


@pytest.mark.parametrize("case", CASES)
def test_what_is_no_text(released, case):
    tokenizer = made(released, case)
    for bad in (None, 3, b"bytes", float("nan")):
        with pytest.raises(BadExample, match=type(bad).__name__):
            tokenizer([bad])
    with pytest.raises(UserError, match="list of texts"):
        tokenizer("a dog")
    ids, mask = tokenizer(["half a pair \ud800"])  # no UTF-8 can hold it
    assert mask[0].any() and ids.max() < tokenizer.vocab_size


@pytest.mark.parametrize("case", CASES)
def test_a_context_too_short_is_refused(released, case):
    shortest = 3 if FRAME[case][0] else 2
    made(released, case, context_length=shortest)
    for length in (shortest - 1, 0, -1):
        with pytest.raises(UserError, match=f"context_length={length}"):
            made(released, case, context_length=length)


@settings(max_examples=40, deadline=None)
@given(caption=st.text(max_size=60))
def test_any_text_has_a_row(released, caption):
    for case in ("wordpiece", "t5", "clip", "siglip2"):
        tokenizer = KEPT.setdefault(case, made(released, case))
        ids, mask = tokenizer([caption])
        assert mask[0, 0] and ids.max() < tokenizer.vocab_size


KEPT = {}


# wordpiece


def test_wordpiece_golden(released):
    """Pieces as arXiv:1810.04805 and its code describe them."""
    expected = {
        "The DOG sat!": "the dog s ##at !",
        "caf\u00c9-cat": "cafe - cat",  # accents go, punctuation splits
        "a\u65e5b dogging": "a \u65e5 b dog ##g ##ing",  # Chinese splits
        "x\u0000y\u00a0z\tq": "x ##y z q",  # controls go, any blank splits
        "\u2014 dog": "[UNK] dog",
        "q" * 101 + " cat": "[UNK] cat",  # a word of more than 100 letters
    }
    known = token_ids(released, "wordpiece")
    ids, mask = made(released, "wordpiece", context_length=20)(list(expected))
    for row, valid, pieces in zip(ids, mask, expected.values(), strict=True):
        framed = ["[CLS]", *pieces.split(), "[SEP]"]
        assert row[valid].tolist() == [known[piece] for piece in framed]
    row, valid = (x[0] for x in made(released, "cased")(["A Dog caf\u00e9"]))
    framed = "[CLS] A Dog c ##a ##f ##\u00e9 [SEP]".split()
    assert row[valid].tolist() == [known[piece] for piece in framed]


def test_wordpiece_needs_the_special_tokens(released, tmp_path):
    path = tmp_path / "words.txt"
    path.write_text("[PAD]\n[UNK]\ndog\n", encoding="utf-8")
    make = registry.load("tokenizer", "wordpiece")
    with pytest.raises(UserError, match=r"words.txt.*\[CLS\], \[SEP\]"):
        make(None, None, path=str(path))


# hf_json


def test_lowercase_is_an_option(released):
    upper, lower = made(released, "siglip2")(["A DOG", "a dog"])[0]
    np.testing.assert_array_equal(upper, lower)
    upper, lower = made(released, "siglip2", lowercase=False)(["A DOG", "a dog"])[0]
    assert (upper != lower).any()


def test_a_padding_token_is_needed(released):
    with pytest.raises(UserError, match="pad_token='' .*<pad>, </s>"):
        made(released, "t5", pad_token="")
    with pytest.raises(UserError, match="pad_token='nope'"):
        made(released, "t5", pad_token="nope")


def test_a_row_without_a_frame_is_not_empty(released):
    spec = json.loads((released / "gemma.json").read_text(encoding="utf-8"))
    spec["post_processor"] = None
    make = registry.load("tokenizer", "hf_json")
    ids, mask = make(None, json.dumps(spec), context_length=4)(["", "dog"])
    assert mask.tolist() == [[True, False, False, False]] * 2
    assert ids[0].tolist() == [0] * 4 and ids[1, 0] != 0


# sentence_piece


def test_canonical_form(released):
    same = ["A Red  DOG!", "a red dog", " a, red\tdog. "]
    ids = made(released, "siglip")(same)[0]
    assert (ids == ids[0]).all()
    for options in ({"lowercase": False}, {"canonicalize": False}):
        ids = made(released, "siglip", **options)(same)[0]
        assert (ids[0] != ids[1]).any()


def test_pieces_are_those_of_the_library(released):
    path = path_of(released, "spiece.model")
    import sentencepiece

    model = sentencepiece.SentencePieceProcessor(model_file=path)
    for case, text in {
        "siglip": "its the big dog",
        "gemma": "it's  THE big dog.",
    }.items():
        ids, mask = made(released, case)([text])
        pieces = model.encode(text if case == "siglip" else text.lower())
        assert ids[0][mask[0]].tolist() == [*pieces, model.piece_to_id("</s>")]
    with pytest.raises(UserError, match="pad_token='nope'"):
        made(released, "siglip", pad_token="nope")


def test_a_model_without_an_end_is_refused(tmp_path):
    pytest.importorskip("sentencepiece")
    path = tokenizer_tools.sentence_piece_model(tmp_path / "x.model", eos_id=-1)
    make = registry.load("tokenizer", "sentence_piece")
    with pytest.raises(UserError, match="x.model.*no end token"):
        make(None, None, path=str(path))


# Faults of files, states and installations


FOREIGN = {
    "empty": b"",
    "a web page": b"\n<!DOCTYPE html><html><body>Not found</body></html>",
    "Git LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
    "x.file": b"\x80\x04\x95 binary \xff\xfe",
}


@pytest.mark.parametrize("name", LIBRARY)
def test_foreign_files(tmp_path, name):
    pytest.importorskip(LIBRARY[name])
    make = registry.load("tokenizer", name)
    path = tmp_path / "x.file"
    with pytest.raises(UserError, match="config.data.tokenizer.path"):
        make(None, None)
    with pytest.raises(UserError, match="x.file does not exist"):
        make(None, None, path=str(path))
    with pytest.raises(UserError, match="is a folder"):
        make(None, None, path=str(tmp_path))
    with pytest.raises(UserError, match="cannot (read|be a path)"):
        make(None, None, path="nul\0")
    for cause, content in FOREIGN.items():
        path.write_bytes(content)
        with pytest.raises(UserError, match=cause) as caught:
            make(None, None, path=str(path))
        assert "x.file" in str(caught.value) and "\n" not in str(caught.value)
    for bad in (b"[]", b"{}", b'{"model": {"type": "BPE"}}', b'{"model":', b'"x"'):
        path.write_bytes(bad)
        with pytest.raises(UserError, match="x.file"):
            make(None, None, path=str(path))


@pytest.mark.parametrize("case", ["wordpiece", "clip", "siglip"])
def test_damaged_states(released, case):
    name = CASES[case][0]
    state = made(released, case).state()
    make = registry.load("tokenizer", name)
    for bad in ("", "{}", "[1]", state[: len(state) // 2], "\u00e9" + state[1:]):
        with pytest.raises(UserError, match=f"{name} is damaged"):
            make(None, bad)


@pytest.mark.parametrize("name", ["hf_json", "sentence_piece"])
def test_damaged_files(released, tmp_path, name):
    """Cut or changed somewhere: read as it is or refused by its name, nothing else."""
    file = {"hf_json": "t5.json", "sentence_piece": "spiece.model"}[name]
    whole = pathlib.Path(path_of(released, file)).read_bytes()
    options = {"pad_token": "<pad>"}
    make = registry.load("tokenizer", name)
    path = tmp_path / "bad.file"
    draw = np.random.default_rng(0)
    refused = 0
    for i in range(60):
        damaged = bytearray(whole)
        if i % 2:
            damaged = damaged[: draw.integers(len(whole))]
        else:
            damaged[draw.integers(min(len(whole), 2000))] = draw.integers(32, 127)
        path.write_bytes(damaged)
        try:
            make(None, None, path=str(path), **options)
        except UserError as error:
            assert "bad.file" in str(error) or "pad_token" in str(error)
            refused += 1
    assert refused > 30


@pytest.mark.parametrize("name", LIBRARY)
def test_a_missing_library_is_named(released, monkeypatch, name):
    file = {case[0]: case[1] for case in CASES.values()}[name]
    path = path_of(released, file)
    monkeypatch.setitem(sys.modules, LIBRARY[name], None)
    words = rf"{LIBRARY[name]}.*pip install -e '\.\[text"
    with pytest.raises(UserError, match=words):
        registry.load("tokenizer", name)(None, None, path=path)


def test_readers_import_no_library():
    code = (
        "import sys; from clipjax.data.tokenizers import hf_json, sentence_piece, "
        "wordpiece; print([m for m in ('tokenizers', 'sentencepiece') "
        "if m in sys.modules])"
    )
    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert printed.stdout.strip() == "[]"
