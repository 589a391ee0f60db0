"""What evaluators may return."""

import dataclasses
import json

import numpy as np
import pytest

from clipjax.types import EvalResult, Metric


def test_what_is_no_metric_is_refused():
    with pytest.raises(TypeError, match="metric 'top1' is 0.5: give a clipjax.types"):
        EvalResult({"top1": 0.5}, "top1", "x")  # type: ignore[dict-item]
    with pytest.raises(ValueError, match="primary='top' is none of top1"):
        EvalResult({"top1": Metric(0.5)}, "top", "x")
    metrics = {"top1": Metric(0.5)}
    with pytest.raises(ValueError, match="different lengths: .'key': 1, 'rank': 2"):
        EvalResult(metrics, "top1", "x", rows={"key": ["a"], "rank": [1, 2]})
    with pytest.raises(ValueError, match="begin with 'rank': put `key` first"):
        EvalResult(metrics, "top1", "x", rows={"rank": [1], "key": ["a"]})
    with pytest.raises(ValueError, match="one line"):
        EvalResult(metrics, "top1", "x", protocol="a\nb")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"value": "0.5"}, "value='0.5': must be float"),
        ({"value": None}, "value=None: must be float, nan if"),
        ({"value": True}, "value=True: must be float"),
        ({"value": np.zeros(2)}, "value=.*: must be float"),
        ({"chance": "low"}, "chance='low': must be float"),
        ({"unit": 3}, "unit=3: must be str"),
        ({"higher_is_better": "min"}, "higher_is_better='min': must be bool"),
        ({"n": 2.5}, "n=2.5: must be int"),
        ({"n": -1}, "n=-1: must be at least 0"),
    ],
)
def test_fields_of_a_metric_have_their_types(fields, message):
    with pytest.raises((TypeError, ValueError), match=message):
        Metric(**{"value": 0.5, **fields})


def test_numbers_of_numpy_become_python_numbers():
    metric = Metric(np.float32(0.5), np.array(0.25), n=np.int64(3))  # type: ignore
    assert json.dumps(dataclasses.asdict(metric)).startswith('{"value": 0.5, "chance"')
    assert type(metric.n) is int


def test_results_that_are_no_results():
    with pytest.raises(TypeError, match="size=3: must be a text"):
        EvalResult({"top1": Metric(0.5)}, "top1", 3)  # type: ignore
    with pytest.raises(TypeError, match="rows are a list: must be a dict"):
        EvalResult({"top1": Metric(0.5)}, "top1", "x", rows=[1])  # type: ignore
