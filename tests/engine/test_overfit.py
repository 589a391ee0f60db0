"""The overfit alarm's rule on sequences set by hand, and what a run says and keeps."""

import math

import numpy as np
import pytest

from clipjax.engine import evaluation, overfit, step_log
from clipjax.run_record import status
from clipjax.types import Metric
from run_tools import rows, stop_at, tiny, train

FALLING = [3.0 * 0.93**n for n in range(60)]
U_SHAPE = [2.0, 1.6, 1.4, 1.3, 1.25, 1.25, 1.3, 1.36, 1.43, 1.5, 1.58, 1.66, 1.75]
U_SHAPE += [1.84, 1.94]


def warnings(val, train=FALLING):
    """The evaluations, from 1, after which the alarm warns."""
    said = []
    alarm = overfit.OverfitAlarm({}, said.append)
    found = []
    for number, (loss, other) in enumerate(zip(val, train, strict=False), start=1):
        before = len(said)
        alarm.look(10 * number, {"val_loss": Metric(loss)}, other)
        found += [number] * (len(said) - before)
    return found, said


def test_a_rise_while_the_training_loss_falls_warns_once():
    found, said = warnings(U_SHAPE)
    assert found == [14]
    # Means of three: 1.2667 of evaluations 4 to 6, 1.75 of 12 to 14. 0.483 is above 6
    # times 0.07, the median change; 0.397, one evaluation earlier, is not.
    assert "1.267 at step 60, now 1.75;" in said[0]
    assert "augment" in said[0] and "optim.weight_decay" in said[0]
    assert "fewer epochs" in said[0] and "early_stop.patience" in said[0]
    assert warnings([*U_SHAPE, *np.linspace(2.0, 3.0, 20)])[0] == [14]


def test_a_new_lowest_begins_a_new_episode():
    again = [x - 1.0 for x in U_SHAPE]
    assert warnings([*U_SHAPE, *again])[0] == [14, 29]


def test_a_large_rise_needs_no_more_than_three_evaluations():
    assert warnings([2.0, 1.5, 1.4, 1.41, 1.39, 1.4, 2.0, 2.2, 2.3])[0] == [9]


@pytest.mark.parametrize(
    "train",
    [
        [1.0] * 60,  # it does not fall: the run has diverged, or has ended to learn
        [1.0 * 1.02**n for n in range(60)],
        [math.nan] * 60,
    ],
)
def test_the_training_loss_must_fall(train):
    assert warnings(U_SHAPE, train)[0] == []


@pytest.mark.parametrize(
    "val",
    [
        [3.0 * 0.95**n for n in range(60)],
        [3.0 * 0.9**n + 1.0 for n in range(60)],
        [1.0, 2.0] * 30,
        [1.0, 1.5, 2.0, 1.5] * 15,
        [2.0 + 0.01 * n for n in range(6)],  # a rise of 1.5 % of it
        [2.0, 1.9, 2.1, 2.4, 2.8],  # too few
        [math.nan] * 60,
    ],
)
def test_no_alarm(val):
    assert warnings(val)[0] == []


@pytest.mark.parametrize("noise", [0.01, 0.05, 0.2, 0.5])
def test_noisy_plateaus(noise):
    """Runs of 50 evaluations around one value: at most 2 of 100 warn."""
    draw = np.random.default_rng(3)
    start = 1.5 * 0.8 ** np.arange(50)
    runs = [2.0 + start + draw.normal(0, noise, 50) for _ in range(100)]
    assert sum(bool(warnings(run)[0]) for run in runs) <= 2


@pytest.mark.parametrize("noise", [0.0, 0.02, 0.05])
def test_noisy_rises(noise):
    """All warn, and none before it rises."""
    draw = np.random.default_rng(4)
    shape = 2.0 + 1.5 * 0.8 ** np.arange(50) + 0.05 * np.maximum(np.arange(50) - 20, 0)
    for _ in range(20):
        (first,) = warnings(shape + draw.normal(0, noise, 50))[0]
        assert 23 <= first <= 40


def test_what_is_kept_stays_small():
    seen = {}
    for number in range(200):
        seen = overfit.after(seen, number, 2.0 + 0.01 * (number % 7), 1.0)
    assert len(seen["recent"]) == 50


@pytest.mark.thorough
def test_a_run_warns_once_also_if_it_is_stopped_between(
    tmp_path, monkeypatch, on_one_device
):
    monkeypatch.setattr(
        evaluation.Evaluation,
        "run",
        lambda self, state: ({}, {"val_loss": Metric(U_SHAPE[int(state.step) - 1])}),
    )
    losses = iter(FALLING)
    monkeypatch.setattr(step_log.StepLog, "mean_loss", lambda self: next(losses))
    config = tiny(
        train__val_batches=1,
        train__steps=15,
        train__eval_every=1,
        checkpoint__every=100,
    )
    with monkeypatch.context() as patch:
        stop_at(patch, 9)
        assert "warning" not in train(config, tmp_path)
    said = train(config, tmp_path)
    assert said.count("the validation loss rises while the training loss falls") == 1
    assert "warning: at step 14 the validation loss rises" in said
    (warning,) = status.read(tmp_path).warnings
    assert "early_stop.patience" in warning.text


@pytest.mark.thorough
def test_the_mean_loss_is_that_of_the_steps_since_the_last_evaluation(
    tmp_path, monkeypatch, on_one_device
):
    means = []
    plain = step_log.StepLog.mean_loss

    def noted(self):
        means.append(plain(self))
        return means[-1]

    monkeypatch.setattr(step_log.StepLog, "mean_loss", noted)
    config = tiny(train__val_batches=1, train__eval_every=4, log__every=1)
    train(config, tmp_path)
    losses = dict(rows(tmp_path))
    parts = (1, 2, 3, 4), (5, 6, 7, 8)
    wanted = [np.mean([losses[step] for step in part]) for part in parts]
    np.testing.assert_allclose(means, wanted, rtol=1e-6)
