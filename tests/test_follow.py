"""`evaluate --follow`: the checkpoints of a run that appear, vanish or change."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import released_tools
from command_tools import failure
from rich.console import Console

from clipjax import evaluate, follow, param_paths, results
from clipjax.encoder import Encoder
from clipjax.engine import resume
from clipjax.engine.checkpoint import manifest
from clipjax.engine.checkpoint.saves import Checkpoints
from clipjax.engine.checkpoint.step_folder import Store
from clipjax.evals_flags import EvalsFlags
from clipjax.evaluation_request import Prepared, Request
from clipjax.run_record import status
from clipjax.types import EvalResult, Metric, UserError
from run_tools import ROOT, tiny, train

pytestmark = [pytest.mark.usefixtures("on_one_device"), pytest.mark.thorough]
FILES = ("config.json", "tokenizer.json", "data.json", "environment.json")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of 6 steps with the checkpoints 2, 4 and 6, and no evaluations."""
    folder = tmp_path_factory.mktemp("runs") / "trained"
    config = tiny(train__steps=6, checkpoint__every=2, checkpoint__keep=9)
    train(config, folder)
    with config.unlocked():
        config.evals = tiny(evals=True).evals
    resume.save(folder, config)
    return folder


class Copy:
    """A copy of a run that gets its checkpoints when the test says so."""

    def __init__(self, source, folder):
        self.source, self.folder = source, folder
        self.saves = folder / "checkpoints"
        self.manifests = self.saves / "manifests"
        self.store = Store(folder, print)

    def begin(self):
        self.manifests.mkdir(parents=True)
        for name in FILES:
            self._whole(self.source / name, self.folder / name)
        return self

    def half(self, step, of=None):
        place = self.source / "checkpoints" / str(of or step)
        shutil.copytree(place, self.saves / str(step))

    def seal(self, step, of=None):
        of = self.source / "checkpoints" / "manifests" / f"{of or step}.json"
        self._whole(of, self.manifests / f"{step}.json")

    def _whole(self, source, place):
        """A follower never sees a part of it, as of what a run writes."""
        shutil.copyfile(source, self.folder / "copied.tmp").replace(place)

    def save(self, *steps):
        for step in steps:
            self.half(step)
            self.seal(step)
        return self

    def remove(self, step):
        """As the run prunes it."""
        kept = [other for other in self.store.steps() if other != step]
        self.store.prune(1, 0, kept)

    def evaluations(self):
        return [place.name for place in results.folders(self.folder)]

    def content(self):
        """All of it but its evaluations: path -> (time, bytes)."""
        return {
            str(path): (path.stat().st_mtime_ns, path.is_file() and path.read_bytes())
            for path in self.folder.rglob("*")
            if results.FOLDER not in path.parts
        }


@pytest.fixture
def run(trained, tmp_path):
    return Copy(trained, tmp_path / "run")


@pytest.fixture
def quick(monkeypatch):
    """Evaluates without compiling: the metric is the mean weight."""

    def evaluated(self, variables, progress):
        leaves = param_paths.flatten(variables).values()
        mean = float(np.mean([np.mean(leaf) for leaf in leaves]))
        return {"mean": EvalResult({"m": Metric(mean, n=1)}, "m", "1 model")}

    monkeypatch.setattr(Prepared, "run", evaluated)


def following(run, timeout=0.0, request=None, said=None):
    """Follows a run to its end: the steps evaluated, and the lines."""
    stream = said or io.StringIO()
    console = Console(file=stream, highlight=False, markup=False, width=300)
    request = request or Request(str(run.folder))
    steps = follow.follow(request, console, poll=0.01, timeout=timeout)
    return steps, stream.getvalue().splitlines()


def wait_for(words, said, seconds=60.0):
    end = time.monotonic() + seconds
    while words not in said.getvalue():
        assert time.monotonic() < end, said.getvalue()
        time.sleep(0.01)


@pytest.mark.thorough
def test_checkpoints_that_appear(run, monkeypatch, capsys):
    made, make = [], Encoder.__init__
    monkeypatch.setattr(
        Encoder, "__init__", lambda *x, **y: made.append(1) or make(*x, **y)
    )
    said, found = io.StringIO(), []
    target = lambda: found.append(following(run, said=said))  # noqa: E731
    thread = threading.Thread(target=target, daemon=True)
    thread.start()
    wait_for("is no run yet: waiting", said)
    run.begin().half(2)
    wait_for("has no checkpoint yet: waiting", said)
    run.save(4)  # 2 has no manifest yet
    wait_for("evaluated step 4", said)
    assert run.evaluations() == ["4"]
    run.seal(2)
    wait_for("evaluated step 2", said)
    before = run.content()
    run.save(6)
    thread.join(60)
    assert len(made) == 1  # what is compiled belongs to it
    [(steps, lines)] = found
    assert steps == [4, 2, 6]
    assert lines[-1] == f"{run.folder} has ended at step 6: 3 steps evaluated"
    assert sum("waiting" in line for line in lines) == 2
    after = run.content()
    changed = {path for path in before if before[path] != after.get(path)}
    assert changed <= {str(run.saves), str(run.manifests)}
    assert all(
        "6" in path.removeprefix(str(run.saves)) for path in after.keys() - before
    )
    # `evaluate` itself finds the same numbers and rows.
    metric = results.read(run.folder / "evaluations" / "4").results["retrieval"]
    value = 100 * metric.metrics["mean_recall@1"].value
    line = next(line for line in lines if line.startswith("evaluated step 4"))
    assert f"retrieval mean_recall@1 {value:.2f} % (95 % interval " in line
    assert "chance 3.12 %" in line
    assert evaluate.main(["evaluate", f"--workdir={run.folder}", "--checkpoint=4"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "the same results are there already" in printed


@pytest.mark.thorough
@pytest.mark.parametrize("moment", ["hashed", "found", "opened"])
def test_a_step_pruned_while_it_is_read(moment, run, quick, monkeypatch, capfd):
    run.begin().save(2, 4, 6)
    at, name = (manifest, "check") if moment == "hashed" else (Checkpoints, "_complete")
    original = getattr(at, name)

    def prune():
        if (run.saves / "2").exists():
            run.remove(2)

    def pruning(*args):
        if moment != "opened":
            prune()
        found = original(*args)
        prune()
        return found

    monkeypatch.setattr(at, name, pruning)
    steps, lines = following(run)
    assert steps == [4, 6]
    assert lines.count("step 2 was removed while it was read: skipped") == 1
    assert run.evaluations() == ["4", "6"]
    assert capfd.readouterr() == ("", "")


def test_a_step_pruned_before_its_turn(run, quick, monkeypatch):
    run.begin().save(2, 4, 6)
    evaluated = Prepared.run

    def pruning(self, *args):
        if (run.saves / "4").exists():
            run.remove(4)
        return evaluated(self, *args)

    monkeypatch.setattr(Prepared, "run", pruning)
    steps, lines = following(run)
    assert steps == [2, 6]
    assert lines.count("step 4 was removed before it was read: skipped") == 1


def test_a_step_saved_again_while_it_is_read(run, quick, monkeypatch):
    run.begin().save(2, 6)
    original, replaced = Checkpoints._complete, []

    def replacing(self, step):
        if step == 2 and not replaced:
            replaced.append(step)
            (run.manifests / "2.json").unlink()
            run.seal(2)
            os.utime(run.manifests / "2.json", ns=(1, 1))
        return original(self, step)

    monkeypatch.setattr(Checkpoints, "_complete", replacing)
    steps, lines = following(run)
    assert steps == [2, 6]
    assert lines.count("step 2 was saved again while it was read") == 1


def test_a_damaged_step_is_named_once(run, quick):
    run.begin().save(2, 4)
    (run.saves / "2" / "layout" / "metadata").write_text("[]")
    steps, lines = following(run, timeout=0.1)
    assert steps == [4]
    [line] = [line for line in lines if " is damaged: " in line]
    assert line.startswith("step 2 of ")
    assert line.endswith(": skipped")


def test_a_restart_makes_what_is_missing(run, quick):
    run.begin().save(2, 4, 6)
    shutil.rmtree(run.saves / "4")
    assert following(run)[0] == [2, 6]
    run.half(4)
    steps, lines = following(run)
    assert steps == [4]
    assert "there already: steps 2, 6" in lines
    times = {path: path.stat().st_mtime_ns for path in results.folders(run.folder)}
    assert following(run)[0] == []
    assert times == {x: x.stat().st_mtime_ns for x in results.folders(run.folder)}
    # Other evaluations of the same steps are others.
    assert following(run, request=Request(str(run.folder), ema=False))[0] == [2, 4, 6]
    assert {"4", "4-noema"} < {*run.evaluations()}


def test_results_without_those_of_an_evaluator_that_failed_do_not_count(run, quick):
    run.begin().save(2, 6)
    following(run)
    place = run.folder / results.FOLDER / "2" / results.FILE
    content = json.loads(place.read_text())
    content["meta"]["failed"] = {"probe": "no training image can be read"}
    place.write_text(json.dumps(content))
    steps, lines = following(run)
    assert steps == [2] and "there already: step 6" in lines
    assert run.evaluations() == ["2", "2-2", "6"]


def test_an_evaluation_of_an_earlier_save_does_not_count(run, quick):
    run.begin().save(2, 4, 6)
    following(run)
    later = time.time_ns() + 10**12
    os.utime(run.manifests / "2.json", ns=(later, later))  # the same weights
    shutil.rmtree(run.saves / "4")
    run.half(4, of=2)
    run.seal(4, of=2)
    os.utime(run.manifests / "4.json", ns=(later, later))
    steps, lines = following(run)
    assert steps == [4]
    assert "there already: step 6" in lines
    assert "there already: step 2" in lines
    assert run.evaluations() == ["2", "4", "4-2", "6"]


def test_the_runs_own_evaluation_of_its_end(run, quick, monkeypatch):
    """It may be written while the follower evaluates the same step."""
    run.begin().save(6)
    evaluated = Prepared.run

    def slower(self, variables, progress):
        found = evaluated(self, variables, progress)
        metric = Metric(found["mean"].metrics["m"].value + 1e-9, n=1)  # rounding
        own = {"mean": EvalResult({"m": metric}, "m", "1 model")}
        place = run.folder / results.FOLDER / "6"
        results.save(place, {"": (own, self.meta(6, self.identity(variables)))})
        return found

    monkeypatch.setattr(Prepared, "run", slower)
    assert following(run)[0] == [6]
    assert run.evaluations() == ["6"]


def test_a_run_that_died(run, quick):
    run.begin().save(2)
    run.half(4)
    steps, lines = following(run, timeout=0.1)
    assert steps == [2]
    assert "had nothing new for 0:00 and is taken for ended at step 2 of 6" in lines[-1]
    assert lines[-1].endswith("1 step evaluated; step 4 is not whole and was left out")


@pytest.mark.parametrize(
    ("state", "step", "ended"),
    [("finished", 2, True), ("running", 2, False), ("finished", 4, False)],
)
def test_a_run_that_stopped_early(run, quick, state, step, ended):
    run.begin().save(2)
    found = status.Status(state, "m is 1", step=step, total_steps=6)
    status.write(run.folder, found, sync=False)
    steps, lines = following(run, timeout=0.1)
    assert steps == [2]
    assert lines[-1].endswith("has ended at step 2: 1 step evaluated") == ended


def test_a_run_that_never_comes(run, quick):
    with pytest.raises(UserError, match="is no run yet, and nothing new came for"):
        following(run, timeout=0.1)
    run.begin()
    with pytest.raises(UserError, match="has no checkpoint yet, and nothing new"):
        following(run, timeout=0.1)
    assert not (run.folder / results.FOLDER).exists()


def test_a_length_in_epochs(run, quick):
    run.begin().save(6)
    config = json.loads((run.folder / "config.json").read_text())
    config["train"] |= {"steps": 0, "epochs": 0.6}  # of 160 images in batches of 16
    (run.folder / "config.json").write_text(json.dumps(config))
    assert following(run)[1][-1].endswith("has ended at step 6: 1 step evaluated")
    config["train"]["epochs"] = 0.7
    (run.folder / "config.json").write_text(json.dumps(config))
    assert " at step 6 of 7: 0 steps" in following(run, timeout=0.1)[1][-1]


class Clock:
    """In place of the module `time`: the run does something after each wait."""

    def __init__(self, then):
        self.now, self.waits, self.then = 0.0, 0, then

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds
        self.waits += 1
        self.then(self.waits)


@pytest.mark.parametrize("alive", [True, False])
def test_metrics_are_signs_of_life(run, quick, monkeypatch, alive):
    """For ten times as long as a run without any sign is waited for."""

    def then(wait):
        if alive and wait % 40 == 0:
            with (run.folder / "metrics.jsonl").open("a") as file:
                file.write("{}\n")
        if wait == 500:
            run.save(6)

    run.begin().save(2)
    monkeypatch.setattr(follow, "time", Clock(then))
    steps, lines = following(run, timeout=0.5)
    assert steps == ([2, 6] if alive else [2])
    assert ("is taken for ended at step 2 of 6" in lines[-1]) == (not alive)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        (("model", "embed_dim"), 32, "model.embed_dim: 16 -> 32"),
        (("data", "eval", "eval_size"), 64, "data.eval.eval_size: 32 -> 64"),
        (("train", "steps"), 4, "train.steps was 6 and is 4"),
        ("tokenizer.json", " \n", "tokenizer.json: 'one content' -> 'another'"),
    ],
)
def test_another_run_in_the_folder(key, value, words, run, quick, monkeypatch):
    run.begin().save(2)
    evaluated = Prepared.run

    def changing(self, *args):
        monkeypatch.setattr(Prepared, "run", evaluated)
        if isinstance(key, str):
            with (run.folder / key).open("a") as file:
                file.write(value)
        else:
            config = json.loads((run.folder / "config.json").read_text())
            section = config
            for name in key[:-1]:
                section = section[name]
            assert section[key[-1]] != value
            section[key[-1]] = value
            (run.folder / "config.json").write_text(json.dumps(config))
        run.save(4)
        return evaluated(self, *args)

    monkeypatch.setattr(Prepared, "run", changing)
    if key == ("train", "steps"):
        steps, lines = following(run)
        assert steps == [2, 4]
        assert words in lines
    else:
        with pytest.raises(UserError, match="is not the run that it was") as error:
            following(run)
        assert words in str(error.value)
        assert run.evaluations() == ["2"]


@pytest.mark.parametrize(
    ("number", "moment"),
    [(signal.SIGTERM, "evaluating"), (signal.SIGINT, "writing")],
)
def test_interrupted(number, moment, run, quick, monkeypatch, capsys):
    run.begin().save(2)
    at, name = {"evaluating": (Prepared, "run"), "writing": (results, "_fill")}[moment]
    original = getattr(at, name)

    def interrupted(*args):
        found = original(*args)
        signal.raise_signal(number)
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(at, name, interrupted)
        before = signal.getsignal(number)
        assert evaluate.main(["evaluate", f"--follow={run.folder}"]) == 128 + number
    assert signal.getsignal(number) == before
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == f"stopped by {signal.Signals(number).name}; the same command goes on"
    assert not any((run.folder / results.FOLDER).iterdir())
    run.save(6)
    assert evaluate.main(["evaluate", "--follow", "--workdir", str(run.folder)]) == 0
    assert run.evaluations() == ["2", "6"]


def test_what_does_not_go_together(run, quick, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    released_tools.hf(tmp_path / "hf")
    for argv, words in [
        (["--follow=x", "--checkpoint=2"], "leave --checkpoint out"),
        (["--follow", "x", "--interpolate=y"], "leave --interpolate out"),
        (["--workdir=x", "--follow", "--out=y"], "leave --out out"),
        (["--follow", "x", "--suite", "y"], "leave --suite out"),
        (["--follow", "x", "--embeddings=y"], "leave --embeddings out"),
        (["--follow", "x", "--classes"], "leave --classes out"),
        (["--follow", "x", "--preprocess=clip"], "leave --preprocess out"),
        (["--follow", "x", "--workdir=y"], "both name the model"),
        (["--follow"], "no --model given"),
        (["--follow=x", "--poll=0"], "--poll=0: give 1 or more seconds"),
        (["--follow=x", "--follow_timeout=-1"], "give 0 or more seconds"),
        (["--follow=hf", "--evals=zeroshot"], "hf is a released model, which gets no"),
        (["--folow=x"], "Did you mean 'follow'"),
    ]:
        assert words in failure(capsys, evaluate.main, *argv), argv
    run.begin()  # before any checkpoint is there
    line = failure(capsys, evaluate.main, f"--follow={run.folder}", "--evals=retrieva")
    assert "unknown evals 'retrieva'" in line
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "localhost:1234")
    monkeypatch.setenv("JAX_NUM_PROCESSES", "2")
    monkeypatch.setenv("JAX_PROCESS_ID", "0")
    line = failure(capsys, evaluate.main, f"--follow={run.folder}")
    assert "--follow runs in one process" in line


@pytest.mark.slow
def test_beside_a_run_that_trains(tmp_path):
    """A run that keeps one checkpoint is not disturbed, and none is read twice."""
    argv = [sys.executable, "-m", "clipjax.train", "--workdir", str(tmp_path / "run")]
    argv += ["--config", str(ROOT / "tests" / "config_tiny.py:evals=none")]
    argv += ["--config.train.steps=40", "--config.checkpoint.every=5"]
    argv += ["--config.checkpoint.keep=1", "--config.train.val_batches=0"]
    # Steps of one device, which wait for no others where there are few cores.
    flags = os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=1")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "XLA_FLAGS": flags}
    process = subprocess.Popen(
        argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment
    )
    run = Copy(None, tmp_path / "run")
    with pytest.raises(UserError, match="has no evaluators: name them by --evals"):
        following(run, timeout=120)
    request = Request(str(run.folder), evals=EvalsFlags("retrieval"))
    steps, lines = following(run, timeout=120, request=request)
    printed, _ = process.communicate(timeout=120)
    assert process.returncode == 0, printed.decode()
    assert steps == sorted(set(steps))
    assert steps[-1] == 40
    assert run.evaluations() == [f"{step}-retrieval" for step in steps]
    assert lines[-1].endswith(f"ended at step 40: {len(steps)} steps evaluated")
