"""What tokenizers lose of texts is counted, and said before anything is compiled."""

import itertools
import re
import types
from typing import Any

import numpy as np
import pytest
import tokenizer_tools
from evals_tools import Data, table_encoder

import run_tools
from clipjax import registry
from clipjax.data.text import lost_texts
from clipjax.engine import describe, lost_text_report
from clipjax.engine.run import prepare
from clipjax.evals.common.inputs import Inputs
from clipjax.types import BadExample, Example, UserError

KNOWN = ["a dog runs", "a cat sits", "two dogs run"]
OTHER_SCRIPT = ["собака бежит", "кошка сидит", "две собаки", "дом у реки"]


def tokenizer(name, captions=KNOWN, **options):
    return registry.load("tokenizer", name)(lambda: iter(captions), None, **options)


def counted(texts, made):
    return lost_texts.count([(one,) for one in texts], len(texts), made)


class Captions(Data):
    """Captions alone, each in an example of its own; None is a broken one."""

    def __init__(self, captions):
        super().__init__([Example(b"", (str(one),)) for one in captions])
        self.captions = captions
        self.read = []

    def captions_of(self, index):
        self.read.append(index)
        if self.captions[index] is None:
            raise BadExample("torn")
        return (self.captions[index],)


def test_unseen_words_are_counted_and_shown():
    made = tokenizer("words")
    lost = counted(["a dog", "a zebra", "a giraffe", "two cats", "A ZEBRA!"], made)
    assert (lost.counted, lost.unknown, lost.different) == (5, 4, 4)
    # "a zebra" and "a giraffe"; "A ZEBRA!" is not another text than the first.
    assert (lost.alike, lost.rows) == (2, 3)
    lines = lost.lines("texts", "words", made.context_length)
    assert lines[0] == (
        "texts: 4 of 5 have text that tokenizer=words does not know, such as 'zebra' "
        "in 'a zebra'"
    )
    assert "2 of 4 different ones" in lines[1]
    assert lines[1].startswith("WARNING: ")
    assert "'a zebra' and 'a giraffe', which leaves 3 rows of ids" in lines[1]


@pytest.mark.parametrize(
    ("texts", "unknown", "alike"),
    [
        (["2 dogs", "3 dogs", "dogs"], 2, 2),  # no digits among its characters
        (["a dog 🐶", "a dog 🐱", "a cat 🐱"], 3, 2),
        (OTHER_SCRIPT, 4, 3),  # blanks are left: of two words three, of three one
        (["a dog", "A dog", "a  dog", "a-dog"], 0, 0),
    ],
)
def test_characters(texts, unknown, alike):
    lost = counted(texts, tokenizer("char"))
    assert (lost.unknown, lost.alike) == (unknown, alike)


@pytest.mark.parametrize(
    ("name", "file"),
    [("wordpiece", "bert_vocab"), ("hf_json", "unigram_json")],
)
def test_released_tokenizers(name, file, tmp_path):
    pytest.importorskip("tokenizers")
    path = tmp_path / "file"
    if file == "bert_vocab":
        tokenizer_tools.bert_vocab(path)
    else:
        path.write_text(tokenizer_tools.unigram_json(), encoding="utf-8")
    options = {"pad_token": "<pad>"} if name == "hf_json" else {}
    made = tokenizer(name, path=str(path), **options)
    one, other = "a \u16a0\u16a1", "a \u16b3\u16b4"  # runes, which neither has
    assert [made.unknown("a dog"), bool(made.unknown(one))] == [[], True]
    assert set("".join(made.unknown(one))) <= set(one)
    lost = counted([one, other, "a dog"], made)
    assert (lost.unknown, lost.alike) == (2, 2)


def test_sentence_piece(tmp_path):
    pytest.importorskip("sentencepiece")
    tokenizer_tools.sentence_piece_model(tmp_path / "m", byte_fallback=False)
    made = tokenizer("sentence_piece", path=str(tmp_path / "m"))
    lost = counted(["a \u16a0", "a \u16b3", "a dog"], made)
    assert (lost.unknown, lost.alike) == (2, 2)
    assert "\u16a0" in lost.unknown_example[0]


@pytest.mark.parametrize("name", ["bpe", "clip_bpe"])
def test_tokenizers_of_bytes_lose_nothing(name):
    texts = [*OTHER_SCRIPT, "a zebra", "a giraffe", "🐶", "🐱"]
    made = tokenizer(name)
    lost = counted(texts, made)
    assert (lost.different, lost.rows) == (8, 8)
    assert lost.lines("texts", name, 9) == []


@pytest.mark.parametrize("name", ["words", "char", "bpe", "clip_bpe"])
def test_what_is_cut_is_counted(name):
    captions = ["abcd " * n + "abcd" for n in range(40)]
    made = tokenizer(name, captions, context_length=20)
    longer = tokenizer(name, captions, context_length=2000)
    lengths = longer(captions)[1].sum(axis=1)
    lost = counted(captions, made)
    assert lost.cut == (lengths > 20).sum() > 0
    assert lost.cut_example == captions[int((lengths > 20).argmax())]
    assert "context_length=20 and are truncated" in lost.lines("x", name, 20)[0]
    assert lost.alike == lost.cut + (lengths == 20).sum() or name != "words"


def test_a_row_that_is_just_full_is_not_cut():
    made = tokenizer("words", context_length=5)
    assert counted(["a dog runs", "a cat sits here"], made).cut == 1
    assert counted(["a dog runs"], made).cut == 0


def test_a_class_is_known_by_all_its_prompts():
    """Of two names one is unknown: prompts of the two share no row by chance."""
    made = tokenizer("words", ["a photo of a dog", "cat"])
    items = [(f"a photo of a {name}", name) for name in ("dog", "cat", "yak", "gnu")]
    lost = lost_texts.count(items, 4, made)
    assert (lost.counted, lost.unknown, lost.alike, lost.rows) == (4, 2, 2, 3)


def test_a_sample_is_said_and_spread(monkeypatch):
    monkeypatch.setattr(lost_texts, "LIMIT", 1000)
    source: Any = Captions([f"a zebra {i}" if i % 7 else None for i in range(20_000)])
    made = tokenizer("words", KNOWN)
    lost = lost_texts.count(lost_texts.captions(source), 20_000, made)
    assert 1000 <= lost.counted < 1300
    places = np.unique(np.array(source.read) // 4000)
    assert len(source.read) < 2000 and len(places) >= 4
    lines = lost.lines("texts", "words", 32)
    assert f"of a sample of {lost.counted:,} of all 20,000" in lines[0]
    # Whole, each once.
    assert sorted(lost_texts._spread(1234)) == list(range(1234))
    assert list(lost_texts._spread(0)) == []


def test_slow_sources_are_not_waited_for(monkeypatch):
    clock = itertools.count()
    ticking = types.SimpleNamespace(monotonic=lambda: next(clock))
    monkeypatch.setattr(lost_texts, "time", ticking)
    lost = lost_texts.count(
        (("a dog",) for _ in itertools.count()), 10**9, tokenizer("words")
    )
    assert 0 < lost.counted < 10 * lost_texts.AT_ONCE


def test_evaluators_tell_their_texts():
    names = ("dog", "zebra", "giraffe")
    examples = [
        Example(np.zeros((4, 4, 3), np.uint8), (f"a {name}",), {"class": i})
        for i, name in enumerate(names)
    ]
    source = Data(examples, {"class": names}, {"class": ("a {}", "one {}")})
    encoder = table_encoder([])
    zeroshot = registry.load("evals", "zeroshot")(Inputs(encoder, source))
    retrieval = registry.load("evals", "retrieval")(Inputs(encoder, source))
    items, total = zeroshot.texts()["classes of class"]
    assert [tuple(item) for item in items] == [(f"a {n}", f"one {n}") for n in names]
    assert total == 3
    said = []
    config = run_tools.tiny()
    evaluators = {"z": zeroshot, "r": retrieval}
    lost_text_report.tell_evaluators(
        evaluators, tokenizer("words"), config, said.append
    )
    assert len([line for line in said if "evals.z, classes of class: " in line]) == 2
    assert "evals.r, captions: 2 of 3 have text that tokenizer=words" in "".join(said)
    assert any("WARNING: " in line and "'a zebra' and" in line for line in said)
    lost_text_report.tell_evaluators(evaluators, None, config, said.append)


def test_captions_of_several_evaluators_are_counted_and_told_once(monkeypatch):
    examples = [
        Example(np.zeros((4, 4, 3), np.uint8), (f"a {name}",), {}, key=name)
        for name in ("dog", "zebra", "giraffe", "okapi")
    ]
    source = Data(examples)
    inputs = Inputs(table_encoder([]), source)
    made = {
        "r": registry.load("evals", "retrieval")(inputs),
        "g": registry.load("evals", "geometry")(inputs),
        "few": registry.load("evals", "retrieval")(inputs, max_samples=2),
    }
    counted, count = [], lost_texts.count
    monkeypatch.setattr(
        lost_texts, "count", lambda *args: counted.append(args) or count(*args)
    )
    said = []
    lost_text_report.tell_evaluators(
        made, tokenizer("words"), run_tools.tiny(), said.append
    )
    assert len(counted) == 2  # of all images, and of two
    told = [line for line in said if "does not know" in line]
    assert len(told) == 2
    assert told[0].startswith("evals.r, g, captions: 3 of 4 have text")
    assert told[1].startswith("evals.few, captions: 1 of 2 have text")


def config(**changes):
    made = run_tools.tiny("tokenizer=char", evals=True)
    made.data.tokenizer.update(changes)
    return made


def test_a_run_says_what_it_loses(tmp_path):
    said = []
    lost_text_report.tell(
        prepare(config(context_length=40), tmp_path, True), said.append
    )
    found = "\n".join(said)
    pattern = (
        r"training captions: \d+ of 480 are longer than .*length=40 and are truncated"
    )
    assert re.search(pattern, found)
    assert re.search(r"evals.retrieval, captions: \d+ of \d+ are longer", found)
    assert "validation captions" not in found  # they are the evaluator's
    said.clear()
    made = config(context_length=40)
    with made.unlocked():
        del made.evals.retrieval
    lost_text_report.tell(prepare(made, tmp_path, True), said.append)
    assert "validation captions: " in "\n".join(said)


@pytest.mark.parametrize("special", [True, False])
def test_captions_that_are_all_one_row_are_refused(special, tmp_path):
    made = config(characters="~", special=special)
    words = r"all \d+ different .*same ids.*, such as tokenizer=bpe"
    with run_tools.one_device():
        with pytest.raises(UserError, match=words):
            run_tools.train(made, tmp_path / "run")
        with pytest.raises(UserError, match=words):
            describe.describe(made, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_context_too_short_for_what_differs():
    made = tokenizer("bpe", ["a"], context_length=5)
    lost = counted(["a photo of a dog", "a photo of a cat"], made)
    assert lost.all_alike
    assert lost.remedy("bpe") == "raise data.tokenizer.context_length"
