"""All tokenizers by name: in every config, cut to every length, with every cleaning."""

import pathlib
import pickle
import runpy

import numpy as np
import pytest
import tokenizer_tools
import varied_texts
from tokenizer_tools import has_wheel

from clipjax import config, registry
from clipjax.types import UserError

pytest.importorskip("tokenizers")

CONFIGS = pathlib.Path(__file__).parents[3] / "configs"
# Those of a run; a file of configs/studies/ names one of them.
RUN_CONFIGS = sorted(
    path for path in CONFIGS.rglob("*.py") if path.parent.name != "studies"
)
NAMES = registry.names("tokenizer")
# What a kind has beside its defaults: option -> value, FILE the path of its file.
FILE = object()
OPTIONS = {
    "hf_json": {"path": FILE, "pad_token": "<pad>"},
    "sentence_piece": {"path": FILE},
    "wordpiece": {"path": FILE},
}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    (folder / "hf_json").write_text(tokenizer_tools.unigram_json(), encoding="utf-8")
    tokenizer_tools.bert_vocab(folder / "wordpiece")
    return folder


@pytest.fixture
def options_of(files):
    """name -> its options, with a file where it needs one."""

    def options(name):
        if name == "clip_bpe" and not has_wheel():
            pytest.skip("needs instant-clip-tokenizer")
        if name == "sentence_piece" and not (files / name).exists():
            pytest.importorskip("sentencepiece")
            tokenizer_tools.sentence_piece_model(files / name)
        found = OPTIONS.get(name, {}).items()
        return {k: str(files / name) if v is FILE else v for k, v in found}

    return options


@pytest.fixture
def create(options_of):
    """(name, more options) -> the tokenizer, as a run makes it."""

    def made(name, **options):
        section = config.base(None, tokenizer=name).data.tokenizer
        section.update(**options_of(name), **options)
        return config.create("tokenizer", section, captions, None)

    return made


def captions():
    return iter(tokenizer_tools.corpus())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("path", RUN_CONFIGS, ids=lambda path: path.stem)
def test_in_every_config(options_of, path, name):
    get_config = runpy.run_path(str(path))["get_config"]
    if path.stem == "resnet_classifier":
        with pytest.raises(UserError, match=f"tokenizer={name}: .* no text tower"):
            get_config(f"tokenizer={name}")
        return
    section = get_config(f"tokenizer={name}").data.tokenizer
    assert section.name == name
    section.update(options_of(name))
    tokenizer = config.create("tokenizer", section, captions, None)
    ids, mask = tokenizer(["the red dog sat", "x " * 500])
    length = section.context_length
    assert ids.shape == (2, length) and mask[1].all() and mask[0].sum() > 3
    assert ids.max() < tokenizer.vocab_size


@pytest.mark.parametrize("name", NAMES)
def test_a_cut_text_is_the_beginning_and_the_end(create, name):
    """At every length, on texts of every kind: also within a word or a character."""
    texts = [text[:400] for _, text in varied_texts.made(120, seed=2)]
    texts += [*tokenizer_tools.SPELT, "the red dog " * 60]
    whole, whole_mask = create(name, context_length=1500)(texts)
    lengths = whole_mask.sum(axis=1)
    assert lengths.max() < 1500
    end = whole[0, lengths[0] - 1]
    assert (whole[np.arange(len(texts)), lengths - 1] == end).all()
    for length in (3, 4, 7, 30, 77, 200):
        ids, mask = create(name, context_length=length)(texts)
        assert (lengths > length).any()
        for row, valid, full, count in zip(ids, mask, whole, lengths, strict=True):
            if count <= length:
                expected = full[:count]
            else:
                expected = [*full[: length - 1], end]
            np.testing.assert_array_equal(row[valid], expected)


SAME = ["A Dog's, CAFE_2!", "a dogs cafe 2"]  # but for case and punctuation
BROKEN = ["caf\u00c3\u00a9 &amp;amp; dog", "caf\u00e9 & dog"]
# The options that make two texts one, and those that keep them apart.
CLEANINGS = [
    ("clip_bpe", SAME, {"canonicalize": True}, {}),
    ("clip_bpe", BROKEN, {}, None),
    ("bpe", ["A Dog", "a dog"], {}, {"lowercase": False}),
    ("bpe", BROKEN, {}, None),
    ("char", ["A Dog\u732b", "a dog"], {}, {"unknown": True}),
    ("words", ["A DOG, caf\u00c9", " a dog  , caf\u00e9"], {}, None),
    ("words", BROKEN, {}, None),
    ("wordpiece", ["A Dog CAF\u00c9", "a dog cafe"], {}, {"lowercase": False}),
    ("hf_json", ["A Dog", "a dog"], {"lowercase": True}, {}),
    ("hf_json", SAME, {"lowercase": True, "canonicalize": True}, {"lowercase": True}),
    ("hf_json", ["A dog!", "A dog"], {"canonicalize": True}, {}),
    ("hf_json", ["A dog", "a dog"], {"lowercase": True}, {"canonicalize": True}),
    ("hf_json", BROKEN, {"repair": True}, {}),
    ("sentence_piece", ["A dog!", "a dog"], {}, {"lowercase": False}),
    ("sentence_piece", ["A dog!", "a dog"], {}, {"canonicalize": False}),
    ("sentence_piece", SAME, {"repair": True}, {}),  # "_" is dropped, or a blank
    (
        "sentence_piece",
        BROKEN,
        {"repair": True, "canonicalize": False},
        {"canonicalize": False},
    ),
]


@pytest.mark.parametrize(("name", "texts", "alike", "apart"), CLEANINGS)
def test_cleaning(create, name, texts, alike, apart):
    tokenizer = create(name, **alike)
    one, other = tokenizer(texts)[0]
    np.testing.assert_array_equal(one, other)
    for again in (
        pickle.loads(pickle.dumps(tokenizer)),
        create_again(name, tokenizer, alike),
    ):
        np.testing.assert_array_equal(again(texts)[0], [one, other])
    if apart is not None:
        one, other = create(name, **apart)(texts)[0]
        assert (one != other).any()


def create_again(name, tokenizer, options):
    """As a run that goes on makes it: from its state and its config."""
    section = config.base(None, tokenizer=name).data.tokenizer
    section.update(OPTIONS.get(name, {}) | {"path": "gone"} if name in OPTIONS else {})
    section.update(options)
    return config.create("tokenizer", section, None, tokenizer.state())
