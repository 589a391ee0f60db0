"""Early stopping: by which evaluations, at which step, and what is said and kept."""

import math
import signal

import pytest
from marks import mostly

from clipjax import config_check
from clipjax.engine import early_stop, evaluation
from clipjax.engine.checkpoint.saves import Checkpoints
from clipjax.run_record import status
from clipjax.types import Metric, UserError
from run_tools import rows, stop_at, tiny, train

NAME = "retrieval/mean_recall@1"


def changes(**options):
    return {f"early_stop__{key}": value for key, value in options.items()}


def stops_at(values, higher=True, seen=None, first=1, **options):
    """The number of the evaluation that ends the run, and why; (0, "") if none."""
    config, seen = tiny(**changes(**options)), seen or {}
    for number, value in enumerate(values, start=first):
        metrics = {NAME: Metric(value, higher_is_better=higher)}
        seen = early_stop.after(config, seen, number, NAME, metrics)
        if why := early_stop.reason(config, seen):
            return number, why
    return 0, ""


NAN = math.nan


@pytest.mark.parametrize(
    ("values", "options", "stop"),
    [
        ([1, 2, 3, 3, 2], {"patience": 2}, 5),  # an equal value is not better
        ([1, 2, 1, 3, 1, 1, 4], {"patience": 2}, 6),  # counted anew from each better
        ([1, 2, 3, 4], {"patience": 1}, 0),
        ([1, 2, 3, 4], {"patience": 1, "higher": False}, 2),
        ([4, 3, 2, 5, 6], {"patience": 2, "higher": False}, 5),
        ([1, 1.1, 1.2, 1.3], {"patience": 2, "min_delta": 0.25}, 3),
        ([1, 1.1, 1.2, 1.3], {"patience": 3, "min_delta": 0.25}, 0),  # 1.3 is 0.3 above
        ([0.7, 0.79, 0.81], {"threshold": 0.8}, 3),
        ([0.7, 0.8], {"threshold": 0.8}, 2),
        ([3, 2, 1.5, 1], {"threshold": 1.5, "higher": False}, 3),
        ([-3, -2, -1], {"threshold": -2.0}, 2),
        ([0.9, 0.1], {"threshold": 0.95, "patience": 1}, 2),
        ([NAN, 1, NAN, NAN, 2], {"patience": 2}, 4),
        ([NAN, NAN, NAN], {"patience": 3}, 3),
        ([math.inf, NAN], {"threshold": 0.8}, 0),
        ([1, 0, 0, 0], {}, 0),
    ],
)
def test_the_evaluation_that_ends_a_run(values, options, stop):
    assert stops_at(values, **options)[0] == stop


def test_why_in_one_line():
    _, why = stops_at([0.25, 0.5, 0.4, 0.3], patience=2)
    assert why == f"{NAME} was not better than 0.5 of step 2 in 2 evaluations"
    _, why = stops_at([0.25, 0.85], threshold=0.8)
    assert why == f"{NAME} 0.85 has reached early_stop.threshold=0.8"
    _, why = stops_at([NAN], patience=1)
    assert "never finite in 1 evaluation" in why and not why.endswith("s")


def test_another_metric_begins_anew():
    config = tiny(**changes(patience=1))
    seen = {"metric": "val_loss", "best_step": 1, "best": 9.0, "waited": 0}
    metrics = {NAME: Metric(0.1)}
    seen = early_stop.after(config, seen, 2, NAME, metrics)
    assert (seen["best"], seen["best_step"], seen["waited"]) == (0.1, 2, 0)
    chosen = tiny(evals=True, **changes(patience=1, metric="val_loss"))
    late = early_stop.after(chosen, seen, 3, NAME, metrics)
    assert early_stop.reason(config, late) and not early_stop.reason(chosen, late)


def test_the_first_process_decides(monkeypatch):
    first = {"metric": NAME, "waited": 1, "mode": "max", "value": 0.0, "best": 1.0}
    monkeypatch.setattr(early_stop, "on_primary", lambda act: {**first, "best_step": 1})
    early = early_stop.EarlyStop(tiny(**changes(patience=1)), {}, print)
    early.look(2, {NAME: Metric(2.0)}, NAME)  # here it has never been as good
    assert early.reason.startswith(f"{NAME} was not better than 1 of step 1")


def test_a_metric_that_the_evaluations_lack():
    said = []
    config = tiny(evals=True, **changes(patience=1, metric="retrieval/unheard"))
    early = early_stop.EarlyStop(config, {}, said.append)
    early.look(2, {NAME: Metric(2.0)}, NAME)
    assert early.reason == "" and early.seen == {}
    assert said == [
        "early_stop.metric='retrieval/unheard': no evaluator gives it, so the run "
        f"cannot stop early. There are {NAME}"
    ]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"patience": 0, "metric": "val_loss"}, "set early_stop.patience"),
        ({"patience": 0, "min_delta": 0.1}, "early_stop.min_delta=0.1"),
        ({"patience": -1}, "early_stop.patience=-1: must be at least 0"),
        ({"patience": 2, "metric": "zeroshot/top1"}, "must be val_loss or retrieval/"),
        ({"patience": 2, "train__eval_every": 0}, "set the steps between evaluations"),
        ({"threshold": 0.5, "train__eval_every": 0}, "train.eval_every=0"),
        ({"threshold": math.nan}, "must be a finite number"),
    ],
)
def test_what_cannot_end_a_run_is_one_line(options, words):
    every = options.pop("train__eval_every", 2)
    config = tiny(evals=True, train__eval_every=every, **changes(**options))
    with pytest.raises(UserError) as error:
        config_check.validate(config)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_nothing_is_evaluated():
    config = tiny(train__eval_every=2, **changes(patience=2))
    with pytest.raises(UserError, match="no evaluators and no validation loss"):
        config_check.validate(config)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"early_stop__metric": "retrieval/mean_recal@1"},
            "early_stop.metric='retrieval/mean_recal@1': retrieval gives no metric "
            "'mean_recal@1'. Did you mean 'mean_recall@1'",
        ),
        ({"train__eval_every": 8}, "a run of 8 steps is evaluated only at its end"),
    ],
)
def test_what_the_data_and_evaluators_tell_comes_before_compiling(
    tmp_path, options, words
):
    options = {"train__eval_every": 2, "early_stop__patience": 2, **options}
    with pytest.raises(UserError) as error:
        train(tiny(evals=True, **options), tmp_path / "run")
    assert words in str(error.value) and not (tmp_path / "run").exists()


def test_a_run_of_before_has_no_early_stop():
    plain = config_check.to_dict(tiny())
    del plain["early_stop"]
    assert not early_stop.is_on(config_check.from_dict(plain))


# Runs whose evaluations are set by hand. Steps 2, 4, 6, ... have one.
VALUES = {2: 0.1, 4: 0.4, 6: 0.3, 8: 0.2, 10: 0.1, 12: 0.5}


@pytest.fixture
def set_values(monkeypatch, on_one_device):
    monkeypatch.setattr(
        evaluation.Evaluation,
        "run",
        lambda self, state: ({}, {NAME: Metric(VALUES[int(state.step)])}),
    )


def patient(patience=2, **more):
    return tiny(
        evals=True,
        train__steps=12,
        train__eval_every=2,
        checkpoint__keep=1,
        checkpoint__every=100,
        early_stop__metric=NAME,
        early_stop__patience=patience,
        **more,
    )


@pytest.mark.thorough
def test_a_run_ends_early(tmp_path, set_values):
    said = train(patient(), tmp_path)
    why = f"{NAME} was not better than 0.4 of step 4 in 2 evaluations"
    assert f"stopped early at step 8 of 12: {why}" in said
    outcome = said.outcome
    assert (outcome.step, outcome.total_steps, outcome.stopped_by) == (8, 12, 0)
    assert (outcome.stopped_early, outcome.best) == (why, 4)
    found = status.read(tmp_path)
    assert (found.state, found.reason, found.step) == ("finished", why, 8)
    assert found.stopped_early and found.total_steps == 12
    assert Checkpoints(tmp_path, read_only=True).steps() == [4, 8]
    before = rows(tmp_path, f"eval/{NAME}")
    assert [step for step, _ in before] == [2, 4, 6, 8]
    # The same command has nothing to do, and says what would let it go on.
    said = train(patient(), tmp_path)
    assert f"complete: {tmp_path} stopped early at step 8 of 12: {why}." in said
    assert said.outcome.stopped_early == why and said.outcome.best == 4
    assert status.read(tmp_path).reason == why
    # More patience goes on, and counts what it waited already.
    said = train(patient(3), tmp_path)
    assert said.resumed == 8 and said.outcome.step == 10
    said = train(patient(4), tmp_path)
    assert said.outcome.step == 12 and said.outcome.stopped_early == ""
    assert status.read(tmp_path).reason == "" and said.outcome.best == 12
    assert rows(tmp_path, f"eval/{NAME}") == list(VALUES.items())


class Killed(Exception):
    pass


def kill_at(patch, step):
    """The process ends once this step is saved, before anything after it."""
    save = Checkpoints.save

    def killing(self, now, *others):
        save(self, now, *others)
        if now == step:
            raise Killed

    patch.setattr(Checkpoints, "save", killing)


@pytest.mark.parametrize(
    ("step", "how"),
    mostly(
        [(5, "signal"), (6, "signal"), (6, "kill"), (8, "kill"), (8, "signal")],
        [(6, "signal")],
    ),
)
def test_a_resumed_run_stops_at_the_same_step(
    tmp_path, monkeypatch, set_values, step, how
):
    """Also one whose signal comes just before an evaluation."""
    with monkeypatch.context() as patch:
        if how == "signal":
            stop_at(patch, step)
            assert train(patient(), tmp_path).outcome.stopped_by == signal.SIGTERM
        else:
            kill_at(patch, step)
            with pytest.raises(Killed):
                train(patient(), tmp_path)
    assert Checkpoints(tmp_path, read_only=True).steps()[-1] == step
    said = train(patient(), tmp_path)
    assert (said.outcome.step, said.outcome.best) == (8, 4)
    assert said.outcome.stopped_early.endswith("of step 4 in 2 evaluations")
    assert rows(tmp_path, f"eval/{NAME}") == [*VALUES.items()][:4]


@pytest.mark.thorough
def test_a_real_loss_and_the_checkpoint_it_keeps(tmp_path, on_one_device):
    """The first validation loss is far below the threshold."""
    config = tiny(
        evals=True,
        train__eval_every=3,
        early_stop__metric="val_loss",
        early_stop__threshold=100.0,
    )
    said = train(config, tmp_path)
    assert said.outcome.step == 3 and said.outcome.best_metric == "val_loss"
    assert "has reached early_stop.threshold=100" in said.outcome.stopped_early
    assert (tmp_path / "evaluations" / "3" / "results.json").exists()
