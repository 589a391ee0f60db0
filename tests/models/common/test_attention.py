"""Attention by the fused kernel's route, with XLA in the kernel's place."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from marks import mostly

from clipjax.models.common import layers


@pytest.fixture
def lengths(monkeypatch):
    """The kernel's place is taken by XLA; what it is asked for is kept."""
    asked = []
    real = jax.nn.dot_product_attention

    def stand_in(query, key, value, *, implementation, **options):
        assert implementation == "cudnn"
        asked.append(query.shape[1])
        return real(query, key, value, implementation="xla", **options)

    monkeypatch.setattr(jax.nn, "dot_product_attention", stand_in)
    return asked


@pytest.mark.parametrize("causal", mostly([False, True], [True]))
@pytest.mark.parametrize("n", mostly([4, 5, 197], [5]))
def test_the_fused_route_is_attention_at_any_length(lengths, n, causal):
    keys = jax.random.split(jax.random.key(n), 4)
    *given, weights = (jax.random.normal(key, (2, n, 2, 8)) for key in keys)

    def gradients(attend):
        def value(query, key, value):
            return (attend(query, key, value, causal) * weights).sum()

        return jax.value_and_grad(value, (0, 1, 2))(*given)

    found = gradients(layers.fused_attention)
    plain = gradients(layers.attention)
    # What jax would refuse on a GPU: it differentiates even lengths alone.
    assert lengths == [n + n % 2]
    for one, two in zip(jax.tree.leaves(found), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(one, two, rtol=2e-4, atol=2e-5)


@pytest.mark.thorough
def test_half_precision_on_a_gpu_takes_the_fused_kernel(lengths, monkeypatch):
    monkeypatch.setattr(layers, "_has_fused_kernel", lambda query: True)
    x = jnp.ones((1, 3, 2, 8), jnp.bfloat16)
    layers.attention(x, x, x)
    assert lengths == [4]
    layers.attention(x, x, x, key_mask=jnp.ones((1, 3), bool))  # not with a mask
    assert lengths == [4]
