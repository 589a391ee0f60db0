"""`--find lr`: a range test by a run's own step, which changes no run."""

import io

import numpy as np
import pytest
from rich.console import Console

from clipjax import train as command
from clipjax.engine import find_rate
from clipjax.types import UserError
from run_tools import rows, saved, tiny, train

pytestmark = pytest.mark.usefixtures("on_one_device")

RATES = 1e-6, 10.0
# Of each kind: plain, with matrices, of a rate of its own, averaged, wrapped.
KINDS = ["adamw", "sgd", "muon", "prodigy", "schedule_free_adamw", "lookahead+adamw"]


def find(config, workdir, steps=60, rates=RATES):
    stream = io.StringIO()
    console = Console(file=stream)
    curve = find_rate.find(config, workdir, steps=steps, rates=rates, console=console)
    return curve, stream.getvalue()


def steady(lr, steps=60, words=""):
    """A run at one rate; warmup would hide what a rate does at first."""
    return tiny(
        f"schedule=constant{words}", train__steps=steps, log__every=1, optim__lr=lr
    )


def test_the_curve_is_that_of_the_runs_own_steps(tmp_path):
    """The first losses are a run's at the lowest rate, at which it hardly moves; a run
    that is there is not touched."""
    low = 1e-9
    train(steady(low, 8), tmp_path)
    before = saved(tmp_path)
    files = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    curve, said = find(steady(low, 8), tmp_path, steps=20, rates=(low, 1e-7))
    losses = [value for _, value in rows(tmp_path)]
    np.testing.assert_allclose(curve.losses[:8], losses, atol=1e-4)
    np.testing.assert_allclose(curve.rates, np.geomspace(low, 1e-7, 20), rtol=1e-4)
    assert saved(tmp_path) == before
    after = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    assert {p: after[p] for p in files} == files
    new = {p.relative_to(tmp_path).as_posix() for p in after.keys() - files.keys()}
    assert "find_lr/lr.csv" in new and new <= {"find_lr/lr.csv", "find_lr/lr.svg"}
    assert "no suggestion: the loss did not fall" in said


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS[:3])
def test_the_suggestion_trains(tmp_path, name):
    words = f",optim={name}"
    _, said = find(steady(1.0, words=words), tmp_path / "find", steps=100)
    rate = float(said.split("--config.optim.lr=")[1].split()[0])
    assert RATES[0] < rate < RATES[1]
    train(steady(rate, words=words), tmp_path / "found")
    losses = [value for _, value in rows(tmp_path / "found")]
    assert np.mean(losses[-10:]) < 0.85 * np.mean(losses[:10])


@pytest.mark.parametrize(
    "name",
    [
        *(pytest.param(name, marks=pytest.mark.thorough) for name in KINDS[:2]),
        *(pytest.param(name, marks=pytest.mark.slow) for name in KINDS[2:]),
    ],
)
def test_the_rate_reaches_every_optimizer(tmp_path, name):
    """At the low end nothing moves, at the high end everything does."""
    config = steady(1.0, words=f",optim={name}")
    curve, said = find(config, tmp_path, steps=24, rates=(1e-7, 3.0))
    assert f"up to 24 steps of {name} " in said
    smooth = curve.smooth
    still = np.ptp(smooth[:6])
    assert np.ptp(smooth[np.isfinite(smooth)]) > 3 * still
    assert (tmp_path / "find_lr" / "lr.csv").exists()
    assert not (tmp_path / "config.json").exists()


def test_evaluation_stops_and_averages_have_no_part():
    config = tiny(
        evals=True,
        train__eval_every=2,
        train__ema=0.9,
        early_stop__patience=1,
        checkpoint__best="val_loss",
    )
    made = find_rate._as_test(config, 50, 1e-3, 1.0)
    assert (made.train.steps, made.train.val_batches, made.train.ema) == (8, 0, 0.0)
    assert made.early_stop.patience == 0 and made.checkpoint.best == ""
    assert not made.evals and config.evals and config.train.ema == 0.9


@pytest.mark.parametrize(
    "text", ["1e-7", "1e-7,", "a,b", "1,1", "2,1", "0,1", "-1,1", "1,inf", "nan,1", ""]
)
def test_ranges_that_are_none(text):
    with pytest.raises(UserError, match=r"--find_range=.*: must be two rising rates"):
        find_rate.parse_range(text)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--find", "batch"], "--find=batch: only a learning rate is found"),
        (["--find", "lr", "--extend"], "--find lr trains no run and takes no --extend"),
        (["--find=lr", "--dry_run"], "takes no --dry_run"),
        (["--find_steps=50"], "--find_steps is of a range test: add --find lr"),
        (["--find=lr", "--find_range=1"], "--find_range=1: must be two rising rates"),
        (["--find=lr", "--find_steps=5"], "--find_steps=5: must be at least 20"),
    ],
)
def test_flags_that_do_not_go_together(tmp_path, flags, words):
    with pytest.raises(UserError) as error:
        command.main(
            ["train", "--config=tests/config_tiny.py", f"--workdir={tmp_path}", *flags]
        )
    assert words in str(error.value) and not list(tmp_path.iterdir())
