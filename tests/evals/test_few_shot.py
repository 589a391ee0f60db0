"""Few-shot numbers by hand and by NumPy, their intervals, rows and what is refused."""

import numpy as np
import pytest
from evals_tools import Data, image_table, labelled_inputs, pixels

from clipjax import testing
from clipjax.evals import few_shot
from clipjax.evals.common import draws
from clipjax.evals.common.intervals import wilson
from clipjax.types import Example, UserError


def run(test, train, test_rows, train_rows, **options):
    inputs = labelled_inputs(list(test), list(train), list("abc"))
    made = few_shot.make(inputs, **options)
    return made.run(image_table(test_rows, train_rows))


def angles(*degrees):
    return np.stack([np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))], 1)


def test_one_image_per_class_by_hand():
    """Both methods divide two directions in the middle, whatever their lengths."""
    found = run(
        [0, 0, 1, 1],
        [0, 1],
        angles(-20, 41, 49, 44) * 3,
        angles(0, 90) * [[1], [5]],
        shots=(1, 2),
        seeds=2,
    )
    assert found.primary == "class/shots_2/top1"
    assert found.metrics.keys() == {
        f"class/shots_{n}/{m}" for n in (1, 2) for m in ("top1", "class_mean_top1")
    }
    for name, metric in found.metrics.items():
        assert (metric.value, metric.n, metric.chance) == (0.75, 4, 0.5), name
        # The draws are the same, so nothing is added to the images' own interval.
        assert (metric.low, metric.high) == pytest.approx(wilson(0.75, 4))
        assert found.rows[name].tolist() == [1, 1, 1, 0]
    assert found.rows["key"] == [f"test {i}" for i in range(4)]
    fewer = "x 2 features, classes with fewer images than shots: 2 for 2; 2 draws"
    assert found.size.endswith(fewer)
    how = "1, 2 shots, 2 draws, unit norm, L2 0.1; class: 3 classes "
    assert found.protocol.startswith(how)


def test_class_means_of_all_draws_by_numpy():
    rng = np.random.default_rng(0)
    train = np.repeat([0, 1, 2], [9, 5, 3])
    centres = rng.standard_normal((3, 4))
    rows = centres[train] + rng.standard_normal((17, 4))
    test = rng.integers(0, 3, 50)
    test_rows = centres[test] + rng.standard_normal((50, 4))
    found = run(test, train, test_rows, rows, shots=(1, 4), seeds=3)

    def unit(x):
        return x / np.linalg.norm(x, axis=1, keepdims=True)

    for shots in (1, 4):
        hits = []
        for seed in range(3):
            order = draws.shots(train, seed)
            means = np.stack(
                [unit(rows)[(order < shots) & (train == c)].mean(0) for c in range(3)]
            )
            hits.append((unit(test_rows) @ unit(means).T).argmax(axis=1) == test)
        name = f"class/shots_{shots}/class_mean_top1"
        metric = found.metrics[name]
        assert metric.value == pytest.approx(np.mean(hits))
        np.testing.assert_allclose(found.rows[name], np.mean(hits, axis=0))
        low, high = wilson(metric.value, 50)
        assert metric.low < low < high < metric.high
    one, four = (found.metrics[f"class/shots_{n}/top1"].value for n in (1, 4))
    assert four > one
    assert "classes with fewer images than shots: 1 for 4" in found.size


def test_rows_of_several_label_sets_and_keys_that_repeat():
    inputs = labelled_inputs([0, 1], [0, 1])
    sets = {"class": ["disc", "star"], "hue": ["red", "blue"]}
    for split in (inputs, inputs.of_split("train")):
        first = 0 if split is inputs else 3
        labels = [{"class": 0, "hue": 1}, {"class": 1}, {"class": 1, "hue": 0}]
        key = "" if split is inputs else "train"
        split.source = Data(
            [Example(pixels(first + i), [], x, key) for i, x in enumerate(labels)], sets
        )
    table = image_table(angles(0, 80, 90), angles(0, 90, 91))
    found = few_shot.make(inputs, shots=(1,)).run(table)
    np.testing.assert_array_equal(found.rows["class/shots_1/top1"], [1, 1, 1])
    np.testing.assert_array_equal(found.rows["hue/shots_1/top1"], [1, np.nan, 1])
    assert found.rows["key"] == ["", "", ""]
    assert found.metrics["hue/shots_1/top1"].n == 2


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_an_image_that_is_not_finite_is_wrong(bad):
    rows = angles(0, 90)
    rows[0, 0] = bad
    found = run([0, 1], [0, 1], rows, angles(0, 90), shots=(1,), seeds=1)
    assert [metric.value for metric in found.metrics.values()] == [0.5, 0.5]
    assert "1 images' features not finite and counted as wrong" in found.size


def test_what_it_costs():
    made = few_shot.make(labelled_inputs([0], [0, 1]), shots=(4, 1), seeds=3)
    told = "needs 2 images of 'train', encoded once for all, and fits 6 classifiers "
    assert made.cost() == told + "to up to 4 of them per class"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"shots": ()}, "shots=.., seeds=5: use numbers from 1 on"),
        ({"shots": (0, 1)}, "use numbers from 1 on"),
        ({"seeds": 0}, "seeds=0: use numbers from 1 on"),
        ({"l2": 0.0}, "l2=0.0: must be above 0"),
        ({"l2": float("nan")}, "l2=nan: must be above 0"),
    ],
)
def test_options_out_of_range(options, words):
    with pytest.raises(UserError, match=f"^evals=few_shot: .*{words}"):
        few_shot.make(labelled_inputs([0], [0, 1]), **options)


def test_contract():
    testing.check_evaluator(few_shot.make)
