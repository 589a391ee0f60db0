"""The rows give every metric of the evaluators that wrote them."""

import comparison_tools as tools
import numpy as np
import pytest
from evals_tools import Data, pixels, table_encoder

from clipjax import results
from clipjax.comparison import row_metrics
from clipjax.evals import retrieval
from clipjax.evals.common import galleries
from clipjax.evals.common.galleries import Published
from clipjax.evals.common.inputs import Inputs
from clipjax.types import Example


def test_every_metric_of_the_evaluators(tmp_path):
    """Through the files; images have different numbers of captions, and answers tie."""
    place = tools.write(tmp_path / "x", tools.evaluate(tools.evaluators(), 0))
    evaluation = results.read(place)
    count = 0
    for label, result in evaluation.results.items():
        rows = evaluation.rows(label)
        for name, metric in result.metrics.items():
            found = row_metrics.of(name, rows)
            if name.endswith("majority_share"):
                assert found is None
                continue
            assert found is not None, name
            assert found.metric == pytest.approx(metric.value, abs=1e-12), name
            assert len(found.values) == metric.n, name
            assert found.weights.sum() == pytest.approx(1)
            count += 1
    assert count == 2 * 10 + 2 * 3 + 1


def test_folds_and_same_captions(monkeypatch):
    """Five galleries of unequal size, and captions that images share."""
    published = Published(20, folds=5, captions=2)
    monkeypatch.setitem(galleries.PUBLISHED, "coco_1k_5fold", published)
    words = [f"caption {i % 37}" for i in range(40)]
    examples = [
        Example(pixels(i), words[2 * i : 2 * i + 2], key=str(i)) for i in range(20)
    ]
    inputs = Inputs(table_encoder(sorted(set(words))), Data(examples))
    result = retrieval.make(
        inputs,
        protocols=("coco_1k_5fold", "standard"),
        same_caption=True,
        same_image=True,
    ).run(
        {
            "params": {
                "image": np.random.default_rng(0).integers(-1, 2, (20, 3)) * 1.0,
                "text": np.random.default_rng(1).integers(-1, 2, (38, 3)) * 1.0,
            }
        }
    )
    assert "coco_1k_5fold/same_caption/mean_recall@1" in result.metrics
    assert "same_caption/text_to_image_median_rank" in result.metrics
    assert "same_image/text_to_image_recall@1" in result.metrics
    for name, metric in result.metrics.items():
        found = row_metrics.of(name, result.rows)
        assert found is not None, name
        assert found.metric == pytest.approx(metric.value, abs=1e-12), name
    assert row_metrics.of("coco_5k/mean_recall@1", result.rows) is None


def test_caption_choices():
    """Kinds with different numbers of choices, of several captions per image."""
    kinds = ["a"] * 3 + ["b"]
    rows = {
        "key": ["1", "1", "2", "1"],
        "protocol": kinds,
        "scores": [[0.0, 0.0]] * 4,
        "hit": np.array([1, 0.5, 0, 0]),
    }
    for name, value, places in (
        ("a/accuracy", 0.5, [0, 1, 2]),
        ("b/accuracy", 0.0, [3]),
        ("mean_accuracy", 0.25, [0, 1, 2, 3]),
    ):
        found = row_metrics.of(name, rows)
        assert found is not None and found.metric == pytest.approx(value), name
        assert found.places.tolist() == places
    for name in ("c/accuracy", "a/text_only_accuracy", "mean_order_blind_ceiling"):
        assert row_metrics.of(name, rows) is None


def test_a_match_cutoff():
    """The half that is fitted does not count, and kinds of pairs count alike."""
    rows = {
        "key": ["1", "1", "2", "3", "3", "3"],
        "match": np.array([True, False, True, True, False, False]),
        "half": ["fit"] * 2 + ["measured"] * 4,
        "hit": np.array([np.nan, 0, 1, 0, 0.5, 1]),
    }
    for name, value, places in (
        ("accuracy", 0.625, [2, 3, 4, 5]),
        ("right_accepted", 0.5, [2, 3]),
        ("wrong_rejected", 0.75, [4, 5]),
    ):
        found = row_metrics.of(name, rows)
        assert found is not None and found.metric == pytest.approx(value), name
        assert found.places.tolist() == places
    assert row_metrics.of("auc", rows) is None
    rows["hit"][3] = np.nan
    assert row_metrics.of("accuracy", rows) is None


def test_calibration():
    """Of the measured half, by label set; `mean_ece` weighs the sets alike."""
    nan = np.nan
    rows = {
        "key": ["1", "2", "3", "1", "2"],
        "label_set": ["pet"] * 3 + ["size"] * 2,
        "half": ["measured", "measured", "fit", "fit", "measured"],
        "confidence": np.full(5, 0.5),
        "hit": np.array([1.0, 0.5, 0.0, 0.0, 1.0]),
        "ece": np.array([0.2, 0.4, nan, nan, 0.1]),
        "scaled/ece": np.array([0.1, 0.1, nan, nan, nan]),
    }
    for name, value, places in (
        ("mean_ece", 0.2, [0, 1, 4]),
        ("pet/ece", 0.3, [0, 1]),
        ("pet/scaled/ece", 0.1, [0, 1]),
        ("pet/accuracy", 0.75, [0, 1]),
        ("size/ece", 0.1, [4]),
    ):
        found = row_metrics.of(name, rows)
        assert found is not None and found.metric == pytest.approx(value), name
        assert found.places.tolist() == places
    for name in ("size/scaled/ece", "pet/temperature", "pet/ideal_ece", "pet/key"):
        assert row_metrics.of(name, rows) is None
    alone = {name: column[:3] for name, column in rows.items()}
    found = row_metrics.of("ece", alone)  # a classifier's
    assert found is not None and found.metric == pytest.approx(0.3)


def test_a_column_of_the_metrics_name():
    values = np.array([1.0, 2.0, 6.0])
    rows = {
        "key": ["a", "b", "c"],
        "loss": values,
        "bad": values * np.nan,
        "x": [1] * 3,
    }
    found = row_metrics.of("loss", rows)
    assert (
        found is not None and found.metric == 3 and found.places.tolist() == [0, 1, 2]
    )
    assert [row_metrics.of(name, rows) for name in ("bad", "x", "top1")] == [None] * 3
    # Rows without ties, or of no classes, do not give an accuracy.
    old = {"key": ["a"], "label_set": ["kind"], "label": np.array([0])}
    assert row_metrics.of("kind/top1", old | {"rank": np.array([1.0])}) is None
