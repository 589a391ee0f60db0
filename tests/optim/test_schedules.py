"""Schedules against PyTorch's rates, published ones and hand-computed ones."""

import json
import pathlib

import numpy as np
import pytest

from clipjax import config, config_check, registry
from clipjax.optim import schedules
from clipjax.types import UserError

GOLDEN = json.loads((pathlib.Path(__file__).parent / "torch_steps.json").read_text())
EPOCH = 5


@pytest.mark.parametrize("name", GOLDEN["rates"])
def test_rates_equal_torch(name):
    """Written by tests/parity/make_optimizer_goldens.py."""
    golden = GOLDEN["rates"][name]
    options = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in golden["options"].items()
    }
    expected = golden["rates"]
    rate = registry.load("schedule", name)(2.0, len(expected), EPOCH, **options)
    found = [float(rate(step)) for step in range(len(expected))]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_cosine_per_epoch_is_a_published_row():
    # Of Siddharth-magesh/ai_research_learning: rates x 1e-4 in epochs 1, 5, 10, ... of
    # CosineAnnealingLR(T_max=50, eta_min=1e-6) stepped once an epoch.
    rate = schedules.cosine(1e-4, 50 * 16, 16, floor=1e-6, per_epoch=True)
    epochs = [1, 5, 10, 15, 20, 25, 30, 35, 40, 44, 50]
    row = [1.0, 0.984, 0.923, 0.821, 0.687, 0.536, 0.382, 0.240, 0.124, 0.057, 0.011]
    for offset in (0, 15):
        got = [float(rate((epoch - 1) * 16 + offset)) * 1e4 for epoch in epochs]
        np.testing.assert_allclose(got, row, atol=6e-4)


def test_cosine_per_epoch_is_another_published_row():
    # history_flickr8k.json of intrinsicD/DeepLearning2: lr .01, T=30, eta_min 1e-4,
    # after epochs 1-3.
    rate = schedules.cosine(0.01, 30 * 469, 469, floor=1e-4, per_epoch=True)
    got = [float(rate(epoch * 469)) for epoch in (1, 2, 3)]
    np.testing.assert_allclose(got, [0.00997288338, 0.00989183062, 0.00975772976], 1e-5)


@pytest.mark.parametrize("name", sorted({*registry.names("schedule")} - {"one_cycle"}))
def test_warmup_rises_to_the_peak(name):
    rate = getattr(schedules, name)(2.0, 100, 10, warmup=10.0)
    np.testing.assert_allclose(
        [float(rate(s)) for s in range(10)], np.arange(1, 11) / 5
    )
    assert float(rate(10)) == pytest.approx(2.0)
    share = getattr(schedules, name)(2.0, 100, 10, warmup=0.1)
    assert float(share(4)) == float(rate(4))


def test_floors_and_ends():
    assert float(schedules.linear(2.0, 100, 10, floor=0.5)(50)) == pytest.approx(1.25)
    assert float(schedules.linear(2.0, 100, 10, floor=0.5)(100)) == pytest.approx(0.5)
    assert float(schedules.cosine(2.0, 100, 10, floor=0.5)(100)) == pytest.approx(0.5)
    assert float(schedules.constant(2.0, 100, 10)(99)) == 2.0


@pytest.mark.parametrize("option", ["floor", "warmup_start"])
def test_rates_below_zero_are_refused(option):
    for name in registry.names("schedule"):
        make = registry.load("schedule", name)
        if option in registry.options(make):
            with pytest.raises(UserError, match=f"^optim.schedule.{option}=-1.0: must"):
                make(1.0, 10, 5, **{option: -1.0})


def test_warmup_longer_than_the_run_is_an_error():
    with pytest.raises(UserError, match="do not fit"):
        schedules.cosine(1.0, 10, 5, warmup=10.0)


SHORT = 20


def rates(name, steps=SHORT, **options):
    rate = registry.load("schedule", name)(1.0, SHORT, EPOCH, **options)
    return np.asarray([float(rate(step)) for step in range(steps + 1)])


def test_warmup_stable_decay_by_hand():
    found = rates("wsd", warmup=4.0, cooldown=0.4, floor=0.2)
    np.testing.assert_allclose(found[:4], [0.25, 0.5, 0.75, 1.0])
    np.testing.assert_allclose(found[4:13], 1.0)
    np.testing.assert_allclose(found[12:], 1 - 0.1 * np.arange(9), rtol=1e-6)
    half = rates("wsd", warmup=0.0, cooldown=8.0, form="sqrt")[14]
    assert half == pytest.approx(1 - np.sqrt(0.25), rel=1e-6)
    half = rates("wsd", warmup=0.0, cooldown=8.0, form="cosine")[14]
    assert half == pytest.approx(0.5 + 0.5 * np.cos(np.pi / 4), rel=1e-6)


def test_inverse_root_by_hand():
    found = rates("inverse_sqrt", warmup=5.0, timescale=5.0)
    # As "Attention is all you need": the root of warmup over step.
    np.testing.assert_allclose(found[5:], np.sqrt(5 / np.arange(5, 21)), rtol=1e-6)
    cooled = rates("inverse_sqrt", warmup=5.0, timescale=5.0, cooldown=4.0)
    np.testing.assert_allclose(cooled[:17], found[:17], rtol=1e-6)
    np.testing.assert_allclose(
        cooled[16:], found[16:] * np.asarray([1, 0.75, 0.5, 0.25, 0]), rtol=1e-6
    )


@pytest.mark.thorough
def test_restarts_shrink_and_start_after_warmup():
    found = rates("warm_restarts", warmup=2.0, cycle=6.0, shrink=0.5)
    np.testing.assert_allclose(found[[2, 8, 14]], [1.0, 0.5, 0.25], rtol=1e-6)
    assert found[5] == pytest.approx(0.5, rel=1e-6)
    many = rates("warm_restarts", cycle=1.0, growth=1.5)
    # Cycles of 1, 2, 2, 3, 5, ... steps.
    np.testing.assert_allclose(many[[0, 1, 3, 5, 8]], 1.0, rtol=1e-6)


@pytest.mark.thorough
def test_falls_count_from_the_runs_start():
    found = rates("multistep", warmup=4.0, milestones=(0.5, 15.0), factor=0.5)
    np.testing.assert_allclose(found[[3, 9, 10, 14, 15]], [1, 1, 0.5, 0.5, 0.25])


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("step", {"every": 20.0}, r"every=20.0: 20 steps of every do not fit into"),
        ("step", {"every": 0.001}, r"every=0.001: 0 steps of every are too few"),
        ("multistep", {"milestones": (0.5, 30.0)}, r"30 steps of milestones do not"),
        (
            "multistep",
            {"milestones": (2.0,), "warmup": 5.0},
            r"milestones=\(2.0,\): step 2 is in the warmup of 5 steps",
        ),
        ("wsd", {"cooldown": 18.0, "warmup": 4.0}, r"18 steps of cooldown do not fit"),
        ("wsd", {"form": "square"}, r"form='square': must be one of linear, cosine"),
        ("one_cycle", {"warmup": 20.0}, r"20 steps of warmup do not fit"),
        ("inverse_sqrt", {"cooldown": 30.0}, r"30 steps of cooldown do not fit"),
        ("inverse_sqrt", {"timescale": 0.0}, r"0 steps of timescale are too few"),
        ("warm_restarts", {"cycle": 21.0}, r"21 steps of cycle do not fit"),
        ("warm_restarts", {"growth": 0.5}, r"growth=0.5: must be at least 1"),
        ("exponential", {"end": 0.0}, r"end=0.0: must be above"),
        ("polynomial", {"power": -1.0}, r"power=-1.0: must be a finite number of at"),
    ],
)
def test_options_that_do_not_fit_the_run(name, options, message):
    with pytest.raises(UserError, match=f"^optim.schedule..*{message}") as error:
        rates(name, **options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", registry.names("schedule"))
def test_a_config_holds_every_schedule(name):
    """Values of a saved config, tuples among them, give the same schedule."""
    made = config.base(f"schedule={name}")
    again = config_check.from_dict(config_check.to_dict(made))
    assert config_check.flat(made) == config_check.flat(again)
    assert registry.load("schedule", name) is getattr(schedules, name)
    rate = config.create("schedule", again.optim.schedule, 1.0, 1000, 10)
    found = np.asarray([rate(step) for step in (0, 99, 500, 999)])
    assert (found >= 0).all() and found.max() <= 1.0
