"""The five reports' configs: each builds, and has its report's number of parameters."""

import dataclasses
import importlib.util
import itertools
import math

import dataset_tools
import jax
import numpy as np
import pytest

import run_tools
from clipjax import config_check, registry
from clipjax.config import create
from clipjax.encoder import Encoder
from clipjax.engine import assemble, datasets
from clipjax.testing import evaluator_contract

REPORTS = run_tools.ROOT / "configs" / "reports"


@dataclasses.dataclass
class Sizes:
    """In place of a tokenizer that needs a vocabulary."""

    vocab_size: int
    context_length: int


def config(name, arg=None):
    spec = importlib.util.spec_from_file_location(name, REPORTS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(arg)


def count(made, words):
    model = assemble.model(made, words)
    params = jax.eval_shape(lambda: model.init(jax.random.key(0)))["params"]
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize(
    ("name", "arg", "words", "parameters"),
    [
        ("flickr30k_clip", None, Sizes(49_408, 77), 137_011_457),
        ("small_cpu", None, "own", 76_736_001),
        ("small_cpu", "size=tiny", "own", 9_885_441),
        ("small_cpu", "size=base", "own", 172_120_321),
        ("five_losses", "loss=cyclip,optim=sgd", Sizes(30_522, 30), 90_592_320),
        ("resnet_classifier", "size=tiny", None, 23_518_277),
    ],
)
def test_parameters(name, arg, words, parameters):
    made = config(name, arg)
    config_check.validate(made)
    if words == "own":
        words = create("tokenizer", made.data.tokenizer, None, None)
    assert count(made, words) == parameters


def test_the_checkpoints_of_report_1():
    """598 MB are a text tower of 12 layers, not the 8 that the report says."""
    made = config("flickr30k_clip")
    made.model.text.depth = 12
    assert count(made, Sizes(49_408, 77)) == 149_620_993


@pytest.mark.parametrize("loss", ["clip", "sogclr", "cyclip", "vicreg", "onlineclr"])
@pytest.mark.parametrize("optim", ["adamw", "sgd", "adam"])
def test_report_4s_grid(loss, optim):
    config_check.validate(config("five_losses", f"loss={loss},optim={optim}"))


def test_report_4s_mean(tmp_path):
    """Of MS-COCO's captions and ImageNet's folders, by a model of random numbers."""
    dataset_tools.coco(tmp_path / "coco")
    for split, name in itertools.product(("train", "val"), ("n01440764", "n02012849")):
        dataset_tools.images(tmp_path / "imagenet" / split / name, ["a.JPEG", "b.JPEG"])
    made = config("five_losses")
    for label, folder in (("retrieval", "coco"), ("zeroshot", "imagenet")):
        made.evals[label].data.path = str(tmp_path / folder)
    assert datasets.eval_source(made, val_loss=False) is None
    encoder = Encoder(
        evaluator_contract.Model("image_embed"),
        create("tokenizer", config("small_cpu").data.tokenizer, None, None),
        registry.load("preprocess", "squash")(8),
        batch_size=4,
    )
    sources = datasets.own_sources(made, None)
    evaluators = assemble.evaluators(made, encoder, None, sources)
    evaluators.check_metric(made.checkpoint.best, "checkpoint.best")
    draw = np.random.default_rng(0)
    tables = {name: draw.standard_normal((256, 8)) for name in ("image", "text")}
    found = evaluators.run({"params": tables})
    assert list(found) == ["retrieval", "zeroshot", "score"]
    parts = [
        found[label].metrics[name]
        for label, name in (
            ("retrieval", "image_to_text_recall@1"),
            ("retrieval", "text_to_image_recall@1"),
            ("zeroshot", "class/top1"),
        )
    ]
    mean = found["score"].metrics["mean"]
    assert mean.value == pytest.approx(sum(part.value for part in parts) / 3)
    assert mean.chance == pytest.approx(1 / 2)  # of two images, and of two classes
    assert mean.n == 2 + 10 + 4 and mean.low < mean.value < mean.high


def test_report_1s_learning_rates():
    """Its table: epochs 1, 5, 10 to 50, stepped once an epoch, 16 steps each."""
    made = config("flickr30k_clip")
    rate = create("schedule", made.optim.schedule, made.optim.lr, 800, 16)
    epochs = [1, 5, 10, 15, 20, 25, 30, 35, 40, 44, 50]
    table = [1, 0.984, 0.923, 0.821, 0.687, 0.536, 0.382, 0.240, 0.124, 0.057, 0.011]
    for epoch, expected in zip(epochs, table, strict=True):
        for step in (16 * (epoch - 1), 16 * epoch - 1):
            assert float(rate(step)) == pytest.approx(1e-4 * expected, abs=6e-8)


def test_what_tiny_inherits():
    whole, tiny = config("resnet_classifier"), config("resnet_classifier", "size=tiny")
    assert tiny.optim.weight_decay == whole.optim.weight_decay == 1e-4
    assert (tiny.optim.lr, whole.optim.lr) == (0.01, 0.1)
    assert config_check.flat(tiny).keys() == config_check.flat(whole).keys()
