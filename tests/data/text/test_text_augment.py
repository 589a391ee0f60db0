"""Captions varied: each rule by hand, meaning kept, draws apart from all others."""

import collections
import json
import pickle
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pipeline_tools import Tiny, all_batches, assert_same
from source_tools import jpeg

import run_tools
from clipjax import config, config_check, registry
from clipjax.data.batching import order, pipeline
from clipjax.data.text import text_augment
from clipjax.engine import assemble, run
from clipjax.types import BadExample, Example, UserError

IMAGE = np.zeros((2, 2, 3), np.uint8)
DOG = Example(IMAGE, ("A dog.",), {"class": 1}, "dog.jpg")


def make_rng(seed=0):
    return np.random.default_rng(seed)


def said(made, caption, example=DOG, count=60):
    """What becomes of a caption under many draws, with how often."""
    chain = text_augment.Chain((made,))
    return collections.Counter(
        chain(caption, example, make_rng(seed)) for seed in range(count)
    )


class Labelled(Tiny):
    templates = {"class": ("a photo of {}.", "{}, drawn", "one {}")}

    def key_of(self, index):
        return f"tiny/{index}"


# Rules of paraphrase

LEAD, ADD, THE, NUMBER, SAME, STOP = range(6)


@pytest.mark.parametrize(
    ("rule", "caption", "expected"),
    [
        (LEAD, "A photo of a dog", {"A dog"}),
        (LEAD, "a picture of two dogs.", {"two dogs."}),
        (LEAD, "the image of the dog", {"the dog"}),
        (LEAD, "A dog in a picture of a cat", {"A dog in a picture of a cat"}),
        (ADD, "A dog", {"A picture of a dog", "A photo of a dog", "An image of a dog"}),
        (
            ADD,
            "2 dogs",
            {"a picture of 2 dogs", "a photo of 2 dogs", "an image of 2 dogs"},
        ),
        (ADD, "dogs run", {"dogs run"}),
        (ADD, "Two dogs are here", {"Two dogs are here"}),
        (ADD, "A photo of a dog", {"A photo of a dog"}),
        (ADD, "Theo runs", {"Theo runs"}),
        (THE, "A dog on a hill", {"The dog on a hill", "A dog on the hill"}),
        (THE, "An apple", {"The apple"}),
        (THE, "the dogs", {"the dogs"}),
        (THE, "dogs on such a hill", {"dogs on such a hill"}),
        (THE, "dogs and a few cats", {"dogs and a few cats"}),
        (THE, "platform A is empty", {"platform A is empty"}),
        (THE, "an a-frame", {"the a-frame"}),
        (NUMBER, "Two dogs", {"2 dogs"}),
        (NUMBER, "two dogs, 3 cats", {"2 dogs, 3 cats", "two dogs, three cats"}),
        (NUMBER, "a two-storey house", {"a two-storey house"}),
        (NUMBER, "twenty-two dogs", {"twenty-two dogs"}),
        (NUMBER, "2.5 dogs at 2:30, $3", {"2.5 dogs at 2:30, $3"}),
        (NUMBER, "two hundred dogs", {"two hundred dogs"}),
        (NUMBER, "dogs 12.", {"dogs twelve."}),
        (NUMBER, "13 dogs, one cat", {"13 dogs, one cat"}),
        (
            SAME,
            "a kid next to a bike",
            {"a child next to a bike"}
            | {"a kid beside a bike", "a kid next to a bicycle"},
        ),
        (SAME, "Bicycles", {"Bikes"}),
        (SAME, "a photograph", {"a photograph"}),
        (STOP, "A dog.", {"A dog"}),
        (STOP, "A dog", {"A dog."}),
        (STOP, "A dog .", {"A dog"}),
        (STOP, "A dog!", {"A dog!"}),
        (STOP, "A dog...", {"A dog..."}),
    ],
)
def test_each_rule_by_hand(rule, caption, expected):
    one = text_augment.RULES[rule]
    draws = np.linspace(0, 0.99, 12)
    assert {one(caption, a, b) for a in draws for b in draws} == expected


WORDS = [
    *("A", "a", "an", "The", "the", "Two", "two", "2", "12", "twelve", "picture"),
    *("photo", "photo of", "dog", "kid", "next to", "beside", "bike", "of", "dogs."),
    *("hundred", "few", "such", "runs", "TV", "one", "-", "é", "."),
]


def meaning(caption):
    """A caption without what the rules may change."""
    plain = caption.lower()
    lead = r"((an?|the) )?(picture|photo|photograph|image) of (?=\w)"
    plain = re.sub(rf"^({lead})+", "", plain)
    for first, second in text_augment.SAME:
        plain = re.sub(rf"\b{second}\b", first, plain)
    for word, digit in text_augment.NUMBERS.items():
        plain = re.sub(rf"\b{word}\b", digit, plain)
    return re.sub(r"\b(an?|the)\b", "the", re.sub(r" ?\.$", "", plain))


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(WORDS), min_size=1, max_size=7), st.integers(0, 999))
def test_paraphrases_keep_their_meaning(words, seed):
    caption = " ".join(words)
    made = text_augment.paraphrase(Tiny(), p=0.7)
    changed = made(caption, DOG, make_rng(seed))
    assert changed.strip()
    assert meaning(changed) == meaning(caption)


def test_paraphrase_golden_and_share():
    caption = "Two kids next to a dog."
    made = text_augment.paraphrase(Tiny(), p=0.3)
    assert made(caption, DOG, make_rng(3)) == made(caption, DOG, make_rng(3))
    counts = said(made, caption, count=400)
    # Five rules fit it: 0.7^5 = 0.17 of the draws leave it alone.
    assert 40 < counts[caption] < 100 and len(counts) > 20
    assert said(text_augment.paraphrase(Tiny(), p=0.0), caption) == {caption: 60}


# Word dropout, templates


def test_word_dropout_by_hand():
    made = text_augment.word_dropout(Tiny(), p=0.5)
    kept = make_rng(1).random(4) >= 0.5
    words = np.array("a dog runs fast".split())
    assert made("a dog  runs fast", DOG, make_rng(1)) == " ".join(words[kept])
    untouched = text_augment.word_dropout(Tiny(), p=0.0)
    assert said(untouched, " a  dog ") == {" a  dog ": 60}
    # Nothing would be left: the original stays.
    assert said(text_augment.word_dropout(Tiny(), p=1.0), "a dog") == {"a dog": 60}


def test_word_dropout_keeps_its_share_and_the_order():
    made, caption = text_augment.word_dropout(Tiny(), p=0.1), " ".join("abcdefghij")
    counts = said(made, caption, count=400)
    left = sum(len(text.split()) * n for text, n in counts.items())
    assert 0.88 < left / 4000 < 0.92
    assert all(text == " ".join(sorted(text.split())) for text in counts)


def test_templates_are_drawn_evenly():
    made = text_augment.templates(Labelled())
    counts = said(made, "x", count=300)
    assert set(counts) == {"a photo of odd.", "odd, drawn", "one odd"}
    assert all(abs(n - 100) < 45 for n in counts.values())
    own = text_augment.templates(Labelled(), templates=("a {}!",), p=0.5)
    counts = said(own, "x", count=300)
    assert set(counts) == {"x", "a odd!"} and abs(counts["x"] - 150) < 45
    assert said(own, "x", Example(IMAGE)) == {"x": 60}
    assert set(made.texts()) >= {"a photo of even.", "one odd"}


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        (Labelled(labels=()), {}, "needs one set of labels, the data have none"),
        (Labelled(labels=("a", "b")), {}, "the data have a, b: choose it by label_set"),
        (Labelled(labels=("a", "b")), {"label_set": "c"}, "label_set='c'"),
        (Tiny(), {}, "the data have none for class"),
        (Labelled(), {"templates": ("a photo",)}, "'a photo' needs one {}"),
        (Labelled(), {"p": 2.0}, "data.text_augment.p=2.0: use a value from 0 to 1"),
    ],
)
def test_templates_that_cannot_be(source, options, message):
    with pytest.raises(UserError, match=message):
        text_augment.templates(source, **options)


# Tables

LINES = [
    {"key": "tiny/1", "captions": ["one", "eins"]},
    {"key": "tiny/2", "captions": ["two"]},
    {"key": "tiny/1", "captions": ["un"]},
]


def written(folder, lines, name="more.jsonl"):
    path = folder / name
    texts = (x if isinstance(x, str) else json.dumps(x) for x in lines)
    path.write_text("\n".join(texts) + "\n", encoding="utf-8")
    return str(path)


def test_a_table_of_captions(tmp_path):
    made = text_augment.table(Labelled(), path=written(tmp_path, LINES))
    counts = said(made, "x", Example(IMAGE, key="tiny/1"), count=300)
    assert set(counts) == {"x", "one", "eins", "un"}
    assert abs(counts["x"] - 150) < 45 and abs(counts["eins"] - 50) < 30
    assert said(made, "x", Example(IMAGE, key="tiny/3")) == {"x": 60}
    assert sorted(made.texts()) == ["eins", "one", "two", "un"]
    rows = ["key,caption", "tiny/1,one", 'tiny/1,"eins, zwei"', "tiny/2,two"]
    of_csv = text_augment.table(Labelled(), path=written(tmp_path, rows, "more.csv"))
    assert of_csv.captions == {"tiny/1": ("one", "eins, zwei"), "tiny/2": ("two",)}
    rows = ["key\tcaption", "tiny/1\tone, two"]
    of_tsv = text_augment.table(Labelled(), path=written(tmp_path, rows, "more.tsv"))
    assert of_tsv.captions == {"tiny/1": ("one, two",)}


def test_keys_of_no_example_are_counted(tmp_path, caplog):
    lines = [*LINES, {"key": "tiny/99", "captions": ["?"]}]
    made = text_augment.table(Labelled(), path=written(tmp_path, lines))
    assert "1 of 3 keys are no example's, such as 'tiny/99': left out" in caplog.text
    assert "?" not in set(made.texts())
    with pytest.raises(UserError, match="none of its 1 keys .'x', .* like 'tiny/0'"):
        text_augment.table(
            Labelled(), path=written(tmp_path, [{"key": "x", "captions": ["?"]}])
        )


@pytest.mark.parametrize(
    "line",
    [
        "not json",
        "[]",
        "3",
        '{"key": "tiny/1"}',
        '{"key": 1, "captions": ["x"]}',
        '{"key": "tiny/1", "captions": "x"}',
        '{"key": "tiny/1", "captions": []}',
        '{"key": "tiny/1", "captions": [" "]}',
        '{"key": "tiny/1", "captions": [3]}',
        pytest.param("[" * 200_000, id="deep"),
    ],
)
def test_a_broken_line_is_named(tmp_path, line):
    with pytest.raises(UserError, match=r"more.jsonl, line 3: write \{"):
        text_augment.table(
            Labelled(), path=written(tmp_path, [LINES[0], "", line, LINES[1]])
        )


def test_tables_that_cannot_be(tmp_path):
    with pytest.raises(UserError, match="set its file by"):
        text_augment.table(Labelled())
    with pytest.raises(UserError, match="no.csv does not exist"):
        text_augment.table(Labelled(), path=str(tmp_path / "no.csv"))
    with pytest.raises(UserError, match="has no captions"):
        text_augment.table(Labelled(), path=written(tmp_path, [""]))
    with pytest.raises(UserError, match="give their source a method key_of"):
        text_augment.table(Tiny(), path=written(tmp_path, LINES))


def test_the_key_of_an_image_folder_fits(tmp_path):
    (tmp_path / "train" / "cat").mkdir(parents=True)
    (tmp_path / "train" / "cat" / "1.jpg").write_bytes(jpeg())
    source = registry.load("data", "imagefolder")(
        "train", path=str(tmp_path), caption_templates=("a {}",)
    )
    lines = [{"key": "train/cat/1.jpg", "captions": ["a tabby"]}]
    made = text_augment.table(source, path=written(tmp_path, lines), p=1.0)
    assert said(made, "a cat", source[0]) == {"a tabby": 60}


# Several, and any text

NAMES = ("word_dropout", "paraphrase", "templates", "table")


@pytest.fixture(scope="module")
def every(tmp_path_factory):
    path = written(tmp_path_factory.mktemp("table"), LINES)
    options = {"table": {"path": path}, "templates": {"p": 0.3}}
    parts = (
        getattr(text_augment, name)(Labelled(), **options.get(name, {}))
        for name in NAMES
    )
    return pickle.loads(pickle.dumps(text_augment.Chain(tuple(parts))))


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=30), st.integers(0, 99), st.integers(0, 3))
def test_any_text_stays_a_text_and_follows_the_draws(every, caption, seed, index):
    example = Labelled()[index]
    one, same = (every(caption, example, make_rng(seed)) for _ in range(2))
    assert one == same and bool(one.strip()) >= bool(caption.strip())


def test_what_is_no_text_is_a_bad_example(every):
    with pytest.raises(BadExample, match="not text but NoneType"):
        every(None, DOG, make_rng())


# In the pipeline


class Hidden(Tiny):
    """Captions are numbers; a variation exchanges the second for 9 or more."""

    def key_of(self, index):
        return f"tiny/{index}"


class Renumber:
    def __call__(self, caption, example, rng):
        assert example.key == f"tiny/{caption.split()[0]}"
        return f"{caption.split()[0]} {9 + rng.integers(200)}"

    def texts(self):
        yield from ()


def taken(count=6, source=None, **options):
    made = all_batches(source or Hidden(), **{"start_step": 0} | options)
    try:
        return [next(made) for _ in range(count)]
    finally:
        made.close()


def test_only_the_text_changes_and_with_draws_of_its_own():
    plain, varied = taken(), taken(text_augment=Renumber())
    for one, other in zip(plain, varied, strict=True):
        for name in one:
            same = (one[name] == other[name]).all()
            assert same == (name != "text"), name
        assert (one["text"][:, 0] == other["text"][:, 0]).all()
    drawn = np.concatenate([batch["text"][:, 1] for batch in varied])
    assert len(set(drawn.tolist())) > len(drawn) // 2


@pytest.mark.thorough
@pytest.mark.parametrize("options", [{"threads": 2}, {"workers": 1}])
def test_workers_threads_and_resumption_change_nothing(options):
    whole = taken(4, text_augment=Renumber(), threads=0)
    assert_same(taken(2, text_augment=Renumber(), start_step=2, **options), whole[2:])


def test_replacements_have_their_own_variation():
    hurt = Hidden(broken=[4, 9])
    whole, found = (
        taken(12, text_augment=Renumber()),
        taken(12, hurt, text_augment=Renumber()),
    )
    for good, other in zip(whole, found, strict=True):
        lost = np.isin(good["image_id"], [4, 9])
        np.testing.assert_array_equal(good["text"][~lost], other["text"][~lost])
        np.testing.assert_array_equal(other["text"][:, 0], other["image_id"] + 1)


# In a config


def test_off_by_default_and_absent():
    made = run_tools.tiny()
    assert "text_augment" not in made.data
    assert assemble.text_augment(made, Tiny()) is None
    assert run_tools.tiny("text_augment=none") == made
    with pytest.raises(UserError, match="model=classifier has no text tower"):
        config.base("model=classifier,text_augment=paraphrase")
    other = config.base("model=classifier", text_augment="paraphrase")
    assert "text_augment" not in other.data


def test_a_config_chooses_several_in_order(tmp_path):
    lines = [{"key": "scenes/train/3", "captions": ["eine Katze"]}]
    path = written(tmp_path, lines)
    made = run_tools.tiny("text_augment=table+paraphrase+word_dropout")
    made.data.text_augment.table.path = path
    made.data.text_augment.word_dropout.p = 0.25
    again = config_check.from_dict(config_check.to_dict(made))
    config_check.validate(again)
    with run_tools.one_device():
        prepared = run.prepare(again, tmp_path, True)
    kinds = [type(part).__name__ for part in prepared.text_augment.parts]
    assert kinds == ["Table", "Paraphrase", "WordDropout"]
    assert prepared.text_augment.parts[2].p == 0.25
    # A tokenizer that is trained knows the new words.
    ids, _ = prepared.tokenizer(["eine Katze picture 2 seven"])
    assert 3 not in ids
    made.data.text_augment.paraphrase.p = 7.0
    with pytest.raises(UserError, match=r"paraphrase\.p=7.0"):
        run.prepare(made, tmp_path, True)
    with pytest.raises(UserError, match="unknown text_augment 'paraphase'.*Did you"):
        config.base("text_augment=paraphase")


def test_golden_draws():
    """Changes only with numpy's generators or our rules: then runs no longer resume."""
    plan = pipeline.plan(Tiny(), seed=3, global_batch=3, step=0)
    rng = order.generator(plan[0].draw, pipeline.TEXT_DRAWS)
    made = text_augment.paraphrase(Tiny(), p=0.5)
    assert made("Two kids next to a dog.", DOG, rng) == "2 children next to a dog"
    # Not the draws of its image, which the same seed would give.
    apart = order.generator(plan[0].draw, pipeline.TEXT_DRAWS).random()
    assert apart != order.generator(plan[0].draw).random()
