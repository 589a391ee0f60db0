"""Frozen parts stay bit for bit; learning rates by layer; batch norm in parts."""

import jax
import numpy as np
import pytest
from checkpoint_helpers import bits as bits_of

import run_tools
from clipjax.engine import assemble, run
from clipjax.optim import layer_decay
from clipjax.types import UserError

RESNET = "image=resnet,optim=sgd"
TINY = {
    "model__image__variant": "18",
    "model__image__width": 4,
    "model__image__depths": (1, 1, 1, 1),
}
IMAGE = {"optim__groups": (("^image/", 0.0, 0.0),)}


def bits(tree):
    return [bits_of(leaf) for leaf in jax.tree.leaves(tree)]


def states(config, folder):
    """The states after 6 and after all 8 steps."""
    said = run_tools.train(config, folder)
    with_first, _ = assemble.load_state(folder, "6")
    last, _ = assemble.load_state(folder, "latest")
    return with_first, last, said


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    with run_tools.one_device():
        yield


@pytest.fixture
def cached(compiled, tmp_path):
    return tmp_path


@pytest.mark.thorough
def test_a_locked_tower_with_batch_norm(cached):
    """LiT: parameters, statistics and moving averages of the image tower are still."""
    config = run_tools.tiny(RESNET, train__ema=0.9, **TINY, **IMAGE)
    first, last, _ = states(config, cached / "run")
    assert bits(first["params"]["image"]) == bits(last["params"]["image"])
    assert bits(first["model_state"]) == bits(last["model_state"])
    assert bits(last["ema"]["params"]["image"]) == bits(last["params"]["image"])
    assert bits(first["params"]["text"]) != bits(last["params"]["text"])
    image = {leaf.shape for leaf in jax.tree.leaves(last["params"]["image"])}
    rest = {k: v for k, v in last["params"].items() if k != "image"}
    shapes = image - {leaf.shape for leaf in jax.tree.leaves(rest)}
    moments = {np.shape(leaf) for leaf in jax.tree.leaves(last["opt_state"])}
    assert shapes and not shapes & moments  # none is allocated


@pytest.mark.thorough
def test_the_last_layers_unlocked(cached):
    groups = ((r"^image/stage_3/", 1.0, 1.0), (r"^image/", 0.0, 0.0))
    config = run_tools.tiny(RESNET, optim__groups=groups, **TINY)
    first, last, _ = states(config, cached / "run")
    for part in ("params", "model_state"):
        before, after = first[part]["image"], last[part]["image"]
        for name in before:
            assert (bits(before[name]) == bits(after[name])) == (name != "stage_3")


def outputs(frozen, key, dropout):
    changes = IMAGE if frozen else {}
    config = run_tools.tiny(model__image__dropout=dropout, **changes)
    made = run.prepare(config, run_tools.ROOT / "nowhere", True)
    variables = jax.jit(made.model.init)(jax.random.key(0))
    batch = {
        "image": np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), np.uint8),
        "text": np.ones((4, made.tokenizer.context_length), np.int32),
        "text_mask": np.ones((4, made.tokenizer.context_length), bool),
    }
    apply = jax.jit(made.model.apply, static_argnums=2)
    found, _ = apply(variables, batch, True, jax.random.key(key))
    return np.asarray(found["image_embed"])


@pytest.mark.thorough
def test_a_locked_tower_drops_nothing(cached):
    still = outputs(True, 1, 0.5)
    np.testing.assert_array_equal(still, outputs(True, 2, 0.5))
    np.testing.assert_array_equal(still, outputs(False, 1, 0.0))
    assert np.abs(outputs(False, 1, 0.5) - outputs(False, 2, 0.5)).max() > 1e-3


def test_nothing_left_to_train(cached):
    config = run_tools.tiny(optim__groups=((".", 0.0, 0.0),))
    with pytest.raises(UserError, match="freezes every parameter"):
        run.prepare(config, cached, True)


@pytest.mark.thorough
def test_batch_norm_in_micro_batches(cached):
    config = run_tools.tiny(RESNET, train__micro_batches=2, **TINY)
    with pytest.raises(UserError, match="norm_in_parts"):
        run.prepare(config, cached, True)
    run.prepare(run_tools.tiny(train__micro_batches=2), cached, True)
    config.train.norm_in_parts = True
    run.prepare(config, cached, True)


def test_layer_decay_by_hand():
    names = [
        "image/patch_embedding/kernel",
        "image/positions",
        "image/pre_norm/scale",
        "image/transformer/block_0/norm_1/scale",
        "image/transformer/block_1/mlp/fc1/kernel",
        "image/post_norm/bias",
        "image/pool/positions",
        "lora/image/transformer/block_0/mlp/fc1/kernel/down",
        "text/token_embedding",
        "text/stage_0/block_0/conv_1/kernel",
        "text/stage_0/block_1/conv_1/kernel",
        "text/stage_1/downsample_conv/kernel",
        "text/stage_1/block_0/conv_1/kernel",
        "text/stage_1/block_10/conv_1/kernel",
        "image_projection/kernel",
        "logit_scale",
    ]
    found = layer_decay.factors(names, 0.5)
    assert list(found.values()) == [
        *(0.125, 0.125, 0.125, 0.25, 0.5, 1.0, 1.0, 0.25),
        *(1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 4, 1 / 2, 1.0, 1.0),
    ]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["image/layer0/kernel", "image/layer1/kernel"], "no parameters in block_0"),
        (["text/block_0/kernel", "text/patchify/kernel"], "text/patchify/kernel is in"),
        (["lora/image/dense/kernel/down"], "no parameters in block_0"),
    ],
)
def test_layers_that_are_not_found_are_refused(names, message):
    """Not silently given the whole rate; without decay no names are looked at."""
    with pytest.raises(UserError, match=f"^optim.layer_decay=0.5: .*{message}"):
        layer_decay.factors(names, 0.5)
    assert set(layer_decay.factors(names, 1.0).values()) == {1.0}


@pytest.mark.thorough
def test_layer_decay_in_a_run(cached):
    config = run_tools.tiny("optim=sgd", optim__layer_decay=0.5)
    made = run.prepare(config, cached, True)
    params = jax.jit(made.model.init)(jax.random.key(0))["params"]
    gradient = jax.tree.map(lambda x: x * 0 + 1e-3, params)
    config.optim.layer_decay = 1.0
    plain = run.prepare(config, cached, True)
    steps = []
    for optim in (made.optim, plain.optim):
        state = optim.tx.init(params)
        steps.append(optim.tx.update(gradient, state, params, value=0.0)[0])
    block = ("image", "transformer", "block_0", "mlp", "fc1", "bias")
    for path, factor in ((block, 0.5), (("image", "class_token"), 0.25)):
        ours, theirs = steps
        for name in path:
            ours, theirs = ours[name], theirs[name]
        np.testing.assert_allclose(ours, factor * theirs, rtol=1e-6)
