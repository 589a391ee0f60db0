"""Mixup and CutMix: what is mixed, by how much, the same on any number of devices."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from hypothesis import given, settings
from hypothesis import strategies as st

import run_tools
from clipjax import config, config_check, registry
from clipjax.engine import assemble, run, sharding
from clipjax.engine import state as states
from clipjax.engine.mixing import Mixing
from clipjax.engine.step import make_train_step
from clipjax.optim import factory
from clipjax.types import LossSpec, UserError

SIZE, CLASSES = 12, 16


def batch(count=16, labels=None, valid=None):
    draw = np.random.default_rng(0)
    return {
        "image": draw.integers(0, 256, (count, SIZE, SIZE, 3), np.uint8),
        "label": np.asarray(np.arange(count) if labels is None else labels, np.int32),
        "valid": np.ones(count, bool) if valid is None else np.asarray(valid),
        "image_id": np.arange(count, dtype=np.int32),
    }


@functools.cache
def compiled(mixing):
    return jax.jit(mixing)


def mix(given, seed=0, **shares):
    options = {"mixup": 0.0, "mixup_alpha": 1.0, "cutmix": 0.0, "cutmix_alpha": 1.0}
    made = compiled(Mixing(CLASSES, **options | shares))
    return jax.tree.map(np.asarray, made(given, jax.random.key(seed)))


def own_weight(mixed):
    """Of example i of labels 0, 1, ...; the rest must be the one before it."""
    weights = mixed["label_weights"]
    own = np.diagonal(weights)
    np.testing.assert_allclose(weights.sum(axis=1), 1, rtol=1e-6)
    previous = weights[np.arange(16), np.arange(-1, 15)]
    np.testing.assert_allclose(previous, 1 - own, atol=1e-6)
    return own


def test_mixup_by_hand():
    plain = batch()
    mixed = mix(plain, mixup=1.0)
    own = own_weight(mixed)
    assert mixed["image"].dtype == np.uint8 and len(set(own)) == 16
    x = plain["image"].astype(float)
    part = own[:, None, None, None]
    expected = part * x + (1 - part) * np.roll(x, 1, axis=0)
    assert np.abs(mixed["image"] - expected).max() <= 0.5 + 1e-3
    heavier = np.where(own < 0.5, np.roll(plain["label"], 1), plain["label"])
    np.testing.assert_array_equal(mixed["label"], heavier)
    np.testing.assert_array_equal(mixed["image_id"], plain["image_id"])


def test_cutmix_by_hand():
    plain = batch()
    found = set()
    for seed in range(4):
        mixed = mix(plain, seed, cutmix=1.0)
        own = own_weight(mixed)
        other = np.roll(plain["image"], 1, axis=0)
        for i in range(16):
            cut = (mixed["image"][i] != plain["image"][i]).any(axis=2)
            if not cut.any():
                assert own[i] == 1
                continue
            rows, columns = np.flatnonzero(cut.any(1)), np.flatnonzero(cut.any(0))
            box = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
            np.testing.assert_array_equal(mixed["image"][i][box], other[i][box])
            outside = mixed["image"][i].copy()
            outside[box] = plain["image"][i][box]
            np.testing.assert_array_equal(outside, plain["image"][i])
            area = len(range(*box[0].indices(SIZE))) * len(range(*box[1].indices(SIZE)))
            assert own[i] == pytest.approx(1 - area / SIZE**2, abs=1e-6)
            found.add(area)
    assert len(found) > 15


def test_shares_and_their_distribution():
    count = 4096
    large = {
        "image": np.zeros((count, 1, 1, 3), np.uint8),
        "label": np.arange(count, dtype=np.int32) % 2,
        "valid": np.ones(count, bool),
    }
    for alpha in (0.2, 1.0):
        mixed = mix(large, mixup=0.6, mixup_alpha=alpha)
        own = mixed["label_weights"][np.arange(count), np.arange(count) % 2]
        blended = own < 1
        assert abs(blended.mean() - 0.6) < 0.04 + 0.1 * (alpha < 1)  # 1 by rounding
        if alpha == 1.0:
            # Beta(a, a) has mean 1/2 and variance 1 / (4 (2 a + 1)).
            assert own[blended].mean() == pytest.approx(0.5, abs=0.03)
            assert own[blended].var() == pytest.approx(1 / 12, rel=0.1)
        else:  # of all, since those that round to 1 do not count as blended
            drawn = np.concatenate([own[blended], np.ones(round(0.6 * count))])
            drawn = drawn[: round(0.6 * count)]
            assert drawn.mean() == pytest.approx(0.5, abs=0.05)
            assert drawn.var() == pytest.approx(1 / 5.6, rel=0.05)


def test_both_at_once_and_nothing():
    plain = batch()
    mixed = mix(plain, mixup=0.5, cutmix=0.5)
    own = own_weight(mixed)
    same = (mixed["image"] == plain["image"]).all(axis=(1, 2, 3))
    np.testing.assert_array_equal(same, own == 1)
    # Blends differ nearly everywhere, patches in a rectangle alone.
    apart = (mixed["image"] != plain["image"]).any(axis=3).mean(axis=(1, 2))
    assert ((apart > 0.95) & (own < 1)).any() and ((apart < 0.9) & (own < 1)).any()


def test_a_key_gives_one_mixture():
    one, same, other = (mix(batch(), s, mixup=0.5, cutmix=0.5) for s in (1, 1, 2))
    for name in one:
        np.testing.assert_array_equal(one[name], same[name])
    assert (one["label_weights"] != other["label_weights"]).any()


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.booleans(), min_size=16, max_size=16),
    st.lists(st.booleans(), min_size=16, max_size=16),
    st.integers(0, 99),
)
def test_rows_that_do_not_count_leak_nothing(labelled, valid, seed):
    labelled, valid = np.array(labelled), np.array(valid)
    plain = batch(labels=np.where(labelled, np.arange(16), -1), valid=valid)
    counts = labelled & valid
    mixed = mix(plain, seed, mixup=0.5, cutmix=0.5)
    weights = mixed["label_weights"]
    np.testing.assert_allclose(weights.sum(axis=1), counts.astype(float), rtol=1e-6)
    assert not weights[:, ~counts].any()  # every row has a class of its own
    np.testing.assert_array_equal(mixed["label"] >= 0, counts)
    alone = ~counts | ~np.roll(counts, 1)
    np.testing.assert_array_equal(mixed["image"][alone], plain["image"][alone])


class Layers(nn.Module):
    @nn.compact
    def __call__(self, image):
        x = image.reshape(len(image), -1) / 255
        return {"logits": nn.Dense(CLASSES)(nn.relu(nn.Dense(32)(x)))}


@dataclasses.dataclass(frozen=True)
class Light:
    """A classifier that compiles in a moment."""

    image_output = "logits"
    module: Any = Layers()

    def init(self, key):
        return self.module.init(key, jnp.zeros((1, SIZE, SIZE, 3), jnp.uint8))

    def apply(self, variables, batch, train, key):
        return self.module.apply(variables, batch["image"]), {}


def step(devices, micro_batches=1, mixing=None):
    """(metrics, parameters) after a step of the light model over so many devices."""
    model = Light()
    loss = registry.load("loss", "cross_entropy")(LossSpec(64, 64, 16, 16, 4, 40))
    parameters = jax.eval_shape(lambda: model.init(jax.random.key(0)))["params"]
    section = config.base("optim=sgd,schedule=constant").optim
    optim = factory.make(section, 40, 4, parameters)
    mesh = jax.sharding.Mesh(
        np.array(jax.devices()[:devices]).reshape(devices, 1), ("data", "fsdp")
    )
    template = states.shapes(model, loss, optim, False, 0, mesh)
    state = states.initialise(model, loss, optim, False, 0, template)
    labels = np.where(np.arange(16) == 5, -1, np.arange(16))
    given = {**batch(labels=labels), "replaced": np.zeros(16, bool)}
    made = make_train_step(
        model,
        loss,
        optim,
        ema=0.0,
        max_logit_scale=100.0,
        micro_batches=micro_batches,
        mixing=mixing,
    )
    state, metrics = jax.jit(made)(state, sharding.put_batch(mesh, given))
    leaves = [np.ravel(leaf) for leaf in jax.tree.leaves(jax.device_get(state.params))]
    return jax.device_get(metrics), np.concatenate(leaves)


@pytest.mark.thorough
def test_the_step_is_the_same_on_8_devices_and_in_parts():
    mixing = Mixing(CLASSES, 0.5, 0.2, 0.5, 1.0)
    _, unmixed = step(1)
    one, parameters = step(1, mixing=mixing)
    assert np.abs(parameters - unmixed).max() > 1e-4
    other, moved = step(8, 2, mixing)
    assert float(other["loss"]) == pytest.approx(float(one["loss"]), rel=1e-6)
    np.testing.assert_allclose(moved, parameters, rtol=1e-5, atol=1e-7)


def test_the_loss_of_a_mixture_is_the_mixture_of_losses():
    """Cross-entropy is linear in its target: by hand from the weights."""
    mixed = mix(batch(), mixup=1.0)
    logits = np.random.default_rng(1).normal(size=(16, CLASSES)).astype(np.float32)
    loss = registry.load("loss", "cross_entropy")(LossSpec(64, 64, 16, 16, 4, 40))
    on_device = jax.tree.map(jnp.asarray, mixed)
    value, _, _ = loss({"logits": jnp.asarray(logits)}, on_device, {}, 0)
    own = own_weight(mixed)
    logs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    i = np.arange(16)
    expected = -(own * logs[i, i] + (1 - own) * logs[i, i - 1]).mean()
    assert float(value) == pytest.approx(expected, rel=1e-5)


def tiny(arg, **changes):
    return run_tools.tiny(arg, model__num_classes=6, data__label_set="shape", **changes)


@pytest.mark.thorough
def test_a_config_says_it(tmp_path):
    made = tiny("model=classifier", data__mixup=0.5, data__cutmix=0.5)
    config_check.validate(made)
    assert assemble.mixing(made) == Mixing(6, 0.5, 0.2, 0.5, 1.0)
    assert assemble.mixing(tiny("model=classifier")) is None
    with run_tools.one_device():
        assert run.prepare(made, tmp_path, True).mixing == assemble.mixing(made)
        with pytest.raises(UserError, match="data.mixup=0.5.*choose model=classifier"):
            run.prepare(run_tools.tiny(data__mixup=0.5), tmp_path, True)
        with pytest.raises(UserError, match="data.cutmix=1.0.*choose model=classifier"):
            run.prepare(run_tools.tiny(data__cutmix=1.0), tmp_path, True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data__mixup": -0.5}, "data.mixup=-0.5"),
        ({"data__mixup": 0.6, "data__cutmix": 0.6}, "together 1 at most"),
        ({"data__cutmix_alpha": 0.0}, "data.cutmix_alpha=0.0: must be above 0"),
    ],
)
def test_shares_that_cannot_be(changes, message):
    with pytest.raises(UserError, match=message):
        config_check.validate(tiny("model=classifier", **changes))
