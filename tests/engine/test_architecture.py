"""model=released: another model's settings in a config, and init_from's comparison."""

import json
import pathlib
import shlex
import shutil

import numpy as np
import pytest
import released_tools
from command_tools import failure
from config_tiny import get_config

import clipjax
from clipjax import config_check, export, run_command, train
from clipjax.config import base, create
from clipjax.engine import architecture
from clipjax.types import UserError
from clipjax.weights.tensors import tensor_files
from run_tools import ROOT

pytestmark = pytest.mark.usefixtures("on_one_device")
TINY = str(ROOT / "tests" / "config_tiny.py")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {name: write(folder / name) for name, write in released_tools.FORMS.items()}


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def opened(model, *flags, words="model=released"):
    argv = [f"--config={TINY}:{words}", f"--config.model.path={model}", *flags]
    return run_command.read("train", ["train", *argv], extend=False, dry_run=False)[0]


@pytest.mark.parametrize("form", released_tools.FORMS)
def test_a_config_becomes_the_models(form, models):
    found = opened(models[form])
    theirs = clipjax.load(models[form]).config
    for key in ("model", "data.tokenizer", "data.preprocess", "data.image_size"):
        here, there = config_check.flat(found), config_check.flat(theirs)
        parts = {k: v for k, v in there.items() if k == key or k.startswith(f"{key}.")}
        assert parts and {k: here.get(k) for k in parts} == parts
    assert found.init_from == str(models[form]) and "path" not in found.model
    # The rest is the file's.
    assert found.data.batch_size == 16 and found.train.steps == 8
    assert found.data.eval.resolution == 16


def test_what_agrees_and_what_is_of_training(models):
    found = opened(
        models["hf"],
        "--config.model.embed_dim=16",
        "--config.model.precision=bfloat16",
        "--config.model.image.patch_dropout=0.5",
        "--config.data.image_size=12",
        words="model=released,image=vit,tokenizer=hf_json,loss=siglip",
    )
    assert found.model.precision == "bfloat16"
    assert found.model.image.patch_dropout == 0.5
    assert found.model.logit_bias_init == -10.0  # which the loss adds


@pytest.mark.parametrize(
    ("words", "flags", "said"),
    [
        ("image=resnet", [], ["image=resnet: ", "has image=vit", "leave it out"]),
        ("tokenizer=words", [], ["tokenizer=words: ", "has tokenizer=hf_json"]),
        (
            "",
            ["model.image.width=32", "model.text.depth=3", "model.precision=bfloat16"],
            ["model.image.width=32 (it has 64), ", "model.text.depth=3 (it has 1)"],
        ),
        ("", ["data.image_size=24"], ["data.image_size=24 (it has 12)", "init_from="]),
        ("", ["data.tokenizer.context_length=9"], ["context_length=9 (it has 40)"]),
        ("", ["model.mean=(0.5,0.5,0.5)"], ["model.mean=(0.5, 0.5, 0.5) (it has"]),
        ("", ["init_from=runs/x"], ["init_from=runs/x: model=released starts from"]),
        ("", ["model.image.depths=(1,)"], ["unknown config key 'model.image.depths'"]),
        ("", ["model.path="], ["model=released: name the model by --config.model.p"]),
        ("", ["model.path=gone"], ["model.path=gone: there is no such folder"]),
        ("", ["model.path=."], ["model.path=.: this is no released model"]),
    ],
)
def test_contradictions(models, words, flags, said, capsys):
    argv = [f"--config={TINY}:model=released,{words}"]
    argv += [f"--config.model.path={models['hf']}", *(f"--config.{f}" for f in flags)]
    line = failure(capsys, train.main, *argv)
    for part in said:
        assert part.replace("[", "(") in line.replace("[", "(").replace("]", ")"), line
    assert "precision" not in line


def test_a_model_without_preprocessing(models, capsys):
    model = shutil.copytree(models["hf"], pathlib.Path("model"))
    (model / "preprocessor_config.json").unlink()
    argv = [f"--config={TINY}:model=released", "--config.model.path=model"]
    line = failure(capsys, train.main, *argv)
    assert "preprocessor_config.json is missing" in line
    assert "--config.model.preprocess=NAME of model=released" in line
    found = opened("model", "--config.model.preprocess=squash")
    assert found.data.preprocess.name == "squash" and "preprocess" not in found.model
    made = get_config("model=released")
    made.model.path, made.model.preprocess = "model", "clip"
    settled = architecture.with_released_settings(made, pathlib.Path("run"))
    assert settled.data.preprocess.name == "clip"
    line = failure(
        capsys, train.main, *argv[:1], f"--config.model.path={models['hf']}",
        "--config.model.preprocess=squash",
    )  # fmt: skip
    assert "says preprocess=clip: leave it out" in line


def test_other_config_files_have_no_path(capsys):
    line = failure(capsys, train.main, f"--config={TINY}", "--config.model.path=x")
    assert "path is an option of model=released" in line
    with pytest.raises(UserError, match="train such a config by clipjax.train_model"):
        create("model", base("model=released").model, None, None)


@pytest.mark.thorough
def test_train_resume_and_load_without_the_model(models, capsys, caplog):
    model = shutil.copytree(models["hf"], "model")
    theirs = clipjax.load(model)
    words = "model=released,evals=none"
    argv = ["train", f"--config={TINY}:{words}", "--config.model.path=model"]
    argv += ["--workdir=run", "--config.optim.lr=1e-12"]
    argv += ["--config.model.text.dropout=0.1"]
    more = ["--config.train.steps=1", "--config.train.val_batches=0"]
    assert train.main([*argv, *more]) == 0
    assert "starting from the parameters of model" in capsys.readouterr().out
    # A flag that is left out is a change of the run, as in any other run.
    line = refusal(*argv[1:-1], *more)
    assert "model.text.dropout: 0.1 -> 0.0" in line and not warnings(caplog)
    shutil.rmtree(model)
    ours = clipjax.load("run")
    image = np.full((20, 20, 3), 90, np.uint8)
    np.testing.assert_allclose(
        ours.encode_image([image]), theirs.encode_image([image]), atol=1e-5
    )
    np.testing.assert_allclose(
        ours.encode_text(["a dog"]), theirs.encode_text(["a dog"]), atol=1e-5
    )
    # And out again, with equal embeddings.
    assert export.main(["export", "--model=run", "--format=hf", "--out=out"]) == 0
    again = clipjax.load("out")
    for name in ("encode_image", "encode_text"):
        given = [image] if name == "encode_image" else ["a dog", "a red horse"]
        np.testing.assert_array_equal(
            getattr(again, name)(given), getattr(ours, name)(given)
        )
    more[0] = "--config.train.steps=2"
    assert train.main([*argv, *more, "--extend"]) == 0
    assert "resuming" in capsys.readouterr().out
    # Without the model nothing else tells its settings from those of flags.
    (said,) = warnings(caplog)
    assert "the settings of model are those that the run saved" in said
    # A flag that was not given before is a change of the run.
    more.append("--config.model.precision=bfloat16")
    line = refusal(*argv[1:], *more)
    assert "model.precision: 'float32' -> 'bfloat16'" in line
    # As a config from Python, and in another folder there is nothing to start from.
    made = get_config("model=released")
    made.model.path = "model"
    with pytest.raises(UserError, match="model.path=model: there is no such folder"):
        clipjax.train_model(made, "other")


def warnings(caplog):
    """Ours, of all that libraries say too."""
    ours = [one for one in caplog.records if one.name.startswith("clipjax")]
    return [one.getMessage() for one in ours]


def refusal(*argv):
    with pytest.raises(UserError) as error:
        train.main(["train", *argv])
    return str(error.value)


@pytest.mark.thorough
def test_init_from_names_every_difference_and_what_fits(models, capsys):
    argv = [f"--config={TINY}:tokenizer=words,image=vit", "--dry_run"]
    argv += [f"--config.init_from={models['hf']}", "--config.train.val_batches=0"]
    line = failure(capsys, train.main, *argv)
    for option, ours, theirs in (
        ("model.image.variant", 8, 4),
        ("model.image.width", 32, 64),
        ("model.text.width", 32, 64),
        ("model.text.activation", "'gelu'", "'quick_gelu'"),
    ):
        assert f"{option}: {ours}, there {theirs}" in line or (
            f"{option}: {ours} does not fit" in line
        )
    assert "its tokenizer gives other ids" in line
    assert "model=released --config.model.path=" in line
    fitting = shlex.split(line.partition("What fits: ")[2].partition(" The whole")[0])
    assert fitting[:2] == ["--config", "FILE.py:tokenizer=hf_json"]
    assert "--config.model.embed_dim=16" not in fitting  # which is so already
    argv[0] = f"--config={TINY}:image=vit,tokenizer=hf_json"
    assert train.main(["train", *argv, *fitting[2:]]) == 0
    assert f"it would start from {models['hf']}" in capsys.readouterr().out
    # Images and texts of other sizes are fitted, with the same flags.
    for removed in (2, 3):
        shorter = [*fitting[2:removed], *fitting[removed + 1 :]]
        assert "does not fit" in failure(capsys, train.main, *argv, *shorter)


@pytest.mark.thorough
def test_spare_ids_of_a_table_are_left_out(models, tmp_path):
    """As of models whose vocabulary is rounded up."""
    model = shutil.copytree(models["hf"], tmp_path / "model")
    config = json.loads((model / "config.json").read_text())
    config["text_config"]["vocab_size"] += 3
    (model / "config.json").write_text(json.dumps(config))
    tensors = dict(tensor_files.read(model / "model.safetensors"))
    name = "text_model.embeddings.token_embedding.weight"
    tensors[name] = np.pad(np.asarray(tensors[name]), ((0, 3), (0, 0)))
    tensor_files.write_safetensors(model / "model.safetensors", tensors)
    words = "model=released,evals=none"
    argv = [f"--config={TINY}:{words}", f"--config.model.path={model}", "--dry_run"]
    assert train.main(["train", *argv, "--config.train.val_batches=0"]) == 0


def test_an_ordinary_config_stays_as_it_is(models):
    found = opened(models["hf"], "--workdir=run")
    assert architecture.with_released_settings(found, pathlib.Path("run")) is found
