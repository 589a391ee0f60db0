"""A source's own choices, in groups: rows and macro accuracies, by hand and NumPy."""

import dataset_tools
import numpy as np
import pytest
from evals_tools import Data, Table, Words, captioned, crop, table_encoder, variables

from clipjax.comparison import row_metrics
from clipjax.comparison.shared_rows import SharedRows
from clipjax.data.annotations.caption_choices import OwnChoice
from clipjax.data.sources import aro
from clipjax.encoder import Encoder
from clipjax.evals import caption_choice
from clipjax.evals.common import intervals
from clipjax.evals.common.inputs import Inputs
from clipjax.types import UserError

TEXTS = ["a on b", "b on a", "c by d", "d by c", "e at f", "f at g"]
# (kind, picture, right text, wrong text, group, counted)
CHOICES = [
    ("rel", "1", 0, 1, "on", True),
    ("rel", "1", 0, 1, "on", True),
    ("rel", "2", 4, 5, "at", True),
    ("rel", "3", 2, 3, "by", False),
    ("att", "1", 0, 1, "on", True),
    ("att", "4", 2, 3, "by", True),
]


def inputs_of(choices=CHOICES, broken=()):
    right = [TEXTS[choice[2]] for choice in choices]
    source = Data(captioned(range(len(right)), np.arange(len(right)), right, broken))
    source.choices = [
        OwnChoice(kind, 10 + n, f"{image}.jpg", (TEXTS[a], TEXTS[b]), group, counted)
        for n, (kind, image, a, b, group, counted) in enumerate(choices)
    ]
    return Inputs(table_encoder(TEXTS), source)


# Of texts 0 to 5, by which each choice's right one is better, as good or worse.
SCORES = [[2, 1], [1, 1], [1, 3], [5, 1], [0, 4], [2, 2]]


def table(scores=SCORES):
    """Images and texts of which image i's products with its two texts are scores[i]."""
    count = len(TEXTS)
    images = np.zeros((len(scores), count))
    for i, ((_, _, right, wrong, _, _), own) in enumerate(
        zip(CHOICES, scores, strict=False)
    ):
        images[i, [right, wrong]] = own
    return variables(images, np.eye(count))


def test_by_hand():
    evaluator = caption_choice.make(inputs_of())
    result = evaluator.run(table())
    assert result.rows["hit"].tolist() == [1, 0.5, 0, 1, 0, 0.5]
    assert result.rows["scores"] == SCORES
    assert result.rows["group"] == ["on", "on", "at", "by", "on", "by"]
    assert result.rows["counted"].tolist() == [True] * 3 + [False] + [True] * 2
    assert result.rows["query"].tolist() == list(range(10, 16))
    values = {name: metric.value for name, metric in result.metrics.items()}
    assert values["rel/accuracy"] == 2.5 / 4
    assert values["rel/macro_accuracy"] == (0.75 + 0) / 2  # of "on" and "at"
    assert values["att/macro_accuracy"] == values["att/accuracy"] == 0.25
    assert values["mean_accuracy"] == (2.5 / 4 + 0.25) / 2
    assert values["mean_macro_accuracy"] == pytest.approx((0.375 + 0.25) / 2)
    assert values["rel/order_blind_ceiling"] == (3 / 2 + 1) / 4  # "f" for "g"
    assert values["rel/macro_order_blind_ceiling"] == (1 / 2 + 1) / 2
    macro = result.metrics["rel/macro_accuracy"]
    assert (macro.n, macro.chance) == (3, 0.5)
    assert macro == intervals.grouped_class_mean(
        np.array([1, 0.5, 0]), np.array([0, 0, 1]), np.array([0, 0, 1]), 0.5
    )
    # The pictures of both kinds may be the same, so their distances add.
    parts = [result.metrics[f"{kind}/macro_accuracy"] for kind in ("rel", "att")]
    mean = result.metrics["mean_macro_accuracy"]
    below = sum(part.value - part.low for part in parts) / 2
    assert mean.low == pytest.approx(mean.value - below)
    assert result.metrics["rel/macro_order_blind_ceiling"].low is None
    assert result.primary == "mean_macro_accuracy"
    assert result.metrics.keys() == evaluator.metric_units().keys()
    assert result.size == (
        "rel: 4 choices of 3 images, 2 of 3 groups count; "
        "att: 2 choices of 2 images, 2 of 2 groups count"
    )
    assert "mean_macro_text_only_accuracy" not in values
    assert result.protocol.startswith("own rel, att; 6 choices ")


def test_parts_of_a_picture_are_one_unit_and_do_not_know_its_captions():
    """Four parts of one picture tell as much as one, and its texts are left out."""
    alike = [("rel", "1", 0, 1, "on", True)] * 4 + [("rel", "2", 2, 3, "on", True)] * 4
    images = np.zeros((8, 6))
    images[:4, 0] = images[4:, 3] = 1  # the first four are right
    result = caption_choice.make(inputs_of(alike)).run(variables(images, np.eye(6)))
    for name in ("rel/accuracy", "rel/macro_accuracy"):
        metric = result.metrics[name]
        assert (metric.value, metric.n) == (0.5, 8)
        assert metric.low < intervals.wilson(0.5, 3)[0]
    # No other picture has a word of these, so neither order is more usual.
    assert result.metrics["rel/text_only_accuracy"].value == 0.5
    other = [("rel", f"{n}", 0, 1, "on", True) for n in range(4)]
    result = caption_choice.make(inputs_of(other)).run(
        variables(np.ones((4, 6)), np.eye(6))
    )
    assert result.metrics["rel/text_only_accuracy"].value == 1


def test_broken_and_fewer_images():
    result = caption_choice.make(inputs_of(broken=(0, 2, 4))).run(table())
    assert result.broken == 3
    assert result.size == (
        "rel: 2 choices of 2 images, 1 of 2 groups count; "
        "att: 1 choices of 1 images, 1 of 1 groups count"
    )
    assert result.metrics["rel/macro_accuracy"].value == 0.5
    few = caption_choice.make(inputs_of(), max_samples=2).run(table())
    assert few.rows["query"].tolist() == [10, 13]
    assert np.isnan(few.metrics["att/macro_accuracy"].value)
    assert few.metrics["mean_macro_accuracy"].value == 1
    alone = caption_choice.make(inputs_of(CHOICES[:4])).run(table(SCORES[:4]))
    assert alone.primary == "rel/macro_accuracy"
    none = caption_choice.make(inputs_of(CHOICES[3:4])).run(table(SCORES[:1]))
    assert np.isnan(none.metrics["rel/macro_accuracy"].value)


def test_brute_force_of_the_public_files(tmp_path):
    """Every box's own similarities, and the published mean over groups by NumPy."""
    dataset_tools.aro(tmp_path)
    (tmp_path / "images" / "2373554.jpg").write_bytes(b"broken")
    source = aro.make("test", path=str(tmp_path))
    texts = sorted({text for choice in source.choices for text in choice.captions})
    table = {
        "params": {
            "image": np.random.default_rng(0).normal(size=(2**16, 5)).astype("f4"),
            "text": np.random.default_rng(1).normal(size=(9, 5)).astype("f4"),
        }
    }
    pictures = []

    def seen(image):
        """The size of a box, which tells it from the others."""
        pictures.append(image.shape[:2])
        return np.array([[[image.shape[0], image.shape[1], 0]]], np.uint8)

    encoder = Encoder(Table(), Words(texts), seen, batch_size=4)
    result = caption_choice.make(Inputs(encoder, source)).run(table)
    assert {(4, 8), (6, 5), (8, 12)} <= set(pictures)
    assert result.broken == 3
    sizes = {"vg_relation": [(8, 12), (6, 5), (4, 8)], "vg_attribution": []}
    sizes["vg_attribution"] = [sizes["vg_relation"][i % 3] for i in range(25)]
    hits = {}
    for kind, own in sizes.items():
        at = [n for n, x in enumerate(result.rows["protocol"]) if x == kind]
        assert len(at) == len(own)
        for row, (high, wide) in zip(at, own, strict=True):
            image = table["params"]["image"][high * 256 + wide].astype(float)
            scores = [
                image @ table["params"]["text"][1 + texts.index(text)].astype(float)
                for text in result.rows["captions"][row]
            ]
            assert result.rows["scores"][row] == pytest.approx(scores)
            hit = float(scores[0] > scores[1])
            assert result.rows["hit"][row] == hit
            hits.setdefault((kind, result.rows["group"][row]), []).append(hit)
    metrics = result.metrics
    expected = np.mean([np.mean(hits["vg_relation", x]) for x in ("eating", "on")])
    assert metrics["vg_relation/macro_accuracy"].value == pytest.approx(expected)
    expected = np.mean(hits["vg_attribution", "old, red"])
    assert metrics["vg_attribution/macro_accuracy"].value == pytest.approx(expected)
    assert metrics["vg_relation/order_blind_ceiling"].value == 0.5
    keys = result.rows["key"]
    assert keys[0] == "vg_relation/3/2391568.jpg" and len(set(keys)) == len(keys)


def test_rows_give_the_metrics_back_and_pair_two_models():
    first = caption_choice.make(inputs_of()).run(table())
    second = caption_choice.make(inputs_of()).run(table(SCORES[::-1]))
    for name in first.metrics:
        found = row_metrics.of(name, first.rows)
        if name.endswith("accuracy") and "text_only" not in name:
            assert found is not None, name
            assert found.metric == pytest.approx(first.metrics[name].value), name
            assert found.weights.sum() == pytest.approx(1)
        else:
            assert found is None, name
    shared = SharedRows(first.rows, second.rows)
    found = shared.difference("c", "b", "rel/accuracy", first.metrics["rel/accuracy"])
    assert found.images == 3  # pictures, not their parts


class Lengths:
    """A tokenizer of any text."""

    def __call__(self, texts):
        ids = np.array([[len(text) % 3] for text in texts], np.int32)
        return ids, np.ones_like(ids, bool)


def test_rules_on_data_with_choices_of_their_own():
    source = inputs_of().source
    inputs = Inputs(Encoder(Table(), Lengths(), crop, batch_size=4), source)
    result = caption_choice.make(inputs, negatives=("swap_words",)).run(table())
    assert result.protocol.startswith("swap_words of all captions")
    assert "group" not in result.rows
    for options in ({"seed": 1}, {"captions": 1}):
        with pytest.raises(UserError, match="has its own wrong captions: leave"):
            caption_choice.make(inputs_of(), **options)
