"""Recalls per class and confused classes, from the rows of a classification."""

import io

import numpy as np
import pytest
from evals_tools import Data, pixels, table_encoder, variables
from rich.console import Console

from clipjax import class_recalls, result_tables, results
from clipjax.evals import zeroshot
from clipjax.evals.common.inputs import Inputs
from clipjax.types import EvalResult, Example, Metric, UserError

PETS = ("cat", "dog", "fox")
LABELS = [0, 0, 0, 1, 1, 1, 1, 2]
PREDICTIONS = [0, 1, 1, 1, 2, -1, 0, 2]


def rows_of(labels=LABELS, predictions=PREDICTIONS, names=PETS, label_set="pet"):
    names = [*names, ""]  # the last is that of -1
    return {
        "key": [f"{i}.png" for i in range(len(labels))],
        "label_set": [label_set] * len(labels),
        "label": np.array(labels),
        "prediction": np.array(predictions),
        "label_name": [names[at] for at in labels],
        "prediction_name": [names[at] for at in predictions],
        "rank": np.where(np.equal(labels, predictions), 1.0, 2.0),
        "ties": np.zeros(len(labels), int),
    }


def test_recalls_and_confusions_by_hand():
    found = class_recalls.recalls(rows_of())
    assert [(one.label, one.name, one.recall.n) for one in found] == [
        (1, "dog", 4),
        (0, "cat", 3),
        (2, "fox", 1),
    ]
    assert [one.recall.value for one in found] == pytest.approx([1 / 4, 1 / 3, 1])
    # Of dog's wrong predictions (none, cat, fox) the first by number, of cat's both.
    assert [(one.mistaken, one.count) for one in found] == [
        ("", 1),
        ("dog", 2),
        ("", 0),
    ]
    # Wilson's interval of 1 of 4, and of 1 of 1.
    assert found[0].recall.low == pytest.approx(0.0456, abs=1e-4)
    assert found[0].recall.high == pytest.approx(0.6994, abs=1e-4)
    assert found[2].recall.low == pytest.approx(0.2065, abs=1e-4)
    pairs = class_recalls.confusions(rows_of())
    assert [(x.name, x.mistaken, x.count, x.images, x.labels) for x in pairs] == [
        ("cat", "dog", 2, 3, (0, 1)),
        ("dog", "", 1, 4, (1, -1)),
        ("dog", "cat", 1, 4, (1, 0)),
        ("dog", "fox", 1, 4, (1, 2)),
    ]
    assert pairs[0].share == pytest.approx(2 / 3)


def test_an_evaluators_rows_give_its_mean_class_recall(tmp_path):
    """Small integers tie often; the recalls come from the table on disk."""
    draw = np.random.default_rng(0)
    names = [f"c{i}" for i in range(5)]
    examples = [
        Example(pixels(i), labels={"kind": int(draw.integers(5))}, key=f"{i}")
        for i in range(80)
    ]
    inputs = Inputs(table_encoder(names), Data(examples, {"kind": names}))
    texts = draw.integers(-1, 2, (5, 3))
    images = draw.integers(-1, 2, (80, 3))
    evaluator = zeroshot.make(inputs, templates=("{}",))
    result = evaluator.run(variables(images, texts))
    place, _ = results.save(tmp_path / "1", {"": ({"zeroshot": result}, {})})
    rows = results.read(place).rows("zeroshot")
    assert class_recalls.label_sets(rows) == ["kind"]

    labels = np.array([example.labels["kind"] for example in examples])
    norms = np.linalg.norm(texts, axis=1, keepdims=True)
    scores = (images @ (texts / np.where(norms > 0, norms, 1)).T).round(6)
    best = scores == scores.max(axis=1, keepdims=True)
    hits = best[np.arange(80), labels] / best.sum(axis=1)
    assert 0 < ((hits > 0) & (hits < 1)).mean() < 1
    found = class_recalls.recalls(rows)
    expected = {name: hits[labels == i].mean() for i, name in enumerate(names)}
    assert {one.name: one.recall.value for one in found} == pytest.approx(expected)
    mean = np.mean([one.recall.value for one in found])
    assert mean == pytest.approx(result.metrics["kind/mean_class_recall"].value)
    first = best.argmax(axis=1)
    matrix = np.zeros((5, 5), int)
    np.add.at(matrix, (labels, first), 1)
    pairs = class_recalls.confusions(rows)
    assert {pair.labels: pair.count for pair in pairs} == {
        (i, j): matrix[i, j] for i, j in np.argwhere(matrix) if i != j
    }
    counts = [pair.count for pair in pairs]
    assert counts == sorted(counts, reverse=True)


def test_several_label_sets_are_apart():
    one, other = rows_of(), rows_of([0, 1], [1, 1], ("big", "small"), "size")
    both = {
        name: np.concatenate([one[name], other[name]])
        if isinstance(one[name], np.ndarray)
        else one[name] + other[name]
        for name in one
    }
    assert class_recalls.label_sets(both) == ["pet", "size"]
    assert class_recalls.recalls(both, "pet") == class_recalls.recalls(one)
    assert class_recalls.confusions(both, "size") == class_recalls.confusions(other)
    with pytest.raises(UserError, match="one of the label sets pet, size"):
        class_recalls.recalls(both)
    with pytest.raises(UserError, match="no label set 'sise'.* pet, size"):
        class_recalls.confusions(both, "sise")


def test_rows_without_classes_are_refused():
    rows = {"key": ["a"], "rank": [1.0]}
    assert class_recalls.label_sets(rows) == []
    with pytest.raises(UserError, match="no classes: give those of zeroshot or class"):
        class_recalls.recalls(rows)
    older = rows_of()
    del older["ties"]
    with pytest.raises(UserError, match="evaluated again"):
        class_recalls.recalls(older)


GOLDEN = """\

zeroshot, classes of pet
  lowest recall  images    recall   95 % interval  mostly taken for
  dog                 4   25.00 %    4.56 - 69.94  (not finite) (1)
  cat                 3   33.33 %    6.15 - 79.23  dog (2)
  fox                 1  100.00 %  20.65 - 100.00
  most confused  images  of   share  taken for
  cat                 2   3  66.7 %  dog
  dog                 1   4  25.0 %  (not finite)
  dog                 1   4  25.0 %  cat
  dog                 1   4  25.0 %  fox
"""


def printed(rows):
    result = EvalResult({"top1": Metric(0.5)}, "top1", "8 images", rows=rows)
    file = io.StringIO()
    console = Console(file=file, width=80, no_color=True)
    console.print(result_tables.class_tables({"zeroshot": result}))
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines()) + "\n"


def test_the_tables_of_a_terminal():
    assert printed(rows_of()) == GOLDEN
    # Two classes say nothing that the accuracy does not; other rows have none.
    assert printed(rows_of([0, 1], [1, 1])).strip() == ""
    assert printed({"key": ["a"]}).strip() == ""
    many = list(range(30))
    names = [f"[b]class {i}" for i in many]
    lines = printed(rows_of(many, many[1:] + [0], names)).splitlines()
    assert len(lines) == 2 * (1 + result_tables.CLASSES) + 2
    assert any("[b]class 7" in line for line in lines)


def test_a_class_is_short_however_long_its_names():
    """Names of a class are joined, and a folder's may have a line break."""
    names = ["a\nb", "crane; " * 30 + "heron", "{}", "100%"]
    text = printed(rows_of([0, 1, 2, 3], [1, 0, 3, 2], names))
    lines = text.splitlines()
    assert sum(line.startswith("  a b ") for line in lines) == 2
    # Two tables have the class and what is taken for it: four names of 45 characters.
    assert text.count("crane;") <= 4 * 7 and text.count("heron") == 4
    assert len(lines) <= 2 + 2 * (1 + 2 * len(names))
