"""The curve of a learning-rate range test: what it suggests, says and writes."""

import csv
import math
import sys

import numpy as np
import pytest

from clipjax.engine import rate_curve, rising_rate
from clipjax.engine.rate_curve import Curve

RATES = np.geomspace(1e-7, 10, 97)  # 12 steps per factor of ten


def valley(noise=0.0, seed=0):
    """Flat up to 1e-5, falls by 1 per factor of ten down to 1e-2, then rises fast."""
    decades = np.log10(RATES)
    losses = 4.0 - np.clip(decades + 5, 0, 3) + 4 * np.clip(decades + 1.5, 0, None)
    return Curve(RATES, losses + np.random.default_rng(seed).normal(0, noise, 97))


def test_an_exponential_rise():
    rate = rising_rate.make(5.0, 7, 3, low=1e-4, high=1.0, steps=5)
    found = [float(rate(step)) for step in range(7)]
    np.testing.assert_allclose(found, [1e-4, 1e-3, 1e-2, 0.1, 1, 1, 1], rtol=1e-5)


def test_what_the_rules_suggest():
    found = rate_curve.suggestions(valley())
    assert list(found) == list(rate_curve.RULES)
    # The fall is from 1e-5 to 1e-2: its middle is 10**-3.5.
    assert found["valley"] == pytest.approx(10**-3.5, rel=0.35)
    assert 1e-5 < found["steepest"] < 1e-2
    # The loss is flat from 1e-2 to 10**-1.5; its first lowest counts.
    assert 0.9e-3 < found["tenth"] < 10**-2.4


@pytest.mark.parametrize("seed", range(5))
def test_noise_moves_them_little(seed):
    found = rate_curve.suggestions(valley(noise=0.1, seed=seed))
    assert found["valley"] == pytest.approx(10**-3.5, rel=2.0)
    assert 1e-5 < found["steepest"] < 10**-1.5
    assert 5e-4 < found["tenth"] < 10**-2.4


def test_the_smoothed_losses_are_means_of_seven():
    losses = np.array([7.0, 0, 0, 7, 0, 0, 0, math.nan])
    smooth = Curve(np.ones(8), losses).smooth
    np.testing.assert_allclose(smooth[:5], [14 / 4, 14 / 5, 14 / 6, 2, 7 / 6])
    assert smooth[-1] == 0


@pytest.mark.parametrize(
    "losses",
    [
        [2.0] * 97,
        np.linspace(2.0, 1.97, 97),  # by less than 2 % of it
        np.linspace(2.0, 5.0, 97),
        [2.0, 1.0, math.nan],
    ],
)
def test_a_loss_that_does_not_fall_suggests_nothing(losses):
    losses = np.array(losses)
    curve = Curve(RATES[: len(losses)], losses)
    assert rate_curve.suggestions(curve) == {}
    assert rate_curve.describe(curve, 0.1)[-1].startswith("no suggestion: the loss did")


@pytest.mark.parametrize(
    ("losses", "end"),
    [
        ([2.0, 1.9, 1.5, math.nan], True),
        ([2.0, 1.9, 1.5, math.inf], True),
        ([2.0] * 5 + [1.0] * 5 + [3.5] * 3, True),  # 2.5 above the lowest
        ([2.0] * 5 + [1.0] * 5 + [2.9] * 3, False),
        ([2.0] * 5 + [1.0] * 5 + [9.0], True),
        ([2.0] * 5 + [0.1] * 5 + [2.0] * 3, False),  # collapsed
        ([0.0, 0.0, 0.0, -1, -1, -1, 0.5, 0.5, 0.5], True),  # a loss without a floor
        ([2.0, 9.0], False),  # too few
    ],
)
def test_divergence(losses, end):
    assert rate_curve.has_diverged(losses) == end


def test_what_is_printed_and_written(tmp_path):
    curve = valley()._replace(diverged=True)
    lines = rate_curve.describe(curve, 0.0005)
    assert lines[0].split() == ["rate", "loss", "smoothed"]
    assert lines[1].split() == ["1.00e-07", "4.0000", "4.0000"]
    assert lines[12].split()[0] == "1.00e+01" and "at rate 1.00e+01" in lines[13]
    assert [line.split()[0] for line in lines[14:17]] == list(rate_curve.RULES)
    value = rate_curve.suggestions(curve)["valley"]
    last = f"suggested: --config.optim.lr={value:.2g} (the config has 0.0005)"
    assert lines[-1] == last
    rate_curve.write_csv(curve, tmp_path / "lr.csv")
    with (tmp_path / "lr.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 97 and list(rows[0]) == ["step", "rate", "loss", "smoothed"]
    assert [float(row["loss"]) for row in rows] == curve.losses.tolist()
    assert [int(row["step"]) for row in rows] == list(range(1, 98))


@pytest.mark.thorough
def test_the_drawing(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    curve = valley()
    curve.losses[-1] = math.nan
    rate_curve.draw(curve, tmp_path / "lr.svg")
    text = (tmp_path / "lr.svg").read_text()
    assert text.startswith("<?xml") and "<path" in text
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError):
        rate_curve.draw(curve, tmp_path / "again.svg")
