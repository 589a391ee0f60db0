"""Our own tokenizers in the `tokenizers` library, and models exported with them."""

from __future__ import annotations

import functools

import ftfy
import jax
import model_tools
import numpy as np
import pytest
import tokenizer_tools
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from clipjax import config
from clipjax.data.text.cleaning import clean
from clipjax.data.tokenizers import char, hf_json
from clipjax.types import UserError
from clipjax.weights import model_description as described
from clipjax.weights import read_model, write_model
from clipjax.weights.beside import tokenizer_files

pytest.importorskip("tokenizers")

CAPTIONS = [
    "A dog's ball on the grass .",
    "Two dogs play; the \u201cbrown\u201d one is red!",
    "The caf\u00e9 is open, 2\u00bd hours",
    "\u65e5\u672c\u8a9e",
]
LENGTH = 24
NAMES = ["words", "char", "char with unknown", "bpe"]
TEXTS = st.text(
    st.sampled_from(
        "abdeghlnorstuw ABC \t\n019.,;!?'_-#<>/"
        "\u2019\u201c\u00e9\u00c9\u0301\u00bd\u65e5"
    ),
    max_size=40,
)


@functools.cache
def both(name):
    """A tokenizer of ours, and the one of the library that it is released as."""
    name, _, unknown = name.partition(" with ")
    section = config.base(None, tokenizer=name).data.tokenizer
    section.context_length = LENGTH
    if unknown:
        section.unknown = True
    ours = config.create("tokenizer", section, lambda: iter(CAPTIONS), None)
    return ours, hf_json.HfTokenizer(ours.released(), LENGTH)


def assert_same(name, texts):
    """The same ids, but that the end token and the last one have changed places."""
    ours, theirs = both(name)
    assert theirs.vocab_size == ours.vocab_size and theirs.pad_id == ours.pad_id
    (ids, mask), (other, other_mask) = ours(texts), theirs(texts)
    end, last = ids[0, mask[0].sum() - 1], ours.vocab_size - 1
    order = np.arange(ours.vocab_size)
    order[end], order[last] = last, end
    np.testing.assert_array_equal(order[ids], other)
    np.testing.assert_array_equal(mask, other_mask)
    assert other[0, mask[0].sum() - 1] == last


@pytest.mark.parametrize("name", NAMES)
def test_captions(name):
    assert_same(name, [*CAPTIONS, "", "unseen w\u00f6rds", "long " * 40, "<end> <pad>"])


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=200, deadline=None)
@given(texts=st.lists(TEXTS, min_size=1, max_size=4))
def test_any_text(name, texts):
    # Broken encodings are mended by ours alone: "\u00c9\u201c" is one, of "\u0253".
    assume(all(ftfy.fix_encoding(text) == text for text in texts))
    assert_same(name, texts)


def test_plain_rows_of_characters_are_no_ones():
    tokenizer = char.make(None, None, special=False)
    with pytest.raises(UserError, match="special=False cannot be exported"):
        tokenizer.released()


@pytest.mark.parametrize("target", write_model.FORMATS)
@pytest.mark.parametrize("name", NAMES)
def test_export_and_back(tmp_path, name, target):
    tokenizer, _ = both(name)
    check_export(tmp_path, name.split()[0], tokenizer, target)


@pytest.mark.parametrize("target", write_model.FORMATS)
def test_wordpiece(tmp_path, target):
    vocab = tmp_path / "vocab.txt"
    tokenizer_tools.bert_vocab(vocab)
    options = {
        "data.tokenizer=wordpiece": {"path": str(vocab), "context_length": LENGTH}
    }
    section = config.base(None, tokenizer="wordpiece", options=options).data.tokenizer
    tokenizer = config.create("tokenizer", section, None, None)
    check_export(tmp_path, "wordpiece", tokenizer, target)


CLEANINGS = [
    ("hf_json", {"lowercase": True, "canonicalize": True}),
    ("hf_json", {"canonicalize": True, "repair": True}),
    ("clip_bpe", {"canonicalize": True}),
    ("clip_bpe", {}),
]


@pytest.mark.parametrize(("name", "options"), CLEANINGS)
def test_cleaning_is_written(tmp_path, name, options):
    """What a written tokenizer.json does itself, on texts with nothing to repair."""
    section = config.base(None, tokenizer=name).data.tokenizer
    section.update(options, context_length=LENGTH)
    state = tokenizer_tools.clip_json()
    if name == "clip_bpe":
        pytest.importorskip("instant_clip_tokenizer")
        state = None
    ours = config.create("tokenizer", section, None, state)
    tokenizer_files.write(section, ours, tmp_path)
    written = (tmp_path / "tokenizer.json").read_text(encoding="utf-8")
    theirs = hf_json.HfTokenizer(written, LENGTH, "" if state else "!")
    texts = [
        "A Dog's, CAFE_2!  (b)",
        "it's <b>",
        "caf\u00e9 _ [x]\\-^ ~`",
        "",
        "long! " * 40,
    ]
    for one, other in zip(ours(texts), theirs(texts), strict=True):
        np.testing.assert_array_equal(one, other)
    apart = (ours(["a, dog!"])[0] != ours(["a dog"])[0]).any()
    assert apart == (not options)


def check_export(tmp_path, name, tokenizer, target):
    """The embeddings of texts are those of the model that was exported."""
    model = model_tools.make_model(vocab=tokenizer.vocab_size, length=LENGTH)
    variables = model_tools.init(model)
    chosen = config.base(None, tokenizer=name, preprocess="clip")
    out = tmp_path / "out"
    write_model.write(out, target, chosen, model, variables, tokenizer)
    found, read = read_model.read_model(str(out))
    again = described.to_config(found, str(out)).data.tokenizer
    assert again.name == "hf_json"
    again = config.create("tokenizer", again, None, None)
    described.check_tokenizer(found, again, str(out))
    # open_clip mends texts before any tokenizer, and so do we for its models.
    mended = [clean(text, lower=False) for text in CAPTIONS]
    seen = mended if target == "open_clip" else CAPTIONS
    expected = model_tools.encode_text(model, variables, *tokenizer(seen))
    result = model_tools.encode_text(described.build(found), read, *again(CAPTIONS))
    np.testing.assert_allclose(
        result["text_embed"], expected["text_embed"], rtol=1e-5, atol=1e-6
    )
    jax.tree.map(
        np.testing.assert_array_equal,
        read["params"]["image"],
        variables["params"]["image"],
    )
