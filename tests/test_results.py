"""The table and the JSON of evaluation results."""

import dataclasses
import io
import json
import pathlib

import numpy as np
import pytest
from rich.console import Console

from clipjax import results
from clipjax.types import EvalResult, Metric

RESULTS = {
    "retrieval": EvalResult(
        {
            "image_to_text_recall@1": Metric(
                0.3, 0.0002, "fraction", low=0.2724, high=0.3291, n=1000
            ),
            "image_to_text_mean_rank": Metric(
                12.25, 500.5, "rank", higher_is_better=False, n=1000
            ),
            "mean_recall@1": Metric(0.25, 0.0025, "fraction"),
            "pair_diagonal/image_to_text_median_rank": Metric(
                float("nan"), unit="rank", higher_is_better=False
            ),
        },
        "mean_recall@1",
        "1000 images x 5000 captions",
        broken=3,
    ),
    "zeroshot": EvalResult(
        {"a/top1": Metric(1.0, 0.5, "fraction")}, "a/top1", "a: 9 images"
    ),
    "mine": EvalResult(
        {
            "gap": Metric(1234.5678, 2500, "px", higher_is_better=False),
            "count": Metric(32_000),
        },
        "gap",
        "9 images",
    ),
}

GOLDEN = """\
retrieval: 1000 images x 5000 captions (3 broken examples left out)
  metric                         value  95 % interval  chance  times chance
  image_to_text_recall@1       30.00 %  27.24 - 32.91  0.02 %        1500.0
  image_to_text_mean_rank         12.2                  500.5
* mean_recall@1                25.00 %                 0.25 %         100.0
  pair_diagonal/
    image_to_text_median_rank      nan

zeroshot: a: 9 images
  metric     value   chance  times chance
* a/top1  100.00 %  50.00 %           2.0

mine: 9 images
  metric    value   chance
* gap     1235 px  2500 px
  count     32000
"""


def test_plain_text():
    assert results.text(RESULTS) == GOLDEN


@pytest.mark.parametrize("width", [80, 60])
def test_no_number_is_cut_at_a_narrow_width(width):
    lines = results.text(RESULTS, width).splitlines()
    assert max(map(len, lines)) <= width
    for word in ("30.00 %", "1500.0", "nan", "500.5"):
        assert any(word in line for line in lines)


def test_a_terminal_shows_the_primary_metric_in_bold():
    file = io.StringIO()
    Console(file=file, force_terminal=True, width=80).print(results.table(RESULTS))
    bold = [line for line in file.getvalue().splitlines() if "\x1b[1m" in line]
    assert len(bold) == 3 and "mean_recall@1" in bold[0] and "a/top1" in bold[1]


def test_words_in_brackets_are_not_taken_for_markup():
    metric = Metric(0.5, unit="[i]x")
    odd = EvalResult({"[red]set/top1": metric}, "[red]set/top1", "[bold]x")
    text = results.text({"[blue]e": odd})
    assert "[blue]e: [bold]x" in text and "[red]set/top1" in text
    assert "0.5 [i]x" in text


def test_json_is_strict_and_complete():
    meta = {"path": pathlib.PurePosixPath("a/b"), "sizes": (1, np.int64(2)), "x": None}
    found = results.to_json(RESULTS, meta)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["meta"] == {"path": "a/b", "sizes": [1, 2], "x": None}
    retrieval = found["results"]["retrieval"]
    assert retrieval["metrics"]["image_to_text_recall@1"] == {
        "value": 0.3,
        "chance": 0.0002,
        "unit": "fraction",
        "higher_is_better": True,
        "low": 0.2724,
        "high": 0.3291,
        "n": 1000,
    }
    median = retrieval["metrics"]["pair_diagonal/image_to_text_median_rank"]
    assert median["value"] is None and median["higher_is_better"] is False
    assert (retrieval["primary"], retrieval["broken"]) == ("mean_recall@1", 3)
    with pytest.raises(TypeError, match="set has no JSON form"):
        results.to_json(RESULTS, {"odd": {1}})


def test_a_sweep_shows_each_unit():
    table = results.sweep_table({0.0: RESULTS, 0.5: RESULTS})
    file = io.StringIO()
    Console(file=file, width=80).print(table)
    rows = file.getvalue().splitlines()
    assert [row.split() for row in rows[1:]] == [
        ["0", "25.00", "%", "100.00", "%", "1235", "px"],
        ["0.5", "25.00", "%", "100.00", "%", "1235", "px"],
    ]


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


def test_rows_stay_out_of_the_json():
    rows = {"key": ["a", "b"], "rank": np.array([1.0, 2.0])}
    result = EvalResult({"top1": Metric(0.5)}, "top1", "x", rows=rows)
    plain = EvalResult({"top1": Metric(0.5)}, "top1", "x")
    assert results.to_json({"a": result}, {}) == results.to_json({"a": plain}, {})
    assert "rows" not in results.to_json({"a": result}, {})["results"]["a"]


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
