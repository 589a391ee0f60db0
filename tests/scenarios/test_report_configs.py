"""The five reports' configs: each builds, and has its report's number of parameters."""

import dataclasses
import importlib.util
import math

import jax
import pytest

import run_tools
from clipjax import config_check
from clipjax.config import create
from clipjax.engine import assemble

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
