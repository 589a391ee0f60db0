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
    assert page.shape[1] > gap + 3 * (96 + gap) + overlays.BAR + overlays.NUMBER
    red = (page == overlays.MARK).all(axis=-1)
    left = gap + 2 * (96 + gap)
    assert red[gap, left : left + 96].all() and not red[:, : left - 1].any()
    assert overlays.rows("x", [tile(False)] * 9, 4)[2].tiles[0:] and page.std() > 0


@pytest.mark.parametrize("most", [0.00078912, 1.5, 3e-12, -0.12345])
def test_nothing_is_drawn_beyond_its_place(most):
    """Neither a scale's longest number, nor a long note, nor words without a space."""
    words = ["W" * 90, "\u6f22" * 70, "end"]
    tiles = [Tile(np.full((2, 2), most), words, np.ones(3), "cosine 0.1234", True)] * 2
    pixels = np.zeros((8, 8, 3), np.uint8)
    page = np.asarray(overlays.sheet(pixels, overlays.rows("x", tiles), 96))
    gap, paper = overlays.GAP, overlays.PAPER
    assert (page[:, -gap:] == paper).all() and (page[-gap:] == paper).all()
    assert (page[:, -gap - 8 : -gap] != paper).any()
    for left in (gap + 96, 2 * (gap + 96) + gap - gap, 3 * (gap + 96)):
        between = page[gap + 96 + 30 :, left + 4 : left + gap - 4]
        assert (between == paper).all()


def test_a_scale_has_the_colours_of_a_map_over_grey():
    ramp = np.tile(np.linspace(0, 1, 64), (64, 1))
    tile = Tile(ramp, ["a"], np.ones(1))
    pixels = np.full((8, 8, 3), overlays.MIDDLE, np.uint8)
    row = overlays.Row("x", [tile], (0.0, float(overlays.enlarged(ramp, 64).max())))
    page = np.asarray(overlays.sheet(pixels, [row], 64)).astype(int)
    gap = overlays.GAP
    drawn = page[gap + 32, gap + 64 + gap :][:64]
    scale = page[gap : gap + 64, gap + 2 * (64 + gap) + 5]
    for colour in drawn[8:-8]:
        assert np.abs(scale - colour).sum(axis=-1).min() < 12
