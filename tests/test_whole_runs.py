"""Released models and runs, trained and evaluated by functions and by commands."""

import pathlib
import shutil

import numpy as np
import pytest
import released_tools
from command_tools import failure
from config_tiny import get_config
from marks import mostly
from rich.console import Console
from source_tools import jpeg

import clipjax
from clipjax import evals_flags, evaluate, export, results
from clipjax.encoder import Encoder
from clipjax.types import UserError

pytestmark = pytest.mark.usefixtures("on_one_device")
TEMPLATE = "a photo of a {}."


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {name: write(folder / name) for name, write in released_tools.FORMS.items()}


@pytest.fixture(scope="module")
def flowers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "flowers"
    for number, name in enumerate(("dog", "cat", "red bird")):
        for split, first in (("test", 0), ("train", 4)):
            place = folder / split / name
            place.mkdir(parents=True)
            for i in range(first, first + 4):
                (place / f"{i}.jpg").write_bytes(jpeg(number * 10 + i))
    return folder


def flags(model, flowers, *more):
    data = [f"--data.path={flowers}", "--data.split=test"]
    return [f"--model={model}", "--evals=zeroshot", "--data=imagefolder", *data, *more]


@pytest.mark.parametrize("form", mostly(released_tools.FORMS, ["hf"]))
def test_a_released_model_by_the_command(
    form, models, flowers, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    more = f"--evals.zeroshot.templates=('{TEMPLATE}',)"
    argv = flags(models[form], flowers, more, "--classes")
    assert evaluate.main(["evaluate", *argv]) == 0
    printed = capsys.readouterr().out
    table = printed[printed.index("zeroshot, classes of class") :].splitlines()
    assert {line.split()[0] for line in table[2:5]} == {"dog", "cat", "red"}
    place = tmp_path / "evaluations" / f"{form}-zeroshot-imagefolder-flowers-test"
    assert str(place) in printed.splitlines()[-1]
    assert f"evaluating {models[form]}" in printed
    found = results.read(place)
    assert found.meta["model"] == str(models[form])
    value = found.results["zeroshot"].metrics["class/top1"].value
    rows = found.rows("zeroshot")
    # A first rank that `ties` wrong classes share counts for each of them alike.
    first = rows["rank"] <= 1 + rows["ties"] / 2
    assert np.mean(first / (1 + rows["ties"])) == pytest.approx(value)
    assert value == pytest.approx(by_hand(clipjax.load(models[form]), flowers))


def by_hand(clip, flowers):
    names = sorted(place.name for place in (flowers / "test").iterdir())
    files = [sorted((flowers / "test" / name).iterdir()) for name in names]
    images = clip.encode_image([file for group in files for file in group])
    texts = clip.encode_text([TEMPLATE.format(name) for name in names])
    labels = np.repeat(np.arange(len(names)), [len(group) for group in files])
    scores = images @ texts.T
    # Texts that the random weights cannot tell apart tie, but for rounding.
    best = scores > scores.max(axis=1, keepdims=True) - 1e-6
    return (best[np.arange(len(labels)), labels] / best.sum(axis=1)).mean()


def test_where_results_go(models, flowers, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    argv = flags(models["hf"], flowers, "--out=mine")
    assert evaluate.main(["evaluate", *argv]) == 0
    assert [place.name for place in tmp_path.iterdir()] == ["mine"]
    found = clipjax.evaluate_model(
        models["hf"],
        evals="zeroshot",
        evals_options={"zeroshot": {"ks": (2,)}},
        data="imagefolder",
        data_options={"path": str(flowers)},
        split="test",
    )
    assert {"class/top1", "class/top2"} <= found["zeroshot"].metrics.keys()
    assert len(found["zeroshot"].rows["key"]) == 12
    assert [place.name for place in tmp_path.iterdir()] == ["mine"]


def test_an_evaluator_that_fails_leaves_the_others_results(
    models, flowers, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    data = shutil.copytree(flowers, tmp_path / "flowers")
    for place in (data / "train").rglob("*.jpg"):
        place.write_bytes(b"damaged")
    argv = flags(models["hf"], data)
    argv[1] = "--evals=knn+zeroshot+score"
    said = failure(capsys, evaluate.main, *argv)
    assert said.startswith("error: 2 of 3 evaluators failed, and the results lack them")
    assert ": evals=knn: no train image with a label" in said
    assert "; evals.score: it is of others, and knn failed" in said
    found = results.read(*(tmp_path / "evaluations").iterdir())
    assert list(found.results) == ["zeroshot"] and len(found.rows("zeroshot")["key"])
    assert found.meta["failed"].keys() == {"knn", "score"}
    # A function, and a suite, raise what is wrong, and leave no results.
    with pytest.raises(UserError, match="evals=knn: no train image"):
        clipjax.evaluate_model(
            models["hf"],
            evals="zeroshot+knn",
            data="imagefolder",
            data_options={"path": str(data)},
            split="test",
            out="out",
        )
    assert not (tmp_path / "out").exists()
    # Nothing is written if there is nothing.
    argv[1] = "--evals=knn"
    assert "error: evals=knn: no train image" in failure(capsys, evaluate.main, *argv)
    assert len(list((tmp_path / "evaluations").iterdir())) == 1


@pytest.mark.thorough
def test_training_images_are_encoded_once_for_all(
    models, flowers, tmp_path, monkeypatch, capsys
):
    encoded, original = [], Encoder.images

    def counting(self, variables, examples, indices=None, **options):
        encoded.extend(examples.key_of(index) for index in indices)
        return original(self, variables, examples, indices, **options)

    monkeypatch.setattr(Encoder, "images", counting)
    data = ["--data=imagefolder", f"--data.path={flowers}", "--data.split=test"]
    evals = ["--evals=knn+probe+few_shot", "--evals.probe.l2=1.0"]
    evals += ["--evals.few_shot.shots=(1, 2)", "--evals.knn.neighbours=(3,)"]
    argv = [f"--model={models['hf']}", *data, *evals, f"--out={tmp_path / 'out'}"]
    assert evaluate.main(["evaluate", *argv]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "evals.probe: needs 12 images of 'train', encoded once for all" in printed
    assert len(set(encoded)) == len(encoded) == 24
    found = results.read(tmp_path / "out")
    for label in ("knn", "probe", "few_shot"):
        assert "features before the projection" in found.results[label].protocol
        assert len(found.rows(label)["key"]) == 12
    metric = found.results["few_shot"].metrics["class/shots_2/top1"]
    column = found.rows("few_shot")["class/shots_2/top1"]
    assert np.mean(column) == pytest.approx(metric.value)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--model=MODEL"], "no evaluators of its own: name them by --evals=zeroshot"),
        (["--model=MODEL", "--evals=zeroshot"], "no evaluation data of its own"),
        (["--model=MODEL", "--evals=zeroshot", "--data.path=x"], "no evaluation data"),
        (["--model=MODEL", "--evals=zroshot", "--data=scenes"], "unknown evals 'zro"),
        (
            ["--model=MODEL", "--evals=zeroshot", "--evals.zeroshot.k=1"],
            "zeroshot has no option --evals.zeroshot.k.",
        ),
        (
            ["--model=MODEL", "--evals=zeroshot", "--evals.retrieval.ks=1"],
            "--evals.retrieval.ks: write --evals.LABEL.KEY=VALUE",
        ),
        (["--model=MODEL", "--workdir=x"], "both name the model"),
        (["--model=gone"], "gone is no run directory"),
        (["--model=MODEL", "--evals"], "--evals: write it as --evals=VALUE"),
        (
            ["--model=MODEL", "--evals=zeroshot", "--data=imagefolder"],
            "set it with --data.path=FOLDER",
        ),
        (
            ["--model=MODEL", "--evals=classification", "--data=scenes"],
            "no classifier",
        ),
    ],
)
def test_mistakes(models, argv, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    argv = [word.replace("MODEL", str(models["hf"])) for word in argv]
    assert words in failure(capsys, evaluate.main, *argv)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("file", "change", "words"),
    [
        ("tokenizer.json", None, "no tokenizer fits: it holds no tokenizer.json"),
        ("model.safetensors", None, "no weight file by a name that clipjax reads"),
        ("config.json", ('"clip"', '"blip"'), "'blip' is of no format that clipjax"),
    ],
)
def test_folders_that_lack_something(
    models, flowers, tmp_path, monkeypatch, capsys, file, change, words
):
    monkeypatch.chdir(tmp_path)
    path = shutil.copytree(models["hf"], tmp_path / "model") / file
    if change:
        path.write_text(path.read_text().replace(*change))
    else:
        path.unlink()
    assert words in failure(capsys, evaluate.main, *flags("model", flowers))


@pytest.mark.thorough
def test_a_folder_without_its_preprocessing(
    models, flowers, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    whole, model = models["hf"], shutil.copytree(models["hf"], pathlib.Path("model"))
    (model / "preprocessor_config.json").unlink()
    commands = [
        (evaluate.main, ["evaluate", *flags("model", flowers)]),
        (export.main, ["export", "--model=model", "--format=hf", "--out=out"]),
    ]
    for main, argv in commands:
        line = failure(capsys, main, *argv[1:])
        assert f"{model / 'preprocessor_config.json'} is missing. Put" in line
        assert "--preprocess=NAME of evaluate and export" in line
        # What is stated takes the file's place, with the kind's own mean and std.
        assert main([*argv, "--preprocess=clip"]) == 0
        for name, said in (("squahs", "'squash'"), ("", "is missing")):
            assert said in failure(capsys, main, *argv[1:], f"--preprocess={name}")
        # It does not contradict the files of a model that has them.
        whole_argv = [word.replace("=model", f"={whole}") for word in argv[1:]]
        line = failure(capsys, main, *whole_argv, "--preprocess=squash")
        assert "says preprocess=clip: leave it out" in line
    picture = np.random.default_rng(0).integers(0, 255, (20, 30, 3), np.uint8)
    given = clipjax.load(model, preprocess="clip").encode_image(picture)
    np.testing.assert_array_equal(given, clipjax.load(whole).encode_image(picture))
    other = clipjax.load(model, preprocess="squash").encode_image(picture)
    assert np.abs(other - given).max() > 1e-3
    (model / "tokenizer.json").unlink()
    with pytest.raises(UserError, match="is missing.*no tokenizer fits"):
        clipjax.load(model)


def test_flags_of_evaluators():
    found, rest = evals_flags.read(["--evals=a+b@c", "x", "--evals.a.k", "3"])
    assert (found.names, found.values, rest) == ("a+b@c", {"a.k": "3"}, ["x"])
    assert found.words == "a-b-c" and not evals_flags.NONE


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("ks", "5", (5,)),
        ("ks", "1,5", (1, 5)),
        ("ks", "(3,)", (3,)),
        ("label_sets", "2024", ("2024",)),
        ("label_sets", "shape", ("shape",)),
        ("templates", "a photo, of a {}", ("a photo, of a {}",)),
        ("templates", "('a {}', 'the {}')", ("a {}", "the {}")),
    ],
)
def test_one_value_of_several_is_a_tuple(key, text, value):
    chosen = evals_flags.EvalsFlags("zeroshot", {f"zeroshot.{key}": text})
    assert chosen.put(get_config("")).evals.zeroshot[key] == value


def test_a_tuple_of_other_values_is_refused():
    for text in ("five", "1.5", "(1, 'two')"):
        chosen = evals_flags.EvalsFlags("zeroshot", {"zeroshot.ks": text})
        with pytest.raises(UserError, match="--evals.zeroshot.ks=.*must be int"):
            chosen.put(get_config(""))


@pytest.mark.thorough
def test_a_run_by_functions(tmp_path, capsys):
    made = get_config()
    made.train.steps = 2
    outcome = clipjax.train_model(made, tmp_path / "run")
    assert outcome.step == 2 and "starting from scratch" in capsys.readouterr().out
    with (tmp_path / "said").open("w") as file:
        found = clipjax.evaluate_model(tmp_path / "run", console=Console(file=file))
    assert "retrieval: " in (tmp_path / "said").read_text()
    key = found["retrieval"].primary
    trained = outcome.results["retrieval"].metrics[key].value
    assert found["retrieval"].metrics[key].value == pytest.approx(trained, abs=0.05)
    before = {place.name for place in (tmp_path / "run").iterdir()}
    clipjax.train_model(made, tmp_path / "run")
    told = capsys.readouterr().out
    assert "complete: all 2 steps" in told and "clipjax.evaluate" not in told
    with pytest.raises(UserError, match="holds a run of another length"):
        with made.unlocked():
            made.train.steps = 3
        clipjax.train_model(made, tmp_path / "run")
    # Other evaluators than the run's, on its own data.
    capsys.readouterr()
    argv = ["evaluate", f"--workdir={tmp_path / 'run'}", "--evals=zeroshot"]
    assert evaluate.main([*argv, "--evals.zeroshot.label_sets=shape"]) == 0
    assert {place.name for place in (tmp_path / "run").iterdir()} == before
    names = [place.name for place in results.folders(tmp_path / "run")]
    assert names == ["2", "2-zeroshot"]
    found = results.read(tmp_path / "run" / "evaluations" / "2-zeroshot").results
    assert list(found) == ["zeroshot"]
    assert {key.split("/")[0] for key in found["zeroshot"].metrics} == {"shape"}
    assert "--evals=zeroshot or" in failure(
        capsys, evaluate.main, argv[1], "--evals=none"
    )
    # A run that was killed after its last checkpoint and before its results.
    shutil.rmtree(tmp_path / "run" / "evaluations")
    with made.unlocked():
        made.train.steps = 2
    clipjax.train_model(made, tmp_path / "run")
    told = capsys.readouterr().out
    command = f"--workdir {tmp_path / 'run'} --checkpoint 2 writes it"
    assert f"not in {tmp_path / 'run' / 'evaluations' / '2'}: " in told
    assert command in told
    assert evaluate.main([*argv[:2], *command.split()[2:4]]) == 0
    assert [place.name for place in results.folders(tmp_path / "run")] == ["2"]


def test_out_may_be_no_mount_point(tmp_path, monkeypatch):
    """No folder can be renamed to one: said before the work."""
    (tmp_path / "out").mkdir()
    assert results.new_folder(tmp_path / "out") == tmp_path / "out"
    monkeypatch.setattr(pathlib.Path, "is_mount", lambda _: True)
    with pytest.raises(UserError, match=r"mount point.* such as .*out/results"):
        results.new_folder(tmp_path / "out")
