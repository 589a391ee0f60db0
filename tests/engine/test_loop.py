"""The loop: steps that are not finite, broken examples, evaluation, the best save."""

import io
import json
import math
import re

import jax
import numpy as np
import pytest
from checkpoint_helpers import bits
from rich.console import Console

import clipjax
from clipjax.engine import (
    assemble,
    evaluation,
    initial,
    resume,
    run,
)
from clipjax.engine.activity import Activity
from clipjax.engine.checkpoint.saves import Checkpoints
from clipjax.engine.checkpoint.step_folder import Store
from clipjax.engine.progress import Progress
from clipjax.run_record import metric_log
from clipjax.types import Metric, UserError
from run_tools import rows, saved, tiny, train

pytestmark = pytest.mark.usefixtures("on_one_device")

STEPS = 8


def eventful(**changes):
    """Broken examples, two bad steps in a row, averages, an evaluation each 2 steps."""
    return tiny(
        "data=parts.faulty_source,loss=parts.faulty_loss",
        evals=True,
        data__train__nth=10,
        loss__first=2,
        loss__last=3,
        train__ema=0.5,
        train__eval_every=2,
        train__val_batches=1,
        checkpoint__every=1,
        log__every=1,
        **changes,
    )


@pytest.fixture(scope="module")
def lively(tmp_path_factory):
    """(workdir, what was said, {step: parameters when they were given to be saved})."""
    workdir, given = tmp_path_factory.mktemp("lively"), {}
    save = Checkpoints.save

    def noting(self, step, state, *others):
        given[step] = {
            jax.tree_util.keystr(path): bits(leaf)
            for path, leaf in jax.tree_util.tree_flatten_with_path(state.params)[0]
        }
        save(self, step, state, *others)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpoints, "save", noting)
        said = train(eventful(checkpoint__keep=STEPS), workdir)
    return workdir, said, given


def params(workdir, step):
    found, _ = saved(workdir, str(step))
    start = "['params']"
    return {
        name.removeprefix(start): value
        for name, value in found.items()
        if name.startswith(start)
    }


def test_each_save_is_of_its_own_step(lively):
    """Later steps run, and take over the buffers, while a save is being written."""
    workdir, _, given = lively
    assert list(given) == list(range(1, STEPS + 1))
    for step, wanted in given.items():
        assert params(workdir, step) == wanted


def test_a_step_that_is_not_finite_changes_nothing(lively):
    workdir, _, _ = lively
    second, third, fourth, fifth = (saved(workdir, str(n))[0] for n in (2, 3, 4, 5))
    counts = {"['step']", "['bad_total']", "['bad_in_row']"}
    for other in (third, fourth):
        assert {n for n in other if other[n] != second[n]} == counts
    assert len({n for n in fifth if fifth[n] != fourth[n]} - counts) > 20


def test_steps_that_are_not_finite_are_counted(lively):
    workdir, said, _ = lively
    assert rows(workdir, "train/bad_total") == [
        *enumerate([0, 0, 1, 2, 2, 2, 2, 2], start=1)
    ]
    assert rows(workdir, "train/bad_in_row")[:5] == [
        (1, 0),
        (2, 0),
        (3, 1),
        (4, 2),
        (5, 0),
    ]
    loss = dict(rows(workdir))
    assert [step for step in loss if math.isnan(loss[step])] == [3, 4]
    assert "non-finite steps 2" in said


@pytest.mark.thorough
def test_too_many_in_a_row_end_the_run(tmp_path):
    config = eventful(train__max_bad_steps=2)
    with pytest.raises(UserError) as error:
        train(config, tmp_path)
    text = str(error.value)
    assert "not finite in 2 steps in a row, from step 3 up to step 4" in text
    assert "at step 3 the loss overflowed, with finite embeddings or logits" in text
    assert "parameters have not changed since step 2" in text
    assert "last checkpoint is step 3" in text and "loss nan" in text
    assert rows(tmp_path, "train/bad_in_row")[-1] == (4, 2)


def test_broken_examples_of_training_are_named_once_and_counted(lively):
    workdir, said, _ = lively
    named = re.findall(r"replaced a broken example, (.*): it was made so", said)
    assert named and len(named) == len(set(named))
    assert all(int(name.split()[-1]) % 10 == 0 for name in named)
    assert len(named) > 5 and rows(workdir, "train/replaced_total")[-1][1] > 5


def test_broken_examples_of_evaluation_are_left_out_and_counted(lively):
    _, said, _ = lively
    result = said.outcome.results["retrieval"]
    assert result.broken == 4  # 0, 10, 20, 30 of 32
    assert result.size.startswith("28 images")
    assert "4 unreadable examples left out" in said


def test_the_best_checkpoint_is_the_one_taken(lively):
    workdir, _, _ = lively
    primary = dict(rows(workdir, "eval/primary"))
    assert list(primary) == [2, 4, 6, 8]
    best = max(primary, key=lambda step: (primary[step], step))
    assert clipjax.load(workdir).step == best
    assert assemble.load_variables(workdir, "latest", ema=True)[1] == STEPS


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("higher", "mode", "best"),
    [(False, "", 2), (False, "max", 4)],
)
def test_the_best_checkpoint_is_kept(tmp_path, monkeypatch, higher, mode, best):
    """By what the metric says is better, unless the config says it."""
    values = iter([0.1, 0.4, 0.3, 0.2])
    monkeypatch.setattr(
        evaluation.Evaluation,
        "run",
        lambda *_: (
            {},
            {"retrieval/mean_recall@1": Metric(next(values), higher_is_better=higher)},
        ),
    )
    chosen = {
        "checkpoint__best": "retrieval/mean_recall@1",
        "checkpoint__best_mode": mode,
    }
    train(eventful(checkpoint__keep=1, **chosen), tmp_path)
    assert Checkpoints(tmp_path, read_only=True).steps() == [best, STEPS]
    assert clipjax.load(tmp_path).step == best


@pytest.mark.thorough
def test_the_best_checkpoint_is_that_of_the_first_named_evaluator(tmp_path):
    """Whatever its name's place in the alphabet, and by its name: a run whose first
    evaluator was another, as those saved without an order, is compared in one metric.
    """
    config = tiny("evals=zeroshot@scenes+retrieval", evals=True, train__steps=2)
    assert list(train(config, tmp_path).outcome.results) == ["zeroshot", "retrieval"]
    row = [*metric_log.rows(tmp_path)][-1]
    (first,) = {name for name in row if name == "eval/zeroshot/mean_top1"}
    assert row["eval/primary"] == row[first]
    store = Store(tmp_path, print)
    assert store.item(2, "meta")["best"] == ["zeroshot/mean_top1", "max"]
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved["evals"]["order"] == ["zeroshot", "retrieval"]


@pytest.fixture(scope="module")
def parts(lively):
    """The run's parts with its last state."""
    workdir, _, _ = lively
    made = run.prepare(resume.load_config(workdir), workdir, False)
    state, _, _ = Checkpoints(workdir, read_only=True).restore("latest", made.template)
    return made, state


def evaluate(made, state):
    progress = Progress(Activity(Console(file=io.StringIO())), STEPS, 0, 16)
    found = evaluation.Evaluation(made, progress).run(state)[1]
    return {name: metric.value for name, metric in found.items()}


def test_the_moving_average_is_evaluated(lively, parts):
    """Again from the saved state, and with the averages in the parameters' place."""
    workdir, _, _ = lively
    made, state = parts
    logged = {
        name.removeprefix("eval/"): value
        for name, value in [*metric_log.rows(workdir)][-1].items()
        if name.startswith("eval/")
    }
    assert {"val_loss", "primary", "retrieval/mean_recall@1"} <= logged.keys()
    assert evaluate(made, state) == logged
    assert evaluate(made, state.replace(**state.ema, ema={})) == logged
    assert evaluate(made, state.replace(ema={}))["val_loss"] != logged["val_loss"]


def test_the_library_encodes_as_the_evaluators_do(lively, parts):
    workdir, _, _ = lively
    made, _ = parts
    loaded = clipjax.load(workdir)
    variables, step = assemble.load_variables(workdir, "best", ema=True)
    plain, _ = assemble.load_variables(workdir, "best", ema=False)
    assert loaded.step == step
    encoder = assemble.encoder(made.config, made.model, made.tokenizer, made.mesh)
    examples = [assemble.source(made.config.data.eval, "")[i] for i in (1, 2, 3)]
    images = [example.image for example in examples]
    texts = [example.captions[0] for example in examples]
    ours = loaded.encode_image(images)
    # Padded to another number of rows: equal but for the order of sums.
    encoded = encoder.images(variables, images).embed
    np.testing.assert_allclose(ours, encoded, atol=1e-6)
    assert not np.allclose(ours, encoder.images(plain, images).embed, atol=1e-4)
    np.testing.assert_allclose(
        loaded.encode_text(texts), encoder.texts(variables, texts), atol=1e-6
    )
    np.testing.assert_allclose(np.linalg.norm(ours, axis=1), 1, rtol=1e-5)


def test_a_save_with_numbers_that_are_not_finite_is_not_loaded(lively, monkeypatch):
    restore = Checkpoints.restore

    def poisoned(self, which, *more):
        state, meta, step = restore(self, which, *more)
        table = np.array(state["params"]["text"]["token_embedding"])
        table[:2, 0] = np.nan, np.inf
        state["params"]["text"]["token_embedding"] = table
        return state, meta, step

    monkeypatch.setattr(Checkpoints, "restore", poisoned)
    with pytest.raises(
        UserError, match=r"params/text/token_embedding holds 2 of [\d,]+"
    ):
        assemble.load_variables(lively[0], "best", ema=False)


def test_averages_begin_at_the_parameters_of_another_run(lively, parts):
    made, state = parts
    config = made.config.copy_and_resolve_references()
    config.init_from = str(lively[0])
    given = initial.read("init_from", config, made.model, made.tokenizer, print)
    state = initial.take(given, state, made.template, print)
    for ours, average in zip(
        jax.tree.leaves(state.params), jax.tree.leaves(state.ema["params"]), strict=True
    ):
        assert bits(ours) == bits(average)
        # Or donation would give one buffer away twice.
        assert ours.unsafe_buffer_pointer() != average.unsafe_buffer_pointer()


def test_evaluation_data_without_captions_are_known_at_start(tmp_path):
    config = tiny("eval_data=parts.faulty_source", data__eval__captions=False)
    config.train.val_batches = 1
    with pytest.raises(UserError, match="no captions.*val_batches=0"):
        train(config, tmp_path)


def test_what_is_printed_into_a_pipe(lively):
    workdir, said, _ = lively
    lines = said.splitlines()
    assert "\x1b" not in said
    # Between them a slow machine tells what takes so long.
    assert "parameters, 160 training examples, 8 steps of 16 (0.8 epochs)" in said
    assert f"starting from scratch in {workdir}" in lines
    final = next(line for line in lines if line.startswith("step 8/8"))
    numbers = r"step 8/8  loss \d\.\d{4} \(chance 2\.\d{4}\)  "
    numbers += r"in-batch accuracy \d+\.\d% \(chance 6\.2%\)  "
    assert re.match(numbers, final) and "left" not in final
    evaluated = [line for line in lines if line.startswith("evaluated step")]
    assert len(evaluated) == 4
    assert re.search(
        r"evaluated step 8 in 0:\d\d: validation loss \d\.\d{4}, retrieval "
        r"mean_recall@1 "
        r"\d+\.\d\d % \(chance 3\.57 %\)",
        evaluated[-1],
    )


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr("time.monotonic", made)
    return made


def values(progress, step):
    return {"train/loss": 1.0, "train/bad_total": 0.0, **progress.rates(step)}


def test_lines_in_a_pipe_grow_rare(clock):
    stream = io.StringIO()
    progress = Progress(Activity(Console(file=stream)), 10_000, 0, 16)
    clock.now = 1
    progress.first_step(1)
    for step in range(2, 10_001):
        clock.now += 1
        progress.show(step, values(progress, step), final=step == 10_000)
    lines = stream.getvalue().splitlines()
    steps = [int(line.split()[1].partition("/")[0]) for line in lines[1:]]
    assert steps[:3] == [2, 7, 12] and steps[-1] == 10_000
    gaps = np.diff(steps[:-1])
    assert max(gaps) == 60 and gaps[-1] == 60
    assert len(steps) < 300


def test_rates_leave_out_compilation_and_evaluation(clock):
    stream = io.StringIO()
    progress = Progress(Activity(Console(file=stream)), 100, 0, 16)
    clock.now = 50
    progress.first_step(1)
    assert "first step after 0:50" in stream.getvalue()
    assert progress.rates(1) == {}
    clock.now = 54
    progress.pause(2)
    progress.wait(0.5)
    assert progress.rates(3) == {
        "time/images_per_second": 16.0,
        "time/data_wait_share": 0.25,
    }
    progress.show(3, values(progress, 3))
    assert stream.getvalue().endswith("left 1:37\n")


def test_a_terminal_keeps_the_last_line():
    stream = io.StringIO()
    with Activity(Console(file=stream, force_terminal=True)) as activity:
        progress = Progress(activity, 9, 0, 16)
        with activity.doing(progress):
            progress.show(9, {"train/loss": 1.0, "train/bad_total": 0.0}, final=True)
    text = stream.getvalue()
    assert re.search(r"step 9/9  loss 1\.0000 *\r?\n", text)
    assert text.rindex("\x1b[?25h") > text.index("\x1b[?25l")  # the cursor is back


@pytest.mark.thorough
def test_without_evaluators_the_validation_loss_tells_the_best(tmp_path):
    config = tiny(train__val_batches=1, train__steps=2, train__eval_every=1)
    train(config, tmp_path)
    losses = dict(rows(tmp_path, "eval/val_loss"))
    assert Store(tmp_path, print).best_metric() == ("val_loss", "min")
    assert clipjax.load(tmp_path).step == min(losses, key=losses.__getitem__)
