"""The shapes and types on signatures are checked while tests run."""

import jax.numpy as jnp
import pytest
from jaxtyping import TypeCheckError

import tiny
from clipjax.losses.common import pairs
from clipjax.models.common import layers


def test_a_wrong_shape_raises():
    with pytest.raises(TypeCheckError, match="parameter 'columns'"):
        pairs.products(jnp.ones((2, 3)), jnp.ones((2, 4)))
    with pytest.raises(TypeCheckError, match="parameter 'mask'"):
        layers.masked_mean(jnp.ones((2, 3, 4)), jnp.ones((2, 4), bool))


def test_a_wrong_type_raises():
    outputs = {"image_embed": "no array"}
    with pytest.raises(TypeCheckError, match="parameter 'outputs'"):
        tiny.loss()(outputs, {}, {}, 0)
