"""`clipjax.doctor`: each fault is found and named, and a good run has none."""

import dataclasses
import math

import jax
import numpy as np
import pytest
from PIL import Image

from clipjax import doctor, registry
from clipjax.checkup import (
    installation,
    learning,
    speed,
    system,
    timed_step,
    which_device,
)
from clipjax.engine import run as runs
from clipjax.types import UserError
from run_tools import ROOT, tiny

TINY = str(ROOT / "tests" / "config_tiny.py")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def called(capsys, *argv):
    status = doctor.main(["doctor", *argv])
    return status, capsys.readouterr().out


def lines(out, state):
    return [line for line in out.splitlines() if line.startswith(f"{state} ")]


def test_a_machine(capsys):
    status, out = called(capsys, "--quick")
    assert status == len(lines(out, "error")) == 0
    for words in ("jax ", "extras: ", "jax uses ", "disk: ", "memory: ", "clock: "):
        assert words in out
    assert out.endswith("warnings\n") or out.endswith("1 warning\n")


def test_a_run_before_anything_is_compiled(capsys, tmp_path):
    status, out = called(capsys, "--quick", "--config", TINY, "--workdir=new")
    assert status == 0 and "160 training examples, 8 steps of 16" in out
    assert "new: a new run" in out and "the checkpoints take" in out
    assert "160 of the first 160 examples" in out and "32 of the first 32" in out
    assert not list(tmp_path.iterdir())


def test_a_wrong_path(capsys):
    argv = ["--config", f"{TINY}:data=captions", "--config.data.train.path=nowhere"]
    status, out = called(capsys, "--quick", *argv)
    assert status == 1 and "nowhere does not exist" in lines(out, "error")[0]
    assert "clock: " in out  # the machine is checked all the same


def test_captions_of_another_encoding(capsys, tmp_path):
    rows = ["image,caption"]
    for i in range(160):
        pixels = np.full((16, 16, 3), i, np.uint8)
        (tmp_path / "photos").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{i}.png")
        rows.append(f"{i}.png,Café Straße größer {i}")
    table = tmp_path / "photos" / "captions.csv"
    table.write_bytes("\n".join(rows).encode("latin-1"))
    argv = ["--config", f"{TINY}:data=captions", "--config.data.train.path=photos"]
    argv.append("--config.data.eval.path=photos")
    status, out = called(capsys, "--quick", *argv)
    assert status == 1 and "caption that cannot be read" in lines(out, "warning")[0]
    table.write_bytes("\n".join(rows).encode().decode("latin-1").encode())
    status, out = called(capsys, "--quick", *argv)
    assert status == 1 and "look like text of another" in lines(out, "error")[0]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"disk_free": 1000}, "the checkpoints take"),
        ({"shared_size": 2**12, "shared_free": 2**12}, "the workers' batches take"),
    ],
)
def test_a_full_disk_and_small_shared_memory(capsys, monkeypatch, changes, words):
    ask = system.ask
    monkeypatch.setattr(
        system, "ask", lambda place: dataclasses.replace(ask(place), **changes)
    )
    argv = ["--config", TINY, "--config.data.workers=2"]
    status, out = called(capsys, "--quick", *argv)
    (line,) = lines(out, "error")
    assert status == 1 and words in line


def test_a_folder_that_would_be_refused(capsys, tmp_path):
    folder = tmp_path / "run" / "checkpoints" / "3"
    folder.mkdir(parents=True)
    status, out = called(capsys, "--quick", "--config", TINY, "--workdir=run")
    (line,) = lines(out, "error")
    assert status == 1 and "holds checkpoints but no config.json" in line


@pytest.mark.parametrize("argv", [["--confg=x"], ["--quick", "--config=no.py"]])
def test_mistakes_in_the_command(argv):
    with pytest.raises(UserError):
        doctor.main(["doctor", *argv])


def test_extras_are_those_of_the_project():
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    extras = project["project"]["optional-dependencies"].keys()
    assert installation.EXTRAS.keys() == extras - {"test", "parity", "dev"}
    needed = {name.split(">")[0] for name in project["project"]["dependencies"]}
    assert set(installation.CORE) - {"jaxlib"} <= needed


def analysis(**sizes):
    names = ("argument", "output", "alias", "temp")
    return type("Of", (), {f"{x}_size_in_bytes": sizes.get(x, 0) for x in names})


def test_the_batch_that_fits():
    step = analysis(argument=100, output=100, alias=100, temp=900)
    assert speed.fits(step, 64, 1000).state == "ok"
    found = speed.fits(step, 64, 550)  # 450 bytes of temporaries: half a batch
    assert found.state == "error" and "batch_size=16 fits" in found.mend
    assert "micro_batches=4" in found.mend
    assert "smaller towers" in speed.fits(step, 64, 100).mend
    assert speed.fits(step, 64, 0).state == "ok"


def test_which_of_two_waits():
    assert "the step is the bottleneck" in speed.bottleneck(64, 1.0, 0.5, 0).what
    found = speed.bottleneck(64, 0.5, 1.0, 2)
    assert found.state == "warning" and "128 images/s" in found.what
    assert "64: the data are" in found.what and "workers" in found.mend


@pytest.mark.parametrize(
    ("there", "state", "words"),
    [
        (0.5, "warning", "1 s on gpu and 500 ms on cpu: cpu is faster for this run"),
        (1.05, "ok", "1 s on gpu and 1.05 s on cpu, about the same"),
        (30.0, "ok", "1 s on gpu and 30 s on cpu: gpu is faster for this run"),
    ],
)
def test_which_device_is_faster(there, state, words):
    found = which_device.judged("gpu", 1.0, "cpu", there)
    assert found.state == state and found.what.endswith(words)
    assert found.mend == ("JAX_PLATFORMS=cpu before it" if state == "warning" else "")


@pytest.mark.parametrize(
    ("loss", "weights", "state"),
    [(3.0, False, ["ok"]), (9.0, False, ["warning"]), (0.1, False, ["warning"])]
    + [(0.1, True, [])],
)
def test_the_start(loss, weights, state):
    first = {"loss": loss, "uninformed_loss": 3.0}
    assert [one.state for one in speed.start(first, weights)] == state
    assert [*speed.start({"loss": loss}, weights)] == []


def test_a_batch_with_like_captions_allows_less():
    texts = np.array([[1, 2], [1, 2], [3, 4], [5, 6]])
    assert learning.ceiling({"text": texts}) == 0.75
    assert learning.ceiling({"label": texts}) == 1.0


def learnt(accuracy, loss=0.5, steps=100):
    return learning.Learnt(accuracy, steps, 2.0, loss)


def test_a_batch_by_heart():
    def judged(once, most=1.0, others=()):
        again = iter(others)
        return learning.judged(once, most, 0.1, lambda factor: next(again))

    assert judged(learnt(0.95, steps=7)).state == "ok"
    assert judged(learnt(0.7), 0.75).state == "ok"  # captions that are alike allow it
    found = judged(learnt(0.5), others=[learnt(0.1), learnt(1.0, steps=9)])
    assert found.state == "error" and "accuracy 50% in 100 steps" in found.what
    assert "too high: --config.optim.lr=0.001 learns it in 9 steps" in found.mend
    found = judged(learnt(0.5, math.nan), others=[learnt(0.1)] * 5)
    assert "and the loss is nan" in found.what and "no rate from" in found.mend


def test_a_loss_without_an_accuracy():
    found = learning.judged(learnt(None, 0.5), 1.0, 0.1, None)
    assert found.state == "ok" and "from 2 to 0.5 in 100 steps" in found.what
    assert learning.judged(learnt(None, 3.0), 1.0, 0.1, None).state == "warning"


@pytest.fixture
def real(monkeypatch):
    """Without what other tests cover."""
    monkeypatch.setattr(doctor, "_machine", lambda quick, precision: iter(()))


@pytest.mark.thorough
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("on_one_device", "real")
def test_a_good_run(capsys):
    status, out = called(capsys, "--config", TINY)
    assert status == 0 and "by heart: accuracy 9" in out
    assert "there is only cpu to train on" in out
    assert "of evaluation data is" in lines(out, "ok")[-1]


@pytest.mark.thorough
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("on_one_device", "real")
def test_a_learning_rate_of_ten(capsys, monkeypatch):
    monkeypatch.setattr(speed, "checks", lambda *_: iter(()))
    status, out = called(capsys, "--config", TINY, "--config.optim.lr=10")
    (line,) = lines(out, "error")
    assert status == 1 and "at optim.lr=10" in line and "the rate is too high" in line


@pytest.mark.thorough
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("on_one_device", "real")
def test_captions_of_other_images(capsys, monkeypatch):
    from clipjax.data.sources import scenes

    caption = scenes.Scenes.__getitem__

    def shuffled(self, index):
        other = (index * 7919 + 13) % len(self)
        texts = caption(self, other).captions
        return dataclasses.replace(caption(self, index), captions=texts)

    monkeypatch.setattr(scenes.Scenes, "__getitem__", shuffled)
    monkeypatch.setattr(speed, "checks", lambda *_: iter(()))
    status, out = called(capsys, "--config", TINY, "--config.data.train.size=2000")
    (line,) = lines(out, "warning")
    assert status == 0 and "nothing carries over" in line


@pytest.mark.thorough
@pytest.mark.usefixtures("on_one_device", "real")
def test_a_batch_that_does_not_fit(capsys, monkeypatch):
    ask = system.ask
    monkeypatch.setattr(
        system, "ask", lambda place: dataclasses.replace(ask(place), memory_free=10**6)
    )
    status, out = called(capsys, "--config", TINY, "--config.data.batch_size=128")
    (line,) = lines(out, "error")
    assert status == 1 and "a step of 128 takes" in line and "batch_size=" in line


@pytest.mark.thorough
@pytest.mark.usefixtures("on_one_device")
def test_a_step_is_timed_on_another_device(tmp_path, monkeypatch):
    run = runs.prepare(tiny(), tmp_path, True)
    source = runs.batches(run, 0)
    local = dict(next(source))
    source.close()
    other = jax.devices()[1]
    used = []
    seconds = timed_step.seconds

    def timed(step, state, batch):
        leaves = jax.tree.leaves((state, batch))
        used.append({device for leaf in leaves for device in leaf.devices()})
        return seconds(step, state, batch)

    monkeypatch.setattr(timed_step, "seconds", timed)
    found = which_device.compared(run, local, 1e3, 1.0, "other", other)
    assert used == [{other}] and found.state == "warning"
    assert "other is faster for this run" in found.what
    # Products alone of 1e15 operations take longer than this.
    found = which_device.compared(run, local, 1e-3, 1e15, "other", other)
    assert len(used) == 1 and found.state == "ok"
    assert "cpu is faster for this run" in found.what


# Those that need another model than two towers.
MODELS = {"cross_entropy": "classifier", "tri_modal": "memory_network"}


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("on_one_device")
@pytest.mark.parametrize("loss", registry.names("loss"))
def test_every_loss_learns_a_batch_by_heart(loss, tmp_path):
    model = MODELS.get(loss, "two_tower")
    of_classes = {"data__label_set": "shape", "model__num_classes": 6}
    labels = of_classes if model == "classifier" else {}
    config = tiny(f"model={model},loss={loss}", **labels)
    found = next(learning.checks(config, tmp_path))
    assert found.state == "ok" and "by heart: accuracy" in found.what, found
