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


@pytest.mark.parametrize(
    ("values", "scale"),
    [([0.2, 0.5], (0.0, 0.5)), ([-0.1, 0.3], (-0.1, 0.3)), ([0.0, 0.0], (0.0, 0.0))],
)
def test_scales_begin_at_nothing(values, scale):
    assert overlays.scale_of(np.array(values)) == scale


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
