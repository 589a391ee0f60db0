"""Nearest neighbours as an evaluator: numbers by hand, rows, and what is refused."""

import numpy as np
import pytest
from evals_tools import Data, image_table, labelled_inputs, pixels, table_encoder

from clipjax import testing
from clipjax.evals import knn
from clipjax.evals.common.inputs import Inputs
from clipjax.evals.common.intervals import Hits, mean
from clipjax.types import Example

TRAIN = np.array([[1, 0], [1, 0.1], [0, 1], [0.1, 1], [1, 1]])
LABELS = [0, 0, 1, 1, 1]
TEST = np.array([[1, 0], [0, 1], [0.9, 0.1], [1, 0.9]])


def result(test_labels, rows=TEST, **options):
    inputs = labelled_inputs(test_labels, LABELS)
    return knn.make(inputs, **options).run(image_table(rows, TRAIN))


def test_numbers_by_hand():
    found = result([0, 1, 1, 1], neighbours=(1, 3))
    assert found.primary == "class/top1"
    one, three = found.metrics["class/top1"], found.metrics["neighbours_3/class/top1"]
    assert (one.value, one.n, one.chance) == (0.75, 4, 0.5)
    assert one.low == pytest.approx(0.3006, abs=1e-4)  # Wilson's of 3 of 4
    assert three.value == 0.75
    assert found.metrics["class/mean_class_recall"].value == pytest.approx(5 / 6)
    assert found.metrics["class/majority_share"].value == 0.75
    assert found.rows["prediction"].tolist() == [0, 1, 0, 1]
    assert found.rows["key"] == [f"test {i}" for i in range(4)]
    assert found.rows["label_name"] == ["disc", "star", "star", "star"]
    assert found.size == "class: 4 images, 2 classes, 5 training images x 2 features"
    assert found.protocol.startswith("1, 3 nearest by cosine, temperature 0.07; class:")
    assert "; 5 training images of train; embeddings" in found.protocol


def test_all_neighbours_and_classes_that_tie():
    """Two of each class on both sides: every vote ties, and counts half."""
    inputs = labelled_inputs([0, 1], [0, 1])
    table = image_table([[1, 0], [0, 1]], [[1, 1], [1, 1]])
    found = knn.make(inputs).run(table)  # 20 of 2: both
    assert found.metrics["class/top1"].value == 0.5
    assert found.rows["ties"].tolist() == [1, 1]


def test_an_image_that_is_not_finite_is_wrong():
    rows = TEST.copy()
    rows[0] = np.nan
    found = result([0, 1, 0, 1], rows, neighbours=(1,))
    assert found.metrics["class/top1"].value == 0.75
    assert found.rows["prediction"][0] == -1
    assert "1 images' features not finite and counted as wrong" in found.size


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"neighbours": (0,)}, "neighbours=.0,., ks=.1, 5.: use numbers from 1 on"),
        ({"neighbours": ()}, "use numbers from 1 on"),
        ({"temperature": 0.0}, "temperature=0.0: must be above 0"),
        ({"temperature": float("nan")}, "temperature=nan: must be above 0"),
    ],
)
def test_options_out_of_range(options, words):
    with pytest.raises(knn.UserError, match=f"^evals=knn: .*{words}"):
        result([0, 1, 0, 1], **options)


def test_contract():
    testing.check_evaluator(knn.make)


def test_label_sets_of_some_images_share_what_they_have_in_common():
    """An image without a label in one set is not taken for the next image."""
    sets = {"class": ("disc", "star"), "hue": ("red", "blue")}
    labels = [{"class": 0, "hue": 0}, {"class": 1}, {"class": 1, "hue": 1}]
    examples = [Example(pixels(i), [], own, f"{i}") for i, own in enumerate(labels)]
    both = [{"class": i, "hue": i} for i in range(2)]
    train = [Example(pixels(3 + i), [], own, f"t{i}") for i, own in enumerate(both)]
    inputs = Inputs(
        table_encoder([]), Data(examples, sets), open_split=lambda _: Data(train, sets)
    )
    table = image_table([[1, 0], [1, 0], [0, 1]], [[1, 0], [0, 1]])
    found = knn.make(inputs, neighbours=(1,)).run(table).metrics["mean_top1"]
    by_image = mean(
        [
            Hits(np.array([1.0, 0, 1]), np.array([0, 1, 2]), 0.5),
            Hits(np.array([1.0, 1]), np.array([0, 2]), 0.5),
        ]
    )
    assert found == by_image
