"""Training and evaluation images with labels: shared, matched, and checked."""

import numpy as np
import pytest
from evals_tools import PooledTable, image_table, labelled_inputs

import run_tools
from clipjax.data.sources import scenes
from clipjax.engine import assemble, datasets
from clipjax.evals import knn
from clipjax.types import UserError

NAMES = ("disc", "star", "bow")


def evaluate(inputs, rows, **options):
    return knn.make(inputs, **{"neighbours": (1,)} | options).run(image_table(rows))


def test_evaluators_of_a_source_read_each_split_once():
    inputs = labelled_inputs([0, 1, 1], [0, 1])
    table = image_table(np.eye(5))
    for _ in range(2):
        knn.make(inputs).run(table)
    assert np.bincount(inputs.source.reads).tolist() == [1, 1, 1]
    train = inputs.of_split("train")
    assert np.bincount(train.source.reads).tolist() == [1, 1]
    inputs.forget()  # of the training images too
    knn.make(inputs).run(table)
    assert np.bincount(train.source.reads).tolist() == [2, 2]


def test_a_config_opens_the_training_split_of_the_same_data():
    config = run_tools.tiny("evals=knn", evals=True)
    shared = datasets.eval_source(config, val_loss=False)
    encoder = any_encoder()
    found = assemble.evaluators(config, encoder, shared, {})
    assert found.costs() == [
        "evals.knn: needs 160 images of 'train', encoded once for all"
    ]
    assert len(found["knn"].splits.train.source) == 160
    with config.unlocked():
        config.data.eval.split = "train"
    with pytest.raises(
        UserError, match="knn: train_split='train': the evaluation data"
    ):
        assemble.evaluators(config, encoder, shared, {})
    with config.unlocked():
        config.data.eval.split, config.evals.knn.train_split = "val", "no"
    with pytest.raises(UserError, match="train_split='no': data=scenes has no split"):
        assemble.evaluators(config, encoder, shared, {})


def any_encoder():
    return labelled_inputs([0], [0]).encoder


def test_classes_are_matched_by_name():
    inputs = labelled_inputs(
        [0, 1], [2, 0, 1], ("star", "disc"), ("bow", "star", "disc")
    )
    rows = [[0, 1, 0], [0, 0, 1], [0, 0, 1], [1, 0, 0], [0, 1, 0]]
    found = evaluate(inputs, rows)
    assert found.metrics["class/top1"].value == 1
    assert found.rows["label_name"] == ["star", "disc"]


def test_classes_without_any_image_are_no_answers():
    found = evaluate(labelled_inputs([0, 2], [0, 2], NAMES), np.eye(4))
    assert found.metrics["class/top1"].chance == 0.5
    assert found.rows["label_name"] == ["disc", "bow"]


def test_pooled_features_if_they_are_there():
    rows = np.array([[1, 0], [1, 0.1], [-1, 0]])
    for features, words in (("auto", "before the projection"), ("embed", "embeddings")):
        inputs = labelled_inputs([0], [0, 1], model=PooledTable())
        made = knn.make(inputs, features=features)
        assert words in made.splits.protocol
        assert made.run(image_table(rows)).metrics["class/top1"].value == 1
    assert not knn.make(labelled_inputs([0], [0, 1])).splits.pooled
    with pytest.raises(UserError, match="no pooled features"):
        knn.make(labelled_inputs([0], [0, 1]), features="pooled")


def test_what_is_left_out_is_said():
    found = evaluate(labelled_inputs([0, None, 9], [0, None, 1]), np.eye(6))
    assert found.broken == 2 and found.metrics["class/top1"].n == 1
    assert found.size.endswith("; 1 training images left out as broken")
    inputs = labelled_inputs([0, 1], [0, 1])
    inputs.of_split("train").source.examples[0] = inputs.source.examples[0]
    found = evaluate(inputs, np.eye(4))
    assert "; 1 images are training images too" in found.size


def test_what_is_taken_evenly():
    inputs = labelled_inputs([0, 1, 0, 1], [0, 0, 1, 1])
    made = knn.make(inputs, max_samples=2, max_train_samples=2)
    assert (made.splits.indices, made.splits.train_indices) == ([0, 2], [0, 2])
    assert "; 2 training images of train; " in made.splits.protocol
    assert made.splits.protocol.endswith("at most 2 images, evenly spread")


@pytest.mark.parametrize(
    ("inputs", "rows", "words"),
    [
        (
            lambda: labelled_inputs([0], [0, 1], ("bow", "net"), ("disc", "star")),
            np.eye(3),
            "the evaluation data have the class 'bow' and 1 more of 'class', and the "
            "split 'train' does not",
        ),
        (
            lambda: labelled_inputs([0, 1, 2], [0, 0, 1], NAMES),
            np.eye(6),
            "the class 'bow' of 'class' has evaluation images but no training image",
        ),
        (
            lambda: labelled_inputs([0, 0], [0, 0], NAMES),
            np.eye(4),
            "have fewer than two classes",
        ),
        (
            lambda: labelled_inputs([0, 1], [0, 1]),
            [[1, 0], [0, 1], [1, 0], [np.nan, 1]],
            "1 of 2 training images have features that are not finite, such as train 1",
        ),
        (
            lambda: labelled_inputs([None], [0, 1]),
            np.eye(3),
            "no evaluation image with a label in 'class' can be read .cannot be",
        ),
        (
            lambda: labelled_inputs([0], [None]),
            np.eye(3),
            "no train image with a label in 'class' can be read",
        ),
    ],
)
def test_data_that_are_refused(inputs, rows, words):
    with pytest.raises(UserError, match=f"^evals=knn: .*{words}") as caught:
        evaluate(inputs(), np.array(rows))
    assert "\n" not in str(caught.value)


def test_the_evaluation_images_as_training_images_are_refused():
    inputs = labelled_inputs([0, 1], [0, 1])
    inputs.of_split("train").source.examples[:] = inputs.source.examples
    with pytest.raises(UserError, match="holds the evaluation images themselves"):
        evaluate(inputs, np.eye(4))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"train_split": "no"}, "train_split='no': no split 'no'"),
        ({"label_sets": ("clas",)}, "no label set 'clas'. Did you mean 'class'?"),
        ({"features": "text"}, "features='text': must be one of auto, pooled, embed"),
        ({"max_samples": -1}, "max_samples=-1, max_train_samples=0: use numbers from"),
    ],
)
def test_options_that_are_refused(options, words):
    with pytest.raises(UserError, match=words.replace("?", ".")):
        knn.make(labelled_inputs([0], [0, 1]), **options)


def test_a_single_class_is_refused_before_anything_is_encoded():
    inputs = labelled_inputs([0, 0], [0, 0], ("disc",))
    with pytest.raises(UserError, match="'class' has fewer than two classes: give"):
        knn.make(inputs)


def test_sources_without_labels_or_splits():
    inputs = labelled_inputs([0], [0, 1])
    inputs.source.class_names = {}
    with pytest.raises(UserError, match="knn needs images with class labels"):
        knn.make(inputs)
    alone = knn.Inputs(inputs.encoder, scenes.make("val", eval_size=4))
    with pytest.raises(UserError, match="give Inputs the function open_split"):
        knn.make(alone)
