"""The match cut-off from an evaluation to the library, and what is not taken for it."""

import dataclasses
import json
import math
import os
import pathlib
import pickle
import shutil
import tarfile

import numpy as np
import pytest
import released_tools
from command_tools import failure
from config_tiny import get_config
from source_tools import jpeg

import clipjax
import run_tools
from clipjax import evaluate, library, registry, results
from clipjax import identity as identities
from clipjax.types import EvalResult, Metric, UserError

pytestmark = pytest.mark.usefixtures("on_one_device")
SAVED = pathlib.Path(__file__).parent / "scenarios" / "goldens" / "saved_run.tar.gz"
DATA = ["--data=scenes", "--data.eval_size=12", "--data.resolution=16"]


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    """A run with its cut-off, made by the command."""
    folder = tmp_path_factory.mktemp("saved")
    with tarfile.open(SAVED) as file:
        file.extractall(folder, filter="data")
    argv = ["evaluate", f"--workdir={folder / 'run'}", "--evals=match", *DATA]
    assert evaluate.main([*argv, "--data.split=val"]) == 0
    return folder / "run"


@pytest.fixture
def run(evaluated, tmp_path):
    """A copy of it, which a test may change."""
    return shutil.copytree(evaluated, tmp_path / "run")


@pytest.fixture(scope="module")
def clip(evaluated):
    return clipjax.load(evaluated)


def evaluation(run):
    (folder,) = results.folders(run)
    return results.read(folder)


def fit(slope, intercept, label="match", name="match", **meta):
    """An evaluation with this fit, as `results.save` takes it."""
    metrics = {"slope": Metric(slope), "intercept": Metric(intercept)}
    found = EvalResult(metrics, "slope", "12 images")
    return {"": ({label: found}, {"evals": {label: {"name": name}}, **meta})}


def identity(run):
    parts = library.read(str(run), "best", True)
    return identities.identity(
        parts.config, parts.model, parts.variables, parts.tokenizer
    )


def save(run, name, parts, age=0.0):
    """An evaluation made `age` seconds before the present one."""
    folder = results.save(run / "evaluations" / name, parts)[0]
    made = max(at.stat().st_mtime for at in folder.parent.glob("*/results.json"))
    os.utime(folder / "results.json", (made - age, made - age))
    return folder


def test_probabilities_are_those_of_the_evaluation(evaluated, clip):
    rows = evaluation(evaluated).rows("match")
    source = registry.load("data", "scenes")("val", eval_size=12, resolution=16)
    places = {source[i].key: i for i in range(12)}
    for at in range(0, len(rows["key"]), 7):
        image = np.asarray(source[places[rows["key"][at]]].image)
        found = clip.match_probability(image, rows["captions"][at][0])
        assert found == pytest.approx(rows["probability"][at], abs=1e-4)
    assert clip.cutoff.origin == str(results.folders(evaluated)[0])


def test_shapes_and_forms_are_those_of_similarity(clip):
    images = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), np.uint8)
    texts = ["a red circle", "a blue star", "squares"]
    found = clip.match_probability(images, texts)
    assert found.shape == (2, 3) and found.dtype == np.float32
    sigmoid = evaluation_of(clip)
    expected = 1 / (
        1
        + np.exp(
            -sigmoid["slope"] * clip.similarity(images, texts) - sigmoid["intercept"]
        )
    )
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert clip.match_probability(images[0], texts).shape == (3,)
    assert clip.match_probability(images, texts[0]).shape == (2,)
    assert clip.match_probability(images[0], texts[0]).shape == ()
    embeds = clip.encode_image(images), clip.encode_text(texts)
    np.testing.assert_allclose(clip.match_probability(*embeds), found, atol=1e-6)
    embeds[0][0] = np.nan
    assert np.isnan(clip.match_probability(*embeds)).tolist() == [
        [True] * 3,
        [False] * 3,
    ]
    rare = clip.match_probability(images, texts, prior=0.01)
    odds = found / (1 - found.astype(float)) * 0.01 / 0.99
    np.testing.assert_allclose(rare, odds / (1 + odds), rtol=1e-4)


def evaluation_of(clip):
    metrics = results.read(clip.cutoff.origin).results["match"].metrics
    return {name: metric.value for name, metric in metrics.items()}


@pytest.mark.parametrize("prior", [0, 1, -0.5, math.nan])
def test_a_prior_that_is_none(clip, prior):
    with pytest.raises(UserError, match="^prior=.*: give how often pairs match"):
        clip.match_probability("gone.jpg", "a dog", prior=prior)


def test_a_loaded_model_keeps_it(clip, evaluated):
    again = pickle.loads(pickle.dumps(clip))
    assert again.cutoff == clip.cutoff
    half = clipjax.load(evaluated, dtype="bfloat16")
    assert half.cutoff == clip.cutoff


def test_the_newest_of_these_weights_is_taken(run):
    now = identity(run)
    save(run, "2-older", fit(1.0, 2.0, identity=now), age=50)
    assert clipjax.load(run).cutoff.origin.endswith(evaluation_name(run))
    newest = save(run, "2-newer", fit(3.0, 4.0, label="a", identity=now), age=-50)
    others = {**now, "weights": "0" * 16}
    save(run, "3-newer", fit(5.0, 6.0, identity=others), age=-90)
    save(run, "2-retrieval", fit(7.0, 8.0, name="retrieval", identity=now), age=-99)
    save(run, "2-bad", fit(math.nan, 8.0, identity=now), age=-99)
    (run / "evaluations" / "2-newer-damaged").mkdir()
    (run / "evaluations" / "2-newer-damaged" / "results.json").write_text("{")
    found = clipjax.load(run).cutoff
    assert found.sigmoid == (3, 4) and found.origin == str(newest)


def evaluation_name(run):
    return next(
        place.name for place in results.folders(run) if place.name.startswith("2-match")
    )


def change(run, changed):
    """Changes the results of the evaluation; `changed` gets the JSON."""
    file = results.folders(run)[0] / "results.json"
    content = json.loads(file.read_text())
    changed(content)
    file.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        (
            lambda x: x["meta"]["identity"].update(weights="0", tokenizer="1"),
            "is of a model with other weights and tokenizer (step 2)",
        ),
        (lambda x: x["meta"].pop("identity"), "does not say which model it is of"),
        (
            lambda x: x["results"]["match"]["metrics"]["slope"].update(
                value=None, low=None, high=None
            ),
            "has no finite fit",
        ),
        (lambda x: x.pop("meta"), "is damaged, or a later version"),
    ],
)
def test_what_is_not_taken_is_said(run, changed, why):
    change(run, changed)
    folder = results.folders(run)[0]
    found = clipjax.load(run)
    with pytest.raises(UserError) as error:
        found.match_probability("gone.jpg", "a dog")
    told = str(error.value)
    assert why in told and str(folder) in told and "\n" not in told
    assert f"python -m clipjax.evaluate --workdir {run} --evals=match" in told
    with pytest.raises(UserError) as error:
        clipjax.load(run, match=folder)
    assert why in str(error.value) and "\n" not in str(error.value)


def test_a_run_without_any(run):
    shutil.rmtree(run / "evaluations")
    with pytest.raises(UserError, match="has no match cut-off: fit one on captioned"):
        clipjax.load(run).match_probability("gone.jpg", "a dog")
    other = clipjax.load(run, checkpoint="latest", ema=False)
    with pytest.raises(UserError, match="--checkpoint latest --noema --evals=match,"):
        other.match_probability("gone.jpg", "a dog")


def test_a_folder_that_has_none(run, tmp_path):
    with pytest.raises(UserError, match="is no evaluation's folder"):
        clipjax.load(run, match=tmp_path)
    other = save(run, "2-retrieval", fit(1.0, 2.0, "retrieval", "retrieval"))
    with pytest.raises(UserError, match="has no results of evals=match, but of retr"):
        clipjax.load(run, match=other)


@pytest.mark.thorough
def test_a_released_model(tmp_path, monkeypatch, capsys):
    """With prompts of classes, whose own copies are no wrong pairs."""
    monkeypatch.chdir(tmp_path)
    model = released_tools.hf(tmp_path / "model")
    for number in range(16):
        path = tmp_path / "flowers" / "test" / ("dog", "cat")[number % 2]
        path.mkdir(parents=True, exist_ok=True)
        (path / f"{number}.jpg").write_bytes(jpeg(number))
    with pytest.raises(UserError) as error:
        clipjax.load("model").match_probability("gone.jpg", "a dog")
    assert "python -m clipjax.evaluate --model model --evals=match" in str(error.value)
    assert "--out DIR, and give clipjax.load match=DIR" in str(error.value)
    data = ["--data=imagefolder", "--data.path=flowers", "--data.split=test"]
    data += ["--data.caption_templates=('a {}',)"]
    argv = ["--model=model", "--evals=match", *data, "--out=cutoff"]
    assert evaluate.main(["evaluate", *argv]) == 0
    clip = clipjax.load("model", match="cutoff")
    found = clip.match_probability(
        tmp_path / "flowers/test/dog/0.jpg", ["a dog", "a cat"]
    )
    assert found.shape == (2,)
    sigmoid = evaluation_of(clip)
    assert clip.cutoff.sigmoid == (sigmoid["slope"], sigmoid["intercept"])
    # The same files, prepared otherwise, are another model.
    (model / "preprocessor_config.json").unlink()
    with pytest.raises(UserError, match="with other preprocessing"):
        clipjax.load("model", preprocess="squash", match="cutoff")
    few = [word.replace("test", "val") for word in argv]
    (tmp_path / "flowers" / "val" / "dog").mkdir(parents=True)
    shutil.copy("flowers/test/dog/0.jpg", "flowers/val/dog")
    shutil.copy("flowers/test/dog/2.jpg", "flowers/val/dog")
    few = [*few[:-1], "--out=other", "--preprocess=clip"]
    assert "needs 8 or more images" in failure(capsys, evaluate.main, *few)


def test_a_classifier_says_that_it_is_one(clip):
    model = dataclasses.replace(clip, model=Dogs())
    with pytest.raises(UserError, match="is a classifier: use classify"):
        model.match_probability("gone.jpg", "a dog")


class Dogs:
    image_output = "logits"


@pytest.mark.slow  # engine/test_evaluation.py compares what both write
def test_training_writes_it(tmp_path):
    """The evaluation of a run's end has the identity that the command finds."""
    config = get_config("evals=match")
    config.train.steps, config.train.val_batches = 2, 0
    run_tools.train(config, tmp_path / "run")
    clip = clipjax.load(tmp_path / "run")
    assert clip.cutoff.origin == str(tmp_path / "run" / "evaluations" / "2")
    assert evaluate.main(["evaluate", f"--workdir={tmp_path / 'run'}"]) == 0
    assert len(results.folders(tmp_path / "run")) == 1  # of the same content
