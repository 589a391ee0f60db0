"""A classifier through the same loop, evaluators and library as the two towers."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import clipjax
import run_tools
from clipjax import registry
from clipjax.data.class_lists import Classes
from clipjax.encoder import Encoder
from clipjax.engine import run
from clipjax.evals import classification
from clipjax.evals.common.inputs import Inputs
from clipjax.types import Example, UserError

SHAPES = {"model__num_classes": 6, "data__label_set": "shape"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("classifier")
    with run_tools.one_device():
        config = run_tools.tiny("model=classifier", evals=True, **SHAPES)
        config.data.eval.split = "heldout"
        said = run_tools.train(config, folder / "run")
    return folder / "run", said


@pytest.mark.thorough
def test_trains_evaluates_and_loads(trained):
    folder, said = trained
    result = said.outcome.results["classification"]
    assert result.primary == "top1" and result.metrics["top5"].chance == pytest.approx(
        5 / 6
    )
    assert "loss" in said and "classification top1" in said
    loaded = clipjax.load(folder)
    names = json.loads((folder / "classes.json").read_text())["names"]
    assert loaded.class_names == tuple(names) and len(names) == 6
    assert not (folder / "tokenizer.json").exists()
    source = registry.load("data", "scenes")("heldout", eval_size=32, resolution=16)
    shares = loaded.classify([source[i].image for i in range(8)])
    assert shares.shape == (8, 6)
    np.testing.assert_allclose(shares.sum(axis=1), 1, rtol=1e-5)
    with pytest.raises(UserError, match="is a classifier: use classify"):
        loaded.encode_image([source[0].image])
    with pytest.raises(UserError, match="encodes no text"):
        loaded.encode_text(["a dog"])


@pytest.mark.thorough
def test_what_it_says_by_hand(trained):
    """Top-1 of the evaluator is that of the probabilities."""
    folder, said = trained
    loaded = clipjax.load(folder)
    source = registry.load("data", "scenes")("heldout", eval_size=32, resolution=16)
    labelled = [source[i] for i in range(32) if "shape" in source[i].labels]
    chosen = loaded.classify([example.image for example in labelled]).argmax(axis=1)
    right = [example.labels["shape"] for example in labelled]
    found = said.outcome.results["classification"].metrics["top1"].value
    assert found == pytest.approx(np.mean(chosen == right))


class Brightness:
    """A model whose logits are the brightness and its complement."""

    image_output = "logits"

    def encode_image(self, variables, image):
        mean = image.astype("float32").mean(axis=(1, 2, 3)) / 255
        return {"logits": jnp.stack([mean, 0 * mean + 0.5], axis=1)}


class Grey:
    max_captions = 0
    templates = {}

    def __init__(self, values, labels, names):
        self.values, self.labels = values, labels
        self.class_names = {"kind": names, "other": ["x", "y"]}
        self.caption_counts = np.zeros(len(values), np.int32)

    def __len__(self):
        return len(self.values)

    def __getitem__(self, index):
        label = {} if self.labels[index] is None else {"kind": self.labels[index]}
        return Example(np.full((8, 8, 3), self.values[index], np.uint8), (), label)


@pytest.mark.parametrize("names", [["light", "dark"], ["dark", "light"]])
def test_classes_are_matched_by_name(names):
    crop = registry.load("preprocess", "clip")(8)
    encoder = Encoder(Brightness(), None, crop, classes=Classes(("light", "dark")))
    light, dark = names.index("light"), names.index("dark")
    source = Grey([250, 200, 10, 240, 30], [light, light, dark, dark, None], names)
    result = classification.make(Inputs(encoder, source)).run({})
    assert result.metrics["top1"].value == 0.75 and result.metrics["top1"].chance == 0.5
    assert result.metrics["mean_class_recall"].value == 0.75
    assert result.size == "4 images, 2 classes"
    assert result.rows["label_name"] == ["light", "light", "dark", "dark"]
    assert result.rows["prediction_name"] == ["light", "light", "dark", "light"]
    assert result.rows["rank"].tolist() == [1, 1, 1, 2]
    assert result.rows["label"].tolist() == [0, 0, 1, 1]  # the model's numbers
    with pytest.raises(UserError, match="choose data with labels that it knows"):
        classification.make(Inputs(encoder, Grey([1], [0], ["bright", "dark"])))


def prepared(arg, tmp_path, **changes):
    with run_tools.one_device():
        return run.prepare(run_tools.tiny(arg, **changes), tmp_path, True)


@pytest.mark.parametrize(
    ("arg", "changes", "message"),
    [
        ("model=classifier", {}, "several label sets: choose one of shape"),
        ("model=classifier", SHAPES | {"model__num_classes": 5}, "have 6 classes"),
        ("model=classifier,loss=clip", SHAPES, "loss=clip: this model is a classifier"),
        ("loss=cross_entropy", {}, "is no classifier: it has embeddings; choose model"),
        (
            "model=classifier",
            {"data__label_set": "hue"},
            "the label sets shape, colour",
        ),
    ],
)
def test_what_does_not_fit_is_said(tmp_path, arg, changes, message):
    with pytest.raises(UserError, match=message):
        prepared(arg, tmp_path, **changes)


def test_evaluators_that_need_the_other_kind(tmp_path):
    with pytest.raises(UserError, match="evals=retrieval: this model is a classifier"):
        prepared("model=classifier,evals=retrieval", tmp_path, evals=True, **SHAPES)
    with pytest.raises(UserError, match="evals=classification: this model is no class"):
        prepared("evals=classification", tmp_path, evals=True)


def test_a_word_for_a_tower_it_lacks():
    with pytest.raises(UserError, match="model=classifier has no text tower"):
        run_tools.tiny("model=classifier,text=bert")


def test_report_5s_parameters():
    """ResNet-50 with 5 classes: 23,518,277, as the report says."""
    tower = registry.load("image", "resnet")(224, variant="50")
    model = registry.load("model", "classifier")(tower, num_classes=5)
    params = jax.eval_shape(lambda: model.init(jax.random.key(0)))["params"]
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 23_518_277
