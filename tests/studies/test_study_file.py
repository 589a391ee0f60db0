"""Mistakes in a study's file: one line each, before anything runs."""

import pytest
from study_tools import CONFIG, METRIC, small

from clipjax.studies import (
    Screen,
    Tuning,
    choices,
    factor_range,
    factors,
    log_range,
    study_cells,
    study_file,
    uniform_range,
)
from clipjax.types import UserError

RATE = {"optim.lr": log_range(1e-4, 1e-2)}


@pytest.mark.parametrize(
    "changes, told",
    [
        ({"axes": {}}, "axes"),
        ({"axes": {"loss": "clip"}}, "loss='clip' has no values"),
        ({"axes": {"loss": ("clip", "clip")}}, "a value twice"),
        ({"axes": {"seed": (1, 2)}}, "seed is no axis"),
        ({"seeds": 0}, "seeds=0"),
        ({"seeds": (1, 1)}, "each given once"),
        ({"metric": ""}, "metric"),
        ({"mode": "best"}, "mode='best'"),
        ({"steps": 0}, "steps=0: must be a number above 0"),
        ({"epochs": -1.0}, "epochs=-1.0"),
        ({"steps": 5, "epochs": 1.0}, "steps and epochs"),
        ({"tuning": Tuning(RATE, trials=0)}, "tuning.trials=0: the budget"),
        ({"tuning": Tuning(RATE, trials=3, length=0.0)}, "tuning.length=0.0"),
        ({"tuning": Tuning(RATE, trials=3, method="gird")}, "tuning.method='gird'"),
        ({"tuning": Tuning(RATE, trials=3, pruner="asha")}, "tuning.pruner='asha'"),
        ({"tuning": Tuning(RATE, method="grid")}, "a grid takes choices"),
        ({"tuning": Tuning({}, trials=2)}, "tuning.space is empty"),
        ({"tuning": Tuning({"optim.lr": (1, 2)}, trials=2)}, "use log_range"),
        ({"screen": Screen(keep=1, seeds=3)}, "screen.keep=1"),
        ({"screen": Screen(keep=2, seeds=(1, 5))}, "screen.seeds: 1 is one of seeds"),
    ],
)
def test_what_cannot_be_is_told(changes, told):
    with pytest.raises(UserError, match=".") as error:
        study_file.check(small(**changes))
    assert told in str(error.value)


@pytest.mark.parametrize(
    "changes, told",
    [
        ({"axes": {"optim.learning_rate": (1, 2)}}, "Did you mean optim.lr?"),
        ({"axes": {"optim": ("adamw", "adamwx")}}, "adamwx"),
        ({"axes": {"optmi": ("adamw",)}}, "optmi"),
        ({"axes": {"loss": (1, 2)}}, "loss=1 chooses no component"),
        ({"axes": {"optim.lr": ("fast",)}}, "optim.lr='fast': must be of type float"),
        ({"axes": {"train": ("x",)}}, "train"),
        ({"options": {"data.batchsize": 3}}, "data.batch_size"),
        ({"metric": "retrieva/mean_recall@1"}, "no evaluator gives it: use retrieval/"),
        ({"metric": "accuracy"}, "no evaluator gives it"),
        ({"control": "loss=clip"}, "control='loss=clip' is no cell"),
        ({"screen": Screen(keep=4, seeds=2)}, "there are 4 cells in all"),
        (
            {"tuning": Tuning({"optim.lrr": choices(1)}, method="grid")},
            "tuning.space: unknown config key 'optim.lrr'",
        ),
        (
            {"tuning": Tuning({"optim=sgd": RATE}, trials=2)},
            "optim=adamw: tuning.space has no key of this cell",
        ),
        (
            {"tuning": Tuning({"loss.name": factors(1, 2)}, method="grid")},
            "loss.name='clip' is no number",
        ),
    ],
)
def test_what_the_config_lacks_is_told(changes, told):
    with pytest.raises(UserError) as error:
        study_cells.make(small(**changes))
    assert told in str(error.value) and "\n" not in str(error.value)


def test_cells_of_unequal_budget_are_refused():
    space = {
        "optim=sgd": {"optim.lr": choices(1, 2)},
        "optim=adamw": {"optim.lr": choices(1, 2, 3)},
    }
    study = small(tuning=Tuning(space, method="grid"))
    with pytest.raises(UserError, match="give every cell as many"):
        study_cells.check_budgets(study, study_cells.make(study))


def test_a_file_is_read_with_its_mistakes(tmp_path):
    place = tmp_path / "mine.py"
    with pytest.raises(UserError, match="there is no file"):
        study_file.load(place)
    place.write_text("x = 1 / 0\n")
    with pytest.raises(UserError, match="line 1: ZeroDivisionError"):
        study_file.load(place)
    place.write_text("def get_config(arg=None): pass\n")
    with pytest.raises(UserError, match="defines no get_study"):
        study_file.load(place)
    place.write_text("def get_study(): return {}\n")
    with pytest.raises(UserError, match="returned dict"):
        study_file.load(place)
    place.write_text(
        "from clipjax.studies import Study\n"
        "def get_study():\n"
        f"    return Study(config={CONFIG!r}, axes={{'loss': ('clip',)}},\n"
        f"                 metric={METRIC!r}, seeds=(3, 5))\n"
    )
    assert study_file.load(place).first_seeds == (3, 5)


def test_ranges_that_hold_nothing_are_refused():
    for make, ends in (
        (log_range, (0, 1)),
        (uniform_range, (2, 1)),
        (factor_range, (-1, 1)),
    ):
        with pytest.raises(UserError, match="a range from"):
            make(*ends)
    with pytest.raises(UserError, match="need a value"):
        choices()


def test_cells_are_all_combinations_with_names_and_configs():
    axes = {
        "optim": ("adamw", "sgd"),
        "recipe": {
            "short": {"train.steps": 4},
            "long": {"train.steps": 6, "schedule": "constant"},
        },
    }
    cells = study_cells.make(small(axes=axes, options={"optim.lr": 0.5}))
    assert [cell.folder for cell in cells] == [
        "adamw-short",
        "adamw-long",
        "sgd-short",
        "sgd-long",
    ]
    last = cells[-1]
    assert last.name == "optim=sgd, recipe=long"
    assert last.config.optim.lr == 0.5 and last.config.train.steps == 6
    assert last.config.optim.schedule.name == "constant"
    assert last.config.checkpoint.best == METRIC


def test_runs_get_seed_length_and_factors_of_their_own_rate():
    tuning = Tuning(
        {"optim.lr": factors(0.5, 2), "data.batch_size": factors(0.5, 1)},
        method="grid",
    )
    study = small(tuning=tuning, steps=30)
    cell = study_cells.make(study)[1]
    own = cell.config.optim.lr
    tuned = {"optim.lr": 2, "data.batch_size": 0.5}
    config = study_cells.run_config(study, cell, 7, tuned, length=0.1)
    assert config.seed == 7 and config.train.steps == 3
    assert config.optim.lr == pytest.approx(2 * own)
    assert config.data.batch_size == 8
    start = study_cells.start(study, cell, config, "runs/x")
    assert start.command.startswith(
        f"python -m clipjax.train --config {CONFIG}:loss=clip,optim=sgd --config."
    )
    assert "--config.seed=7" in start.command
