"""Curves of characters: every value lies in the cell where it belongs."""

import math

import numpy as np
import pytest

from clipjax.monitoring.text_curve import curve


def cells(lines):
    """The drawing without its axes."""
    return [line.split("┤")[1] if "┤" in line else line.split("|")[1] for line in lines]


def test_a_line_down():
    lines = curve(np.arange(1, 101), np.linspace(4, 0, 100), 30, 6, plain=True)
    assert len(lines) == 6 and all(len(line) <= 30 for line in lines)
    assert lines[0].startswith("4 |*") and lines[4].startswith("0 |")
    assert lines[5].strip().startswith("+1 ") and lines[5].endswith("step 100")
    drawn = cells(lines[:5])
    for row, line in enumerate(drawn):  # a straight line: each row's share of columns
        first, last = line.index("*"), line.rindex("*")
        width = len(line)
        assert first == pytest.approx(row * width / 5, abs=1)
        assert last == pytest.approx((row + 1) * width / 5, abs=1)
        assert "*" * (last - first + 1) in line


def test_dots_are_finer_than_characters():
    lines = curve(np.array([1, 2]), np.array([0.0, 1.0]), 9, 3)
    drawn = cells(lines[:2])  # 2 x 6 characters, 8 x 12 dots
    dots = sum(bin(ord(x) - 0x2800).count("1") for line in drawn for x in line)
    assert 12 <= dots <= 24
    assert drawn[1][0] != chr(0x2800) and drawn[0][-1] != chr(0x2800)
    assert drawn[0][0] == drawn[1][-1] == chr(0x2800)


def test_a_peak_between_columns_is_seen():
    values = np.zeros(100_000)
    values[31_337] = 5.0
    lines = curve(np.arange(100_000), values, 40, 8, plain=True)
    assert lines[0].startswith("5 |")
    top = cells(lines[:1])[0]
    assert top.count("*") == 1
    assert top.index("*") == pytest.approx(0.31337 * len(top), abs=1)


@pytest.mark.parametrize("values", [[], [math.nan], [math.inf, -math.inf]])
def test_nothing_to_draw(values):
    values = np.array(values, float)
    assert curve(np.arange(len(values)), values, 40, 8) == ["no numbers yet"]


def test_what_is_not_finite_is_left_out():
    values = np.array([1.0, math.nan, 3.0, math.inf])
    lines = curve(np.array([1, 2, 3, 4]), values, 20, 4, plain=True)
    assert lines[0].startswith("3 |") and lines[-1].endswith("step 3")


@pytest.mark.parametrize("size", [(1, 1), (10, 2), (12, 40)])
@pytest.mark.parametrize("count", [1, 2, 50])
def test_any_size(size, count):
    values = np.full(count, 7.0) if count == 1 else np.arange(count) * 1e-9
    lines = curve(np.arange(count)[::-1].copy(), values, *size)
    assert 3 <= len(lines) <= max(size[1], 3)
    assert any(x != chr(0x2800) for line in cells(lines[:-1]) for x in line)
