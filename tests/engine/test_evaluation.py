"""Evaluators inside training: one of a user's own, for which less is better."""

import dataclasses

import pytest
from parts import angle_evaluator

import clipjax
from clipjax import evaluate, identity, results
from clipjax.engine.checkpoint.saves import Checkpoints
from clipjax.engine.checkpoint.step_folder import Store
from run_tools import rows, stop_at, tiny, train

pytestmark = pytest.mark.usefixtures("on_one_device")

METRIC = "angle_evaluator/mean"


def config(best="", **changes):
    return tiny(
        "evals=parts.angle_evaluator",
        evals=True,
        checkpoint__best=best,
        checkpoint__keep=1,
        checkpoint__every=1,
        train__steps=8,
        train__val_batches=0,
        **{"train__eval_every": 2, **changes},
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("angle")
    return workdir, train(config(), workdir)


def smallest(workdir):
    angles = dict(rows(workdir, f"eval/{METRIC}"))
    best = min(angles, key=lambda step: (angles[step], -step))
    assert best != max(angles, key=lambda step: (angles[step], step))
    return best


@pytest.mark.thorough
def test_the_best_checkpoint_has_the_smallest(trained):
    workdir, said = trained
    best = smallest(workdir)
    assert clipjax.load(workdir).step == best
    assert Checkpoints(workdir, read_only=True).steps() == sorted({best, 8})
    assert Store(workdir, print).best_metric() == (METRIC, "min")
    assert f"{METRIC.replace('/', ' ')} " in said
    lines = said.splitlines()  # a slow machine tells more of what takes long
    evaluated = next(line for line in lines if line.startswith("evaluated step 8"))
    assert evaluated.endswith(" degrees (chance 90 degrees)")
    assert any(line.endswith(f": {workdir / 'evaluations' / '8'}") for line in lines)


@pytest.mark.thorough
def test_evaluate_prints_its_unit(trained, capsys, tmp_path):
    workdir, _ = trained
    place = tmp_path / "found"
    assert evaluate.main(["x", f"--workdir={workdir}", f"--out={place}"]) == 0
    lines = capsys.readouterr().out.splitlines()
    at = next(i for i, line in enumerate(lines) if "angle_evaluator: 32 pairs" in line)
    assert lines[at + 1].split() == ["metric", "value", "chance"]
    assert lines[at + 2].split()[3::2] == ["degrees", "degrees"]
    assert lines[at + 3].split() == ["pairs", "32"]
    found = results.read(place).results["angle_evaluator"].metrics
    assert found["mean"].unit == "degrees" and not found["mean"].higher_is_better
    assert found["pairs"].chance is None


@pytest.mark.thorough
def test_rows_reach_python(trained, tmp_path):
    workdir, said = trained
    outcome = said.outcome.results["angle_evaluator"]
    assert len(outcome.rows["key"]) == 32
    assert outcome.rows["angle"].mean() == pytest.approx(outcome.metrics["mean"].value)
    place = tmp_path / "found"
    result = clipjax.evaluate_model(workdir, checkpoint=8, out=place)
    rows = result["angle_evaluator"].rows
    assert rows["key"] == outcome.rows["key"]
    assert rows["angle"].tolist() == pytest.approx(outcome.rows["angle"].tolist())
    for folder in (place, workdir / "evaluations" / "8"):  # the run's end wrote it
        written = results.read(folder).rows("angle_evaluator")
        assert written["key"] == rows["key"]
        assert written["angle"].tolist() == pytest.approx(rows["angle"].tolist())
    assert results.read(place).meta == results.read(folder).meta
    assert results.read(place).meta["identity"].keys() == identity.PARTS.keys()
    assert [at.name for at in results.folders(workdir)] == ["8"]
    with pytest.raises(clipjax.UserError, match="found exists: name a new folder"):
        clipjax.evaluate_model(workdir, checkpoint=8, out=place)


@pytest.mark.thorough
def test_a_metric_named_by_the_config_keeps_its_side_on_resume(tmp_path, monkeypatch):
    """Saves come before the next evaluation; the best so far stays."""
    with monkeypatch.context() as patch:
        stop_at(patch, 5)
        train(config(METRIC), tmp_path)
    best = smallest(tmp_path)
    with monkeypatch.context() as patch:
        stop_at(patch, 7)
        said = train(config(METRIC, train__eval_every=8), tmp_path)
    assert (said.resumed, said.outcome.step) == (5, 7)
    assert Checkpoints(tmp_path, read_only=True).steps() == [best, 7]
    assert clipjax.load(tmp_path).step == best


@pytest.mark.thorough
def test_rows_that_no_file_can_hold(tmp_path, monkeypatch):
    """Said at the first evaluation, not at the run's end."""
    run = angle_evaluator.Angle.run

    def odd(self, variables, progress=None):
        found = run(self, variables)
        rows = {**found.rows, "odd": [object()] * len(found.rows["key"])}
        return dataclasses.replace(found, rows=rows)

    monkeypatch.setattr(angle_evaluator.Angle, "run", odd)
    with pytest.raises(
        clipjax.UserError, match="^angle_evaluator: column 'odd' of its"
    ):
        train(config(train__eval_every=1), tmp_path)
    assert not (tmp_path / "evaluations").exists()
    assert rows(tmp_path, f"eval/{METRIC}") == []
