"""Numbers that go to modules of the user's and to Weights & Biases."""

import json
import math
import pathlib
import sys
import types

import pytest

from clipjax import config
from clipjax.engine import writers
from clipjax.engine.metrics import MetricWriter
from clipjax.types import UserError


class Kept:
    """A writer that keeps what it gets."""

    def __init__(self, *given):
        self.given, self.rows, self.closed = given, [], 0

    def write(self, step, values):
        self.rows.append((step, values))

    def close(self):
        self.closed += 1


def module(monkeypatch, name="my_writer", **content):
    made = types.ModuleType(name)
    made.__dict__.update(content, __file__=f"{name}.py")
    monkeypatch.setitem(sys.modules, name, made)
    return made


def with_log(**values):
    made = config.base(None)
    made.log.update(values)
    return made


def opened(tmp_path, chosen, said=None):
    files = MetricWriter(tmp_path, 0, tensorboard=False)
    say = [].append if said is None else said.append
    return writers.Writers(files, writers.check(chosen), tmp_path, chosen, say)


def test_a_module_gets_every_number(tmp_path, monkeypatch):
    made = []
    module(monkeypatch, open=lambda *given: made.append(Kept(*given)) or made[-1])
    chosen = with_log(writers="my_writer")
    both = opened(tmp_path, chosen)
    both.write_scalars(3, {"train/loss": math.inf, "train/epoch": 1})
    both.close()
    (kept,) = made
    assert kept.given == (tmp_path, chosen)
    assert kept.rows == [(3, {"train/loss": math.inf, "train/epoch": 1.0})]
    assert kept.closed == 1
    (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert json.loads(line)["train/epoch"] == 1


@pytest.mark.parametrize("broken", ["write", "close"])
def test_a_writer_that_fails_ends_no_run(tmp_path, monkeypatch, broken):
    kept, said = Kept(), []

    def fail(*_):
        raise ConnectionError("no network")

    setattr(kept, broken, fail)
    module(monkeypatch, open=lambda workdir, config: kept)
    both = opened(tmp_path, with_log(writers="my_writer"), said)
    both.write_scalars(1, {"train/loss": 1.0})
    both.write_scalars(2, {"train/loss": 1.0})
    both.close()
    (line,) = said
    assert line.startswith("warning: log.writers=my_writer gets no more numbers")
    assert "no network" in line
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "my_writer.py defines no open: it needs a function open.workdir, config"),
        ({"open": 3}, "defines no open"),
        ({"open": lambda workdir: None}, "cannot be called with two arguments"),
    ],
)
def test_modules_of_another_form_are_known_at_the_start(monkeypatch, content, message):
    module(monkeypatch, **content)
    with pytest.raises(UserError, match=f"^log.writers=my_writer: .*{message}"):
        writers.check(with_log(writers="my_writer"))


def test_what_cannot_be_opened(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="log.writers=no.such: No module named 'no'"):
        writers.check(with_log(writers="no.such"))
    module(monkeypatch, open=lambda *_: 3)
    with pytest.raises(UserError, match="returned int, which has no write"):
        opened(tmp_path, with_log(writers="my_writer"))
    module(monkeypatch, open=lambda *_: 1 / 0)
    with pytest.raises(UserError, match="log.writers=my_writer: .*ZeroDivisionError"):
        opened(tmp_path, with_log(writers="my_writer"))


def test_weights_and_biases(tmp_path, monkeypatch):
    """By a module of the same surface; a resumed run goes on in the same one there."""
    calls = []

    class Run:
        def define_metric(self, name, step_metric):
            calls.append(("define_metric", name, step_metric))

        def log(self, values):
            calls.append(("log", values))

        def finish(self):
            calls.append(("finish",))

    ids = []

    def init(*, project, name, id, resume, dir, config):
        ids.append(id)
        assert (project, name, resume) == ("birds", tmp_path.name, "allow")
        assert pathlib.Path(dir) == tmp_path and config["log"]["wandb"] == "birds"
        return Run()

    module(monkeypatch, "wandb", init=init)
    for step in (1, 2):
        both = opened(tmp_path, with_log(wandb="birds"))
        both.write_scalars(step, {"train/loss": 0.5})
        both.close()
    assert calls[:3] == [
        ("define_metric", "*", "step"),
        ("log", {"step": 1, "train/loss": 0.5}),
        ("finish",),
    ]
    assert len(ids) == 2 and ids[0] == ids[1]


def test_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match=r"log.wandb=x .* pip install -e '.\[wandb\]'"):
        writers.check(with_log(wandb="x"))


def test_the_real_package_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    both = opened(tmp_path, with_log(wandb="birds"))
    both.write_scalars(1, {"train/loss": 0.5})
    both.close()
    assert list(tmp_path.glob("wandb/offline-run-*/run-*.wandb"))
