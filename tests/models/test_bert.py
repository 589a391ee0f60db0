"""The BERT towers by themselves; weights/test_read_tower.py has others' results."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from marks import mostly

from clipjax.models.text import bert, distilbert
from clipjax.types import UserError
from clipjax.weights import read_tower

VOCAB, LENGTH = 23, 7
ROBERTA: dict[str, Any] = {"max_positions": 514, "first_position": 2, "token_types": 1}
SMALL: dict[str, Any] = {"width": 12, "depth": 1, "heads": 3, "max_positions": 9}


def variables_of(tower, dtype="f4"):
    """Noise; fresh biases of zero would hide errors."""
    draw = np.random.default_rng(0)

    def noise(path, leaf):
        one = "scale" in jax.tree_util.keystr(path)
        return (one + 0.3 * draw.standard_normal(leaf.shape)).astype(dtype)

    return jax.tree_util.tree_map_with_path(noise, read_tower.tower_shapes(tower))


@functools.partial(jax.jit, static_argnums=(0, 4))
def apply(tower, variables, text, mask, train=False, key=None):
    keys = None if key is None else {"dropout": key}
    return tower.apply(variables, text, mask, train, rngs=keys)


def batch(length=LENGTH):
    text = np.random.default_rng(1).integers(0, VOCAB, (3, length), "i4")
    return text, np.arange(length)[None] < np.array([[length], [1], [3]])


@pytest.mark.parametrize(
    ("tower", "count"),
    [
        (bert.make(30522, 512, pool="pooler"), 109_482_240),
        (bert.make(30522, 128, variant="tiny", pool="pooler"), 4_385_920),
        (distilbert.make(30522, 512), 66_362_880),
        (bert.make(50_265, 77, **ROBERTA), 124_055_040),
        *mostly(
            [
                (bert.make(250_002, 512, **ROBERTA), 277_453_056),
                (bert.make(250_002, 512, variant="large", **ROBERTA), 558_840_832),
            ],
            [],
        ),
    ],
)
def test_published_parameter_counts(tower, count):
    leaves = jax.tree.leaves(read_tower.tower_shapes(tower))
    assert sum(leaf.size for leaf in leaves) == count


@pytest.mark.parametrize("pool", bert.POOLS)
def test_padding_does_not_change_the_text(pool):
    tower = bert.make(VOCAB, LENGTH, pool=pool, **SMALL)
    assert tower.padding_invariant
    variables, (text, mask) = variables_of(tower), batch()
    found = apply(tower, variables, text, mask)["pooled"]
    other = np.where(mask, text, (text + 1) % VOCAB)
    same = apply(tower, variables, other, mask)["pooled"]
    np.testing.assert_allclose(same, found, atol=1e-6)
    changed = np.where(mask, (text + 1) % VOCAB, text)
    moved = apply(tower, variables, changed, mask)["pooled"]
    assert np.abs(moved - found).max(axis=1).min() > 1e-2
    whole = apply(tower, variables, text, np.ones_like(mask))["pooled"]
    assert np.abs(whole - found)[1:].max(axis=1).min() > 1e-3
    np.testing.assert_allclose(whole[0], found[0], atol=1e-6)


def test_the_first_token_takes_the_first_position():
    options = SMALL | {"max_positions": LENGTH + 2}
    tower = bert.make(VOCAB, LENGTH, first_position=2, **options)
    variables, (text, mask) = variables_of(tower), batch()
    found = apply(tower, variables, text, mask)["pooled"]
    plain = bert.make(VOCAB, LENGTH, **options | {"max_positions": LENGTH})
    table = variables["params"]["positions"]
    same = {"params": {**variables["params"], "positions": table[2:]}}
    expected = apply(plain, same, text, mask)["pooled"]
    np.testing.assert_array_equal(found, expected)


def test_values_that_are_finite_and_values_that_are_not():
    tower = bert.make(VOCAB, LENGTH, pool="mean", **SMALL)
    variables, (text, mask) = variables_of(tower), batch()
    mask[1] = False
    assert np.isfinite(apply(tower, variables, text, mask)["tokens"]).all()
    text[0, 1] = VOCAB
    found = np.asarray(apply(tower, variables, text, mask)["pooled"])
    assert np.isnan(found[0]).all() and np.isfinite(found[1:]).all()


def test_dropout_is_of_training_only():
    tower = bert.make(VOCAB, LENGTH, dropout=0.5, **SMALL)
    variables, (text, mask) = variables_of(tower), batch()
    calm = apply(tower, variables, text, mask)["pooled"]
    first, second = (
        apply(tower, variables, text, mask, True, jax.random.key(seed))["pooled"]
        for seed in (0, 1)
    )
    assert np.abs(first - second).max() > 0.1 < np.abs(first - calm).max()


def test_float64_and_bfloat16():
    tower = bert.make(VOCAB, LENGTH, pool="pooler", **SMALL)
    text, mask = batch()
    plain = apply(tower, variables_of(tower), text, mask)["pooled"]
    with jax.enable_x64(True):
        exact = apply(tower, variables_of(tower, "f8"), text, mask)["pooled"]
    assert exact.dtype == np.float64
    gap = np.abs(np.asarray(exact) - plain).max()
    assert 0 < gap < 1e-5
    half = tower.clone(dtype=jnp.bfloat16)
    short = apply(half, variables_of(tower), text, mask)["pooled"]
    assert short.dtype == jnp.bfloat16
    assert np.abs(np.asarray(short, "f4") - plain).max() < 0.1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variant": "huge"}, "text.variant='huge'"),
        ({"pool": "eot"}, "text.pool='eot'"),
        ({"activation": "relu"}, "text.activation='relu'"),
        ({"max_positions": 6}, "context_length=7: must be at most"),
        ({"first_position": 3}, "context_length=7: .* less first_position=3"),
        ({"first_position": -1}, "first_position=-1"),
        ({"token_types": -1}, "text.token_types=-1"),
        ({"heads": 5}, "text.heads=5"),
        ({"dropout": 1.0}, "text.dropout=1.0"),
        ({"norm_epsilon": 0.0}, "text.norm_epsilon=0.0"),
    ],
)
def test_options_that_cannot_be(options, message):
    with pytest.raises(UserError, match=message):
        bert.make(VOCAB, LENGTH, **SMALL | options)


def test_a_text_that_is_too_long():
    tower = bert.make(VOCAB, LENGTH, **SMALL)
    variables = variables_of(tower)
    with pytest.raises(UserError, match="text of 8 tokens"):
        apply(tower, variables, *batch(LENGTH + 1))
