"""The tables of evaluation results."""

import io

import pytest
from rich.console import Console

from clipjax import result_tables
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
    assert result_tables.text(RESULTS) == GOLDEN


@pytest.mark.parametrize("width", [80, 60])
def test_no_number_is_cut_at_a_narrow_width(width):
    lines = result_tables.text(RESULTS, width).splitlines()
    assert max(map(len, lines)) <= width
    for word in ("30.00 %", "1500.0", "nan", "500.5"):
        assert any(word in line for line in lines)


def test_a_terminal_shows_the_primary_metric_in_bold():
    file = io.StringIO()
    Console(file=file, force_terminal=True, width=80).print(
        result_tables.table(RESULTS)
    )
    bold = [line for line in file.getvalue().splitlines() if "\x1b[1m" in line]
    assert len(bold) == 3 and "mean_recall@1" in bold[0] and "a/top1" in bold[1]


def test_words_in_brackets_are_not_taken_for_markup():
    metric = Metric(0.5, unit="[i]x")
    odd = EvalResult({"[red]set/top1": metric}, "[red]set/top1", "[bold]x")
    text = result_tables.text({"[blue]e": odd})
    assert "[blue]e: [bold]x" in text and "[red]set/top1" in text
    assert "0.5 [i]x" in text


def test_a_sweep_shows_each_unit():
    table = result_tables.sweep_table({0.0: RESULTS, 0.5: RESULTS})
    file = io.StringIO()
    Console(file=file, width=80).print(table)
    rows = file.getvalue().splitlines()
    assert [row.split() for row in rows[1:]] == [
        ["0", "25.00", "%", "100.00", "%", "1235", "px"],
        ["0.5", "25.00", "%", "100.00", "%", "1235", "px"],
    ]


def test_the_main_metric_in_a_line():
    metric = Metric(0.3, 0.02, "fraction", low=0.27, high=0.33, n=1000)
    result = EvalResult({"r@1": metric}, "r@1", "1000 images", broken=3)
    line = result_tables.main_metric("retrieval", result, intervals=True)
    assert line == (
        "retrieval r@1 30.00 % (95 % interval 27.00 - 33.00, chance 2.00 %), "
        "3 unreadable examples left out"
    )
    bare = EvalResult({"gap": Metric(0.5)}, "gap", "9 images")
    assert result_tables.main_metric("mine", bare, intervals=True) == "mine gap 0.5"
