"""Choices between captions: numbers by hand and by brute force, and what is refused."""

import json

import numpy as np
import pytest
from evals_tools import BROKEN, Data, Table, crop, pixels

from clipjax import testing
from clipjax.comparison.shared_rows import SharedRows
from clipjax.encoder import Encoder
from clipjax.evals import caption_choice, retrieval
from clipjax.evals.common import intervals
from clipjax.evals.common.inputs import Inputs
from clipjax.evals.common.stored_rows import Examples
from clipjax.types import Example, UserError

CAPTIONS = [
    ["A dog chases a man.", "The red car is in front of a blue house."],
    ["a dog chases a man", "Two girls feed three birds"],
    ["snow", "A cat on a boat watches a bird"],
    ["a man jumps over a black dog", "a man jumps over a black dog", "!!!"],
]


class Numbers:
    """A tokenizer that numbers texts as they come; 0 is the empty one."""

    def __init__(self):
        self.of = {"": 0}
        self.seen = []

    def __call__(self, texts):
        self.seen += texts
        ids = np.array([[self.of.setdefault(x, len(self.of))] for x in texts], np.int32)
        return ids, np.ones_like(ids, bool)


class Keyed(Data):
    def key_of(self, index):
        return self.examples[index].key


def inputs_of(captions, broken=()):
    """Inputs of images with these captions, and their tokenizer."""
    examples = [
        Example(BROKEN if i in broken else pixels(i), own, key=f"val/{i}.png")
        for i, own in enumerate(captions)
    ]
    numbers = Numbers()
    encoder = Encoder(Table(), numbers, crop, batch_size=4)
    return Inputs(encoder, Keyed(examples)), numbers


def variables(seed=0, count=200):
    """Embeddings of small integers: exact products, and so exact ties."""
    draw = np.random.default_rng(seed)
    image, text = (
        draw.integers(-1, 2, (size, 3)).astype(np.float32) for size in (8, count)
    )
    return {"params": {"image": image, "text": text}}


def expected(scores):
    """The expected hit of the first of some scores, by trying every order of a tie."""
    scores = [-np.inf if not np.isfinite(score) else score for score in scores]
    best = max(scores)
    if scores[0] < best or scores[0] == -np.inf:
        return 0.0
    return sum(place == 0 for place in range(len(scores)) if scores[place] == best) / (
        scores.count(best)
    )


def check_rows(result, numbers, table):
    """Every row's scores and hit, from the embeddings."""
    params = table["params"]
    rows = result.rows
    for at, key in enumerate(rows["key"]):
        image = params["image"][int(key[len("val/") : -len(".png")])]
        texts = [params["text"][numbers.of[text]] for text in rows["captions"][at]]
        scores = [float(image @ text) for text in texts]
        np.testing.assert_array_equal(rows["scores"][at], scores)
        assert rows["hit"][at] == expected(scores)


@pytest.mark.parametrize("seed", range(4))
def test_by_rule_equals_brute_force(seed):
    inputs, numbers = inputs_of(CAPTIONS)
    evaluator = caption_choice.make(inputs)
    table = variables(seed)
    result = evaluator.run(table)
    check_rows(result, numbers, table)
    kinds = np.array(result.rows["protocol"])
    for kind in caption_choice.USUAL:
        hits = result.rows["hit"][kinds == kind]
        metric = result.metrics[f"{kind}/accuracy"]
        assert metric.value == pytest.approx(hits.mean())
        assert (metric.n, metric.chance) == (len(hits), 0.5)
        assert metric.low <= metric.value <= metric.high
        # No rule changes the words themselves.
        ceiling = result.metrics[f"{kind}/order_blind_ceiling"]
        assert (ceiling.value, ceiling.n, ceiling.low) == (0.5, len(hits), None)
    means = [result.metrics[f"{kind}/accuracy"].value for kind in caption_choice.USUAL]
    assert result.metrics["mean_accuracy"].value == pytest.approx(np.mean(means))
    assert result.primary == "mean_accuracy"
    units = {name: metric.unit for name, metric in result.metrics.items()}
    assert units == evaluator.metric_units()


def test_what_rules_leave_out_and_the_ids_of_captions():
    inputs, _ = inputs_of(CAPTIONS, broken=(1,))
    result = caption_choice.make(inputs, negatives=("swap_nouns", "shuffle")).run(
        variables()
    )
    # "snow" and "!!!" have no other order.
    assert result.size == (
        "swap_nouns: 5 choices of 3 images, 2 captions without a wrong one left out; "
        "shuffle: 5 choices of 3 images, 2 captions without a wrong one left out"
    )
    assert result.broken == 1
    swapped = [at for at, x in enumerate(result.rows["protocol"]) if x == "swap_nouns"]
    assert [result.rows["query"][at] for at in swapped] == [0, 1, 7, 9, 10]
    first = result.rows["captions"][swapped[0]]
    assert first == ["A dog chases a man.", "A man chases a dog."]
    # Equal captions have equal wrong ones.
    assert result.rows["captions"][swapped[3]] == result.rows["captions"][swapped[4]]


def test_embeddings_that_are_not_finite():
    inputs, numbers = inputs_of([["a b"], ["c d"], ["e f"]])
    evaluator = caption_choice.make(inputs, negatives=("shuffle",))
    evaluator.run(variables())  # numbers the texts
    table = variables()
    params = table["params"]
    params["image"][:] = [1, 0, 0]
    params["text"][:] = [1, 0, 0]
    params["image"][0] = np.nan
    params["text"][numbers.of["c d"]] = np.nan
    params["text"][numbers.of["f e"]] = np.inf
    inputs.forget()
    result = evaluator.run(table)
    assert result.rows["hit"].tolist() == [0, 0, 1]
    assert "3 embeddings not finite and never chosen" in result.size


def test_a_kind_without_choices():
    inputs, _ = inputs_of([["a b c"], ["d e"]])
    evaluator = caption_choice.make(inputs, negatives=("swap_nouns", "swap_words"))
    result = evaluator.run(variables())
    nothing = result.metrics["swap_nouns/accuracy"]
    assert np.isnan(nothing.value) and nothing.n == 0 and nothing.low is None
    one, mean = (result.metrics[f"{x}accuracy"] for x in ("swap_words/", "mean_"))
    assert mean == one
    assert result.metrics.keys() == evaluator.metric_units().keys()
    with pytest.raises(
        UserError, match="nothing to choose by swap_nouns: choose other"
    ):
        caption_choice.make(inputs, negatives=("swap_nouns",)).run(variables())


def test_captions_of_an_image_are_one_unit():
    """Four images of three captions each that hit or miss together: as four draws."""
    inputs, numbers = inputs_of(
        [[f"x{i} y{i} z{j}" for j in range(3)] for i in range(4)]
    )
    evaluator = caption_choice.make(inputs, negatives=("swap_words",))
    table = variables()
    rows = evaluator.run(table).rows
    table["params"]["image"][:] = [1, 0, 0]
    table["params"]["text"][:] = 0
    for key, (right, wrong) in zip(rows["key"], rows["captions"], strict=True):
        better = right if key in ("val/0.png", "val/1.png") else wrong
        table["params"]["text"][numbers.of[better]] = [1, 0, 0]
    inputs.forget()
    metric = evaluator.run(table).metrics["swap_words/accuracy"]
    low, high = intervals.wilson(0.5, 4)
    assert (metric.value, metric.n) == (0.5, 12)
    assert metric.low == pytest.approx(low, abs=0.03)
    assert metric.high == pytest.approx(high, abs=0.03)


def choices_file(folder, **kinds):
    folder.mkdir(exist_ok=True)
    for kind, entries in kinds.items():
        content = {
            str(i): {"filename": image, "caption": right, "negative_caption": wrong}
            for i, (image, right, wrong) in enumerate(entries)
        }
        (folder / f"{kind}.json").write_text(json.dumps(content))
    return str(folder)


def test_listed_choices_by_hand(tmp_path):
    place = choices_file(
        tmp_path / "choices",
        swap_obj=[("0.png", "x y", "y x"), ("val/1.png", "p q", "q r")],
        add_obj=[("1.png", "p q", ["q p", "p p", "p q s"])],
    )
    inputs, numbers = inputs_of([["unused"], [], []])
    evaluator = caption_choice.make(inputs, choices_file=place)
    evaluator.run(variables())
    table = variables()
    params = table["params"]
    params["image"][:2] = [[1, 0, 0], [0, 1, 0]]
    params["text"][:] = 0
    params["text"][numbers.of["x y"]] = [1, 0, 0]  # its wrong one: 0
    params["text"][numbers.of["q r"]] = [0, 1, 0]  # its right one, "p q": 0
    params["text"][numbers.of["p p"]] = [0, -1, 0]
    inputs.forget()
    result = evaluator.run(table)
    values = {name: metric.value for name, metric in result.metrics.items()}
    assert values["swap_obj/accuracy"] == 0.5  # 1 and 0
    assert values["add_obj/accuracy"] == pytest.approx(1 / 3)  # of three that tie
    assert values["mean_accuracy"] == pytest.approx((1 / 2 + 1 / 3) / 2)
    assert values["swap_obj/order_blind_ceiling"] == 0.75  # a half, and 1
    assert values["add_obj/order_blind_ceiling"] == 0.5
    assert result.metrics["add_obj/accuracy"].chance == 0.25
    assert result.metrics["swap_obj/accuracy"].low == intervals.wilson(0.5, 2)[0]
    assert result.rows["key"] == ["val/1.png", "val/0.png", "val/1.png"]
    assert result.size == (
        "add_obj: 1 choices of 1 images; swap_obj: 2 choices of 2 images"
    )
    assert result.protocol.startswith("listed add_obj, swap_obj; 3 choices ")
    assert inputs.source.reads.count(2) == 0
    few = caption_choice.make(inputs, choices_file=place, max_samples=1).run(table)
    assert few.rows["key"] == ["val/0.png"]
    assert np.isnan(few.metrics["add_obj/accuracy"].value)


def test_text_only_baseline_knows_usual_captions():
    """Captions of one pattern: their usual order is known without a model."""
    names = "cat dog horse pig cow bird".split()
    captions = [[f"there is the {name} on the small field"] for name in names]
    inputs, _ = inputs_of(captions)
    result = caption_choice.make(inputs, negatives=("shuffle",)).run(variables())
    assert result.metrics["shuffle/text_only_accuracy"].value == 1
    # The only other image has no word in common, so nothing is usual.
    inputs, _ = inputs_of([["one two"], ["three four"]])
    result = caption_choice.make(inputs, negatives=("shuffle",)).run(variables())
    assert result.metrics["shuffle/text_only_accuracy"].value == 0.5


def test_protocol_and_options():
    def protocol(captions=CAPTIONS, **options):
        inputs, _ = inputs_of(captions)
        return caption_choice.make(inputs, **options).run(variables()).protocol

    first = protocol(seed=3)
    assert first.startswith(
        "shuffle, swap_words, swap_nouns, swap_attributes of all captions, seed 3; "
    )
    assert first == protocol(seed=3)
    other = protocol([*CAPTIONS[:3], ["a man jumps over a white dog"]], seed=3)
    texts = [x.split("; ")[1] for x in (first, other, protocol(seed=4))]
    assert len(set(texts)) == 3  # their digests differ
    inputs, _ = inputs_of(CAPTIONS)
    result = caption_choice.make(
        inputs, negatives=("swap_words",), captions=1, max_samples=2
    ).run(variables())
    assert result.protocol.startswith("swap_words of the first 1 captions, seed 0; 1 ")
    assert result.protocol.endswith("; at most 2 images, evenly spread")
    assert result.rows["key"] == ["val/0.png"]  # "snow" has no other order


def test_two_models_are_paired_by_choice():
    """What clipjax.compare makes of the rows: differences, flips and a report."""
    inputs, _ = inputs_of(CAPTIONS)
    evaluator = caption_choice.make(inputs)
    first, second = (evaluator.run(variables(seed)) for seed in (0, 1))
    shared = SharedRows(first.rows, second.rows)
    for name in ("swap_nouns/accuracy", "mean_accuracy"):
        found = shared.difference("choose", "b", name, first.metrics[name])
        expected = second.metrics[name].value - first.metrics[name].value
        assert found.difference == pytest.approx(expected)
        assert found.images == 4
    report = shared.report("b", ["mean_accuracy"], "mean_accuracy", True)
    assert report["hit"].tolist() == second.rows["hit"].tolist()
    gain = np.sign(second.rows["hit"] - first.rows["hit"])
    assert report["flip"].tolist() == gain.tolist() and set(gain) == {-1, 0, 1}
    mean = shared.difference("choose", "b", "mean_accuracy", first.metrics[name])
    better, _ = shared.flips(mean, 1)
    kinds = tuple(f"{kind} '" for kind in caption_choice.USUAL)
    assert better[0].query.startswith(kinds)


def test_captions_are_encoded_once_for_retrieval_too():
    captions = [[f"red a{i}", f"blue b{i}"] for i in range(4)]
    inputs, numbers = inputs_of(captions)
    table = variables()
    retrieval.make(inputs).run(table)
    caption_choice.make(inputs, negatives=("shuffle",)).run(table)
    right = [text for own in captions for text in own]
    assert [numbers.seen.count(text) for text in right] == [1] * len(right)
    assert max(np.bincount(inputs.source.reads)) == 1


class Blind:
    """A tokenizer that is blind to word order."""

    def __call__(self, texts):
        ids = np.array([[sum(map(ord, text)) % 7] for text in texts], np.int32)
        return ids, np.ones_like(ids, bool)


class Rounded:
    """Stored embeddings of a source, captions with another rounding."""

    def __init__(self, inputs, table):
        self._seen = inputs.images(table, range(len(inputs.source)))
        right = [text for own in self._seen.captions for text in own]
        noise = np.random.default_rng(0).normal(0, 1e-6, (len(right), 3))
        rows = inputs.texts(table, right) + noise.astype(np.float32)
        self._rows = dict(zip(right, rows, strict=True))

    def examples(self, indices, pooled=False):
        seen = self._seen
        facts = [
            {"captions": seen.captions[i], "labels": {}, "key": seen.keys[i]}
            for i in indices
        ]
        return Examples(seen.embed[list(indices)], None, facts, [("", "")] * len(facts))

    def texts(self, texts, pooled=False):
        known = np.array([text in self._rows for text in texts])
        rows = [self._rows[text] for text in texts if text in self._rows]
        return known, np.array(rows, np.float32).reshape(-1, 3), None


def test_ties_with_stored_captions():
    """A model that cannot tell captions apart ties, though half of them are stored."""
    source = inputs_of(CAPTIONS)[0].source
    inputs = Inputs(Encoder(Table(), Blind(), crop, batch_size=4), source)
    table = variables()
    live = caption_choice.make(inputs).run(table)
    assert set(live.rows["hit"]) == {0.5}
    stored = Inputs(inputs.encoder, source, Rounded(inputs, table))
    assert caption_choice.make(stored).run(table).rows["hit"].tolist() == [0.5] * len(
        live.rows["hit"]
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"negatives": ("shufle",)},
            "no rule 'shufle'.*shuffle.*Known: shuffle, swap_",
        ),
        ({"negatives": ("",)}, "no rule ''"),
        ({"captions": -1}, "captions=-1, max_samples=0: use numbers from 0 on"),
        ({"max_samples": -2}, "max_samples=-2: use numbers from 0 on"),
        ({"choices_file": "{}", "seed": 1}, "leave negatives, captions and seed out"),
        (
            {"choices_file": "{}", "negatives": ("shuffle",)},
            "leave negatives, captions",
        ),
        (
            {"choices_file": "{}"},
            "1 of the 2 images of .* such as '9.png'; .*val/0.png",
        ),
        ({"choices_file": "{}/absent.json"}, "absent.json does not exist"),
    ],
)
def test_refused(options, words, tmp_path):
    entries = [("0.png", "a b", "b a"), ("9.png", "a b", "b a")]
    place = choices_file(tmp_path / "choices", swap_obj=entries)
    if "choices_file" in options:
        options = options | {"choices_file": options["choices_file"].format(place)}
    inputs, _ = inputs_of(CAPTIONS)
    with pytest.raises(UserError, match=words):
        caption_choice.make(inputs, **options)


def test_sources_that_cannot_give_choices(tmp_path):
    inputs, _ = inputs_of([[], []])
    with pytest.raises(UserError, match="changes captions, and the data has none"):
        caption_choice.make(inputs)
    inputs, _ = inputs_of([["a b"]], broken=(0,))
    with pytest.raises(UserError, match=r"1 of 1 images .* first is val/0.png: cannot"):
        caption_choice.make(inputs, negatives=("shuffle",)).run(variables())
    place = choices_file(tmp_path / "choices", swap_obj=[("0.png", "a b", "b a")])
    without_keys = Inputs(inputs.encoder, Data([Example(pixels(0), ["a b"])]))
    with pytest.raises(UserError, match="cannot list their keys"):
        caption_choice.make(without_keys, choices_file=place)
    inputs, _ = inputs_of([["a b"]])
    doubled = Keyed(
        [Example(pixels(i), [], key=f"{folder}/0.png") for i, folder in enumerate("ab")]
    )
    with pytest.raises(UserError, match="or several have the name, such as '0.png'"):
        caption_choice.make(Inputs(inputs.encoder, doubled), choices_file=place)


def test_contract():
    testing.check_evaluator(caption_choice.make)
