"""Pictures of maps: their colours say their numbers, and a sheet has every part."""

import numpy as np
import pytest

from clipjax.saliency import overlays
from clipjax.saliency.overlays import Tile


def luminance(colours):
    return colours.astype(float) @ [0.2126, 0.7152, 0.0722]


def test_colours_grow_lighter():
    lightness = luminance(overlays.colours(np.linspace(0, 1, 200)))
    assert (np.diff(lightness) > -0.6).all() and lightness[-1] - lightness[0] > 200
    ends = overlays.colours(np.array([-1.0, 0.0, 1.0, 2.0]))
    assert (ends[0] == ends[1]).all() and (ends[2] == ends[3]).all()


def test_heat_lies_where_the_map_is():
    values = np.zeros((4, 4), np.float32)
    values[0, 3] = 2.0
    pixels = np.full((8, 8, 3), 100, np.uint8)
    found = np.asarray(overlays.overlay(pixels, values, (0.0, 2.0), 64)).astype(int)
    assert found.shape == (64, 64, 3)
    spread = found.max(axis=-1) - found.min(axis=-1)  # grey where nothing is
    assert spread[8, 56] > 60 and spread[40:, :40].max() <= 1
    # On a scale of ten times as much it hardly shows.
    faint = np.asarray(overlays.overlay(pixels, values, (0.0, 20.0), 64)).astype(int)
    assert np.abs(faint - found)[8, 56].max() > 50
    flat = overlays.overlay(pixels, 0 * values, (0.0, 0.0), 64)
    assert np.asarray(flat).std() < 1


def test_scales_begin_at_nothing():
    flat, peak = np.full((3, 3), 0.2), np.eye(3)
    assert overlays.scale_of([flat]) == (0.0, 0.2)
    assert overlays.scale_of([0 * flat]) == (0.0, 0.0)
    low, high = overlays.scale_of([flat, peak - 0.5])
    assert low == pytest.approx(-0.5, abs=0.02) and 0.1 < high < 0.3  # spread out


@pytest.mark.parametrize(("rows", "columns"), [(6, 6), (8, 5)])
def test_an_enlarged_map_keeps_its_sum_and_middle(rows, columns):
    """Against sums: of a place amid others, half a place wide to each side."""
    values = np.zeros((rows, columns))
    values[2:4, 1] = 1.0  # the middle lies between two places
    large = overlays.enlarged(values, 240)
    assert np.unravel_index(large.argmax(), large.shape)[0] in (
        3 * 240 // rows - 1,
        3 * 240 // rows,
    )
    at = np.arange(240) + 0.5
    total = large.sum()
    assert abs(total / 240**2 * rows * columns - 2) < 0.1
    middle = (large.sum(axis=1) @ at / total, large.sum(axis=0) @ at / total)
    np.testing.assert_allclose(middle, (720 / rows, 360 / columns), rtol=0.05)
    np.testing.assert_array_equal(
        overlays.enlarged(0 * values - 1, 8), -np.ones((8, 8))
    )


def test_a_sheet_marks_the_wrong_caption():
    draw = np.random.default_rng(0)
    words = "a very large red star above a small blue ring on a grey background".split()

    def tile(wrong):
        shares = np.linspace(0, 1, len(words))
        return Tile(draw.random((3, 3)), words, shares, "cosine 0.1", wrong)

    pixels = draw.integers(0, 256, (8, 8, 3), np.uint8)
    rows = overlays.rows("grad_eclip", [tile(False), tile(True)])
    page = np.asarray(overlays.sheet(pixels, rows, 96))
    gap = overlays.GAP
    assert page.shape[1] == gap + 3 * (96 + gap) + overlays.BAR + overlays.NUMBERS
    red = (page == overlays.MARK).all(axis=-1)
    left = gap + 2 * (96 + gap)
    assert red[gap, left : left + 96].all() and not red[:, : left - 1].any()
    assert overlays.rows("x", [tile(False)] * 9, 4)[2].tiles[0:] and page.std() > 0
