"""A run goes on where it stopped, to the same bits, or says why it cannot."""

import json
import os
import shutil
import signal
import threading
import time

import jax
import orbax.checkpoint as ocp
import pytest
from checkpoint_helpers import bits
from marks import mostly

from clipjax.engine import initial, resume, step_log
from clipjax.engine.checkpoint import saves
from clipjax.types import UserError
from run_tools import rows, saved, stop_at, tiny, train

pytestmark = pytest.mark.usefixtures("on_one_device")

DEEP = "[" * 100_000 + "]" * 100_000


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """A run left alone: 8 steps, of which 6 and 8 are kept."""
    workdir = tmp_path_factory.mktemp("alone")
    said = train(tiny(log__every=1), workdir)
    assert "starting from scratch" in said and said.outcome.step == 8
    return workdir


@pytest.fixture
def copy(alone, tmp_path):
    """The same run to be harmed."""
    return shutil.copytree(alone, tmp_path / "copy")


def assert_as(workdir, alone):
    assert saved(workdir) == saved(alone)
    for name in ("train/loss", "train/grad_norm", "train/replaced_total"):
        assert rows(workdir, name) == rows(alone, name)
    assert [step for step, _ in rows(workdir)] == list(range(1, 9))


@pytest.mark.parametrize(
    "number",
    [
        pytest.param(signal.SIGTERM, marks=pytest.mark.thorough),
        pytest.param(signal.SIGINT, marks=pytest.mark.slow),
    ],
)
def test_a_signal_saves_and_the_rest_gives_the_same_bits(
    alone, tmp_path, monkeypatch, number
):
    before = signal.getsignal(number)
    # SIGTERM also with a worker process in the first part.
    workers = int(number == signal.SIGTERM)
    with monkeypatch.context() as patch:
        stop_at(patch, 5, number)
        said = train(tiny(log__every=1, data__workers=workers), tmp_path)
    assert said.outcome.stopped_by == number and said.outcome.step == 5
    assert f"stopped by {number.name}; saving step 5" in said
    assert signal.getsignal(number) is before
    assert saved(tmp_path)[1] == 5
    said = train(tiny(log__every=1), tmp_path)
    assert f"resuming {tmp_path} from step 5 of 8" in said
    assert said.outcome.stopped_by == 0
    assert_as(tmp_path, alone)


@pytest.mark.thorough
def test_signals_are_held_back_until_the_save_is_done(tmp_path, monkeypatch):
    close = saves.Checkpoints.close
    handlers = []

    def slow_close(self, **options):
        handlers.append(signal.getsignal(signal.SIGTERM))
        signal.raise_signal(signal.SIGTERM)  # a scheduler that asks twice
        close(self, **options)

    with monkeypatch.context() as patch:
        patch.setattr(saves.Checkpoints, "close", slow_close)
        stop_at(patch, 1)
        assert train(tiny(), tmp_path).outcome.stopped_by == signal.SIGTERM
    assert handlers and handlers[0] is not signal.SIG_DFL
    assert saved(tmp_path)[1] == 1


@pytest.mark.parametrize("harm", mostly(["truncated", "flipped"], ["flipped"]))
def test_a_damaged_checkpoint_is_named_and_the_one_before_used(alone, copy, harm):
    files = (copy / "checkpoints" / "8" / "state").rglob("*")
    path = max((p for p in files if p.is_file()), key=lambda p: p.stat().st_size)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content if harm == "flipped" else content[:-1])
    said = train(tiny(log__every=1), copy)
    assert f"step 8 of {copy} is damaged: state/" in said and path.name in said
    assert said.resumed == 6
    assert_as(copy, alone)


@pytest.mark.thorough
def test_an_interrupted_save_is_ignored(alone, copy):
    shutil.rmtree(copy / "checkpoints" / "8")
    (copy / "checkpoints" / "manifests" / "8.json").unlink()
    (copy / "checkpoints" / "8.orbax-checkpoint-tmp").mkdir()
    with (copy / "metrics.jsonl").open("a") as file:
        file.write('{"step": 8, "train/lo')
    said = train(tiny(log__every=1), copy)
    assert "the save of step 8 was interrupted" in said and said.resumed == 6
    assert_as(copy, alone)


def test_a_complete_run_is_left_alone(alone, copy):
    said = train(tiny(log__every=1), copy)
    assert "complete: all 8 steps" in said
    assert said.outcome.step == said.outcome.total_steps == 8
    assert (copy / "metrics.jsonl").read_bytes() == (
        alone / "metrics.jsonl"
    ).read_bytes()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"optim__lr": 0.5, "seed": 3}, ["optim.lr: 0.0005 -> 0.5", "seed: 0 -> 3"]),
        ({"data__batch_size": 32}, ["data.batch_size: 16 -> 32", "--workdir"]),
        ({"train__ema": 0.9}, ["train.ema: 0.0 -> 0.9"]),
        ({"train__steps": 10}, ["train.steps: 8 -> 10", "--extend"]),
    ],
)
def test_another_result_key_is_refused_and_shown(copy, changes, words):
    before = (copy / "config.json").read_bytes()
    with pytest.raises(UserError) as error:
        train(tiny(**changes), copy)
    assert all(word in str(error.value) for word in words), str(error.value)
    assert (copy / "config.json").read_bytes() == before


def test_extend_allows_no_other_key(copy):
    with pytest.raises(UserError, match="seed: 0 -> 1"):
        train(tiny(train__steps=10, seed=1), copy, extend=True)


def test_what_a_resumed_run_may_have_otherwise():
    allowed = ["train.steps", "train.epochs", "train.max_logit_scale"]
    allowed += ["data.train.path", "data.train.parts"]
    assert all(map(resume.may_change, allowed))
    assert not any(map(resume.may_change, ["data.eval.path", "train.ema", "model"]))


def test_how_keys_may_change(copy):
    config = tiny(
        data__workers=3,
        data__threads=2,
        log__every=5,
        log__tensorboard=True,
        checkpoint__every=2,
        checkpoint__keep=1,
        train__eval_every=4,
        train__max_bad_steps=2,
    )
    assert "complete" in train(config, copy)


def test_another_evaluator_may_come(copy):
    assert "complete" in train(tiny(evals=True), copy)


@pytest.mark.thorough
def test_extend_goes_on(copy):
    said = train(tiny(log__every=1, train__steps=10), copy, extend=True)
    assert said.resumed == 8 and said.outcome.step == 10
    assert [step for step, _ in rows(copy)] == list(range(1, 11))
    # From now on that is the run's length.
    assert "complete: all 10" in train(tiny(log__every=1, train__steps=10), copy)


@pytest.mark.thorough
def test_a_run_without_a_checkpoint_holds_nobody_to_its_config(alone, copy):
    shutil.rmtree(copy / "checkpoints")
    (copy / "tokenizer.json").write_text('{"name": "words", "state": "of the other"}')
    saved_config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**saved_config, "seed": 3}))
    said = train(tiny(log__every=1), copy)
    assert "without a checkpoint: it starts anew" in said
    assert "starting from scratch" in said
    assert_as(copy, alone)


def test_set_aside_checkpoints_are_not_forgotten(copy):
    for step in (6, 8):
        shutil.rmtree(copy / "checkpoints" / str(step))
        (copy / "checkpoints" / "manifests" / f"{step}.json").unlink()
    (copy / "checkpoints" / "set_aside").mkdir()
    with pytest.raises(UserError, match="set_aside"):
        train(tiny(log__every=1), copy)


def test_what_the_bits_depend_on_is_compared(copy):
    path = copy / "environment.json"
    before = json.loads(path.read_text())
    assert {"cpus", "xla_flags", "jax", "jaxlib", "device", "devices"} <= before.keys()
    path.write_text(json.dumps({**before, "cpus": [98, 99], "xla_flags": "--x"}))
    lines = [line for line in train(tiny(), copy).splitlines() if "identical" in line]
    assert len(lines) == 2
    assert "cpus was [98, 99] and is" in lines[0] and "xla_flags was '--x'" in lines[1]
    assert not any("identical" in line for line in train(tiny(), copy).splitlines())


@pytest.mark.thorough
def test_three_interrupts_cut_no_save_short(alone, tmp_path, monkeypatch):
    close, opened = ocp.AsyncCheckpointer.close, saves.Checkpoints._open
    wait, awaited = saves.Checkpoints.wait, threading.Event()

    def third(self):
        signal.raise_signal(signal.SIGINT)
        close(self)

    def tell(self, *args):
        awaited.set()
        wait(self, *args)

    def slowly(self, step):
        if step == 5:
            assert awaited.wait(60)
            time.sleep(0.3)
            os.kill(os.getpid(), signal.SIGINT)  # the second, while it is awaited
            time.sleep(0.3)
        opened(self, step)

    with monkeypatch.context() as patch:
        stop_at(patch, 5, signal.SIGINT)
        patch.setattr(saves.Checkpoints, "_open", slowly)
        patch.setattr(saves.Checkpoints, "wait", tell)
        patch.setattr(ocp.AsyncCheckpointer, "close", third)
        with pytest.raises(KeyboardInterrupt):
            train(tiny(log__every=1), tmp_path)
    folder = tmp_path / "checkpoints"
    assert (folder / "manifests/5.json").exists() and not list(folder.glob("*tmp*"))
    assert train(tiny(log__every=1), tmp_path).resumed == 5
    assert_as(tmp_path, alone)


@pytest.mark.parametrize("content", ["{", "[1]", DEEP, '{"jax": ' + DEEP[:2000] + "}"])
def test_a_damaged_environment_is_said_and_no_hindrance(copy, content):
    path = copy / "environment.json"
    path.write_text(content)
    said = []
    assert resume.check(copy, tiny(log__every=1), False, said.append) is False
    assert len(said) == 1 and f"{path} is damaged" in said[0]


@pytest.mark.parametrize("name", ["config.json", "data.json", "tokenizer.json"])
@pytest.mark.parametrize("depth", [200, 100_000])
def test_json_nested_too_deep_is_damage(copy, name, depth):
    found = json.loads((copy / name).read_text())
    text = json.dumps({**found, "x": 0})[:-2] + "[" * depth + "]" * depth + "}"
    (copy / name).write_text(text)
    with pytest.raises(UserError, match=f"{name} is damaged .*too deep"):
        train(tiny(log__every=1), copy)


@pytest.mark.parametrize(
    "name", ["manifests/8.json", "8/meta/metadata", "8/layout/metadata"]
)
def test_a_step_whose_json_is_nested_too_deep_is_passed_over(copy, name):
    (copy / "checkpoints" / name).write_text(DEEP)
    if "manifests" not in name:  # else the sum tells it first
        (copy / "checkpoints/manifests/8.json").unlink()
    said = []
    with saves.Checkpoints(copy, read_only=True, warn=said.append) as opened:
        assert opened.restore()[2] == 6
    assert "step 8" in said[0] and ("broken" in said[0] or "too deep" in said[0])


@pytest.mark.thorough
def test_the_count_of_replaced_examples_survives(tmp_path, monkeypatch):
    config = tiny("data=parts.faulty_source", log__every=1, data__train__nth=10)
    whole = train(config, tmp_path / "whole")
    with monkeypatch.context() as patch:
        stop_at(patch, 4)
        train(config, tmp_path / "parts")
    train(config, tmp_path / "parts")
    counts = rows(tmp_path / "whole", "train/replaced_total")
    assert counts == rows(tmp_path / "parts", "train/replaced_total")
    assert counts[-1][1] > counts[2][1] > 0
    assert saved(tmp_path / "whole") == saved(tmp_path / "parts")
    named = [line for line in whole.splitlines() if "replaced a broken" in line]
    assert named and len(named) == len(set(named))
    assert all("it was made so" in line for line in named)


def test_broken_examples_end_the_run_where_asked(tmp_path):
    config = tiny(
        "data=parts.faulty_source", data__train__nth=3, data__on_broken="raise"
    )
    with pytest.raises(UserError, match="it was made so"):
        train(config, tmp_path)


def test_a_run_from_when_every_loss_had_a_limit_goes_on(tmp_path):
    workdir, said = tmp_path, []
    old = tiny("loss=siglip", train__max_logit_scale=100.0)
    resume.save(workdir, old)
    (workdir / "checkpoints" / "3").mkdir(parents=True)
    assert not resume.check(workdir, tiny("loss=siglip"), False, said.append)
    assert said[-1].endswith("keep it by --config.train.max_logit_scale=100")
    assert not resume.check(workdir, old, False, said.append)
    with pytest.raises(UserError, match="max_logit_scale: 100.0 -> 50.0"):
        other = tiny("loss=siglip", train__max_logit_scale=50.0)
        resume.check(workdir, other, False, said.append)


@pytest.mark.thorough
def test_starting_from_another_run(alone, tmp_path, monkeypatch):
    taken = []
    take = initial.take

    def noting(*arguments):
        state = take(*arguments)
        leaves = jax.tree_util.tree_flatten_with_path(state.params)[0]
        taken.extend((jax.tree_util.keystr(path), bits(leaf)) for path, leaf in leaves)
        return state

    monkeypatch.setattr(initial, "take", noting)
    config = tiny(log__every=1, init_from=str(alone), seed=5)
    with monkeypatch.context() as patch:
        stop_at(patch, 2)
        said = train(config, tmp_path / "next")
    assert f"starting from the parameters of {alone}, step 8" in said
    theirs, _ = saved(alone)
    assert {f"['params']{name}": value for name, value in taken} == {
        name: value for name, value in theirs.items() if name.startswith("['params']")
    }
    # Once begun, the run's own checkpoints count.
    assert train(config, tmp_path / "next").resumed == 2
    assert saved(tmp_path / "next")[0] != theirs


def test_starting_from_another_model_is_refused(alone, tmp_path):
    config = tiny(init_from=str(alone), model__embed_dim=8)
    with pytest.raises(UserError, match="^model.embed_dim: 8 does not fit init_from="):
        train(config, tmp_path / "next")


def test_every_step_is_due_at_the_end():
    assert [s for s in range(1, 9) if step_log.due(s, 3, 8)] == [3, 6, 8]
    assert [s for s in range(1, 9) if step_log.due(s, 0, 8)] == [8]
    assert [s for s in range(1, 9) if step_log.due(s, 1, 8)] == list(range(1, 9))


@pytest.mark.slow
def test_what_losses_and_optimizers_keep_is_resumed(tmp_path, monkeypatch):
    """Tables of averages and temperatures, a queue, momenta of two optimizers."""
    config = tiny(
        "loss=isogclr+xbm,optim=muon",
        log__every=1,
        loss__xbm__size=32,
        loss__xbm__start_step=0,
    )
    alone = tmp_path / "alone"
    train(config, alone)
    with monkeypatch.context() as patch:
        stop_at(patch, 3)
        train(config, tmp_path / "run")
    said = train(config, tmp_path / "run")
    assert said.resumed == 3
    assert_as(tmp_path / "run", alone)
