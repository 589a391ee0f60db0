import re
import xml.etree.ElementTree as ElementTree

import numpy as np

from clipjax.report_parts import curves
from clipjax.report_parts.curves import Level, Line

STEPS = np.arange(1, 51)


def test_thinned_means_keep_the_extremes():
    values = np.sin(np.arange(100_000) / 1000)
    values[[7, 70_000]] = np.nan, 99.0
    steps, means, lows, highs = curves.thin(np.arange(100_000), values)
    assert len(steps) == curves.POINTS
    assert highs.max() == 99 and lows.min() == np.nanmin(values)
    # Of 99,999 finite values, so that the bins have unequal sizes by one at most.
    assert abs(np.mean(means) - np.nanmean(values)) < 1e-3
    assert np.isclose(means[0], values[[x for x in range(250) if x != 7]].mean(), 1e-2)


def test_few_points_stay_as_they_are():
    values = np.array([1.0, np.inf, 3.0])
    steps, means, *_ = curves.thin(np.array([5, 6, 7]), values)
    assert steps.tolist() == [5, 7] and means.tolist() == [1, 3]


def test_a_chart_is_an_element_in_the_pages_colours():
    lines = [
        Line(STEPS, 4 / STEPS, name="training"),
        Line(STEPS, 5 / STEPS, name="b<a"),
    ]
    chart = curves.chart("Loss", "loss", lines, levels=[Level(2.0, "chance")])
    root = ElementTree.fromstring(chart.svg)
    words = {node.text for node in root.iter() if node.tag.endswith("text")}
    assert {"loss", "step", "chance", "training", "b<a"} <= words
    assert "var(--s0)" in chart.svg and "var(--s1)" in chart.svg
    assert not re.search(r"#[0-9a-f]{6}", chart.svg)
    assert "font-family" not in chart.svg and "<style" not in chart.svg
    assert chart.words.startswith("Loss, loss: training from 4 to 0.08")


def test_nothing_to_draw():
    assert curves.chart("Loss", "loss", []) is None
    line = Line(STEPS[:2], np.array([np.nan, np.inf]))
    assert curves.chart("Loss", "loss", [line]) is None


def test_outliers_do_not_flatten_the_curve():
    values = np.linspace(1, 2, 1000)
    values[500] = 1e6
    chart = curves.chart("x", "x", [Line(np.arange(1000), values)])
    root = ElementTree.fromstring(chart.svg)
    words = [node.text for node in root.iter() if node.tag.endswith("text")]
    values = [float(x) for x in words if x and re.fullmatch(r"[\d.]+", x)]
    assert 1.4 in values and max(values) == 1000  # the last step
